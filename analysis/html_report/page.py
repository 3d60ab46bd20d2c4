"""The page of a run: its stored files as one self-contained HTML file that starts with a verdict.

The page loads nothing: figures are data URIs, and scripts and styles are allowed by their hashes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from analysis import stored_diagnosis
from analysis.html_report.chart import Chart, library_script, script, style
from analysis.html_report.facts import (
    bibtex,
    data_facts,
    flatten,
    provenance_facts,
    training_facts,
)
from analysis.html_report.findings import overall
from analysis.html_report.numbers import Number, diagnosis_numbers, evaluation_numbers
from analysis.html_report.pictures import Picture, diagnosis_sections, pictures_of_run, shrink
from analysis.html_report.render import compile_templates, render
from analysis.html_report.stored_run import Missing, StoredRun
from analysis.run_figures import write_figures
from pyro_vae.commands import as_typed
from pyro_vae.data.nouns import use_noun
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.training.checkpoint import write_atomically

# The sections of a page after data and training, and the sections of a diagnosis in each.
SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "predictive": ("Predictive checks", ("predictive", "calibration", "pit")),
    "elbo": ("The ELBO taken apart", ("elbo",)),
    "guide": ("Quality of the guide", ("guide",)),
    "representation": ("Representation", ("representation",)),
    "program": ("The program's own figures", ()),
}
PARTS = {"predictive": "Generated data", "calibration": "Forecasts", "pit": "Ranks (PIT)"}
# The section of each chart besides learning curves.
CHARTS = {"codes": "representation", "khat": "guide", "checks": "predictive"}
CHARTS |= {"rate_distortion": "elbo", "dimensions": "elbo"}
LEVELS = {"bad": "Bad", "suspicious": "Suspicious", "good": "Good", "unknown": "Not known"}


@dataclass(frozen=True)
class Part:
    """A section of a diagnosis in a section of a page.

    Args:
        name: The name of the section of the diagnosis.
        title: Its title; empty if it is the only one.
        question: The question that it answers.
        headline: The numbers to read first.
        readings: What each check found.
        left_out: Why a check is not defined.
        numbers: All its numbers.
        stale: Why it is stale; None if it is not.
        command: The command that computes it again.
        pictures: Its figures.
    """

    name: str
    title: str
    question: str
    headline: Mapping[str, str]
    readings: Mapping[str, str]
    left_out: Mapping[str, str]
    numbers: Sequence[Number]
    stale: str | None
    command: str
    pictures: Sequence[Picture]


def write_report(
    directory: Path,
    *,
    explorer: str | None = None,
    interactive: bool = True,
    check_data: bool = True,
) -> Path:
    """Write the page of a run to `report.html` in its directory, atomically.

    Args:
        directory: The run directory.
        explorer: The data of the latent explorer, as JSON; None for a page without it.
        interactive: Whether to draw charts whose values can be read, besides the figures.
        check_data: Whether to compare the file of the data with that of training.

    Returns:
        The file.

    Raises:
        ValueError: If there is no run.
        OSError: If the disk is full or the directory not writable; an old page is then unchanged.
    """
    run = StoredRun.read(directory, check_data=check_data)
    path = run.directory.report
    text = as_typed(run_page(run, explorer=explorer, interactive=interactive))
    # Names of files may hold bytes that are not text.
    write_atomically(path, text.encode("utf-8", "replace"))
    return path


def write_figures_and_report(figures: Mapping[str, Callable[[], bytes]], directory: Path) -> Path:
    """Write the figures of a training, and then its page, without charts.

    Args:
        figures: See `write_figures`.
        directory: The run directory.

    Returns:
        The page.
    """
    # While another process draws.
    compile_templates()
    write_figures(figures, RunDirectory(directory).figures)
    return write_report(directory, interactive=False, check_data=False)


def mark_stale(directory: RunDirectory) -> None:
    """After more training, mark the sections of a diagnosis and write an existing page again."""
    if directory.diagnosis.is_dir():
        stored_diagnosis.mark_stale(directory.diagnosis, directory.checkpoint)
    if directory.report.exists():
        write_report(directory.path, interactive=False, check_data=False)


def run_page(run: StoredRun, *, explorer: str | None = None, interactive: bool = True) -> str:
    """The page of a run; see `write_report`."""
    with use_noun(run.noun):
        charts = run_charts(run) if interactive else {}
    pictures, unreadable = pictures_of_run(run)
    smaller = shrink([each for section in pictures.values() for each in section])
    pictures = {name: [smaller(each) for each in section] for name, section in pictures.items()}
    found = run.findings()
    parts = _parts(run, pictures)
    missing = [*run.missing, *_sections_missing(run, parts)]
    missing += [Missing(f"The figure {name}: the file is not a picture.") for name in unreadable]
    context = {
        "run": run,
        "overall": overall(found),
        "groups": {level: [each for each in found if each.level == level] for level in LEVELS},
        "levels": LEVELS,
        "missing": missing,
        "data_facts": data_facts(run),
        "notes": (run.metrics or {}).get("notes") if run.contract is None else run.contract.notes,
        "training": training_facts(run),
        "options": flatten(run.configuration),
        "evaluation": evaluation_numbers(run),
        "sections": {
            name: (title, [parts[each] for each in names if each in parts], pictures.get(name, []))
            for name, (title, names) in SECTIONS.items()
            if name in pictures or name in charts or parts.keys() & {*names}
        },
        "pictures": pictures,
        "charts": charts,
        "stems": {each.stem for section in pictures.values() for each in section},
        "provenance": provenance_facts(run),
        "bibtex": bibtex(run),
    }
    record = {
        "run": str(run.directory.path),
        "overall": asdict(context["overall"]),
        "findings": [asdict(each) for each in found],
        "missing": [asdict(each) for each in missing],
        "provenance": context["provenance"],
        "metrics": run.metrics,
        "configuration": run.configuration,
    }
    scripts, styles = chart_sources() if charts else ([], [])
    data = {}
    if explorer is not None:
        from analysis.html_report.explorer import explorer_script, explorer_style

        scripts, styles = [*scripts, explorer_script()], [*styles, explorer_style()]
        data["explorer-data"] = explorer
    return render("run.html.j2", context, record=record, scripts=scripts, styles=styles, data=data)


def run_charts(run: StoredRun) -> dict[str, dict[str, Chart]]:
    """The charts of a run by section of the page and name; none without their library."""
    if library_script() is None:
        return {}
    names = () if run.contract is None else run.contract.label_names
    from analysis.html_report import charts

    found = charts.run_charts(
        run.history, run.metrics, run.diagnosis, run.inference_data(), label_names=names
    )
    sections: dict[str, dict[str, Chart]] = {}
    for name, each in found.items():
        section = "training" if name.startswith("learning_") else CHARTS[name]
        sections.setdefault(section, {})[name] = each
    return sections


def chart_sources() -> tuple[list[str], list[str]]:
    """The scripts and style sheets of charts."""
    library = library_script()
    assert library is not None
    return [library, script()], [style()]


def _parts(run: StoredRun, pictures: Mapping[str, Sequence[Picture]]) -> dict[str, Part]:
    """The sections of the diagnosis by name."""
    if run.diagnosis is None:
        return {}
    from analysis.sections import SECTIONS as CHECKS

    parts = {}
    options = run.options_of_diagnosis
    for name, record in diagnosis_sections(run).items():
        checks = {key: each for key, each in record.items() if isinstance(each, dict)}
        left_out = {
            key: str(each["left_out"])
            for key, each in checks.items()
            if isinstance(each.get("left_out"), str)
        }
        if isinstance(record.get("left_out"), str):
            left_out[name] = record["left_out"]
        parts[name] = Part(
            name,
            PARTS.get(name, ""),
            CHECKS[name].question,
            record.get("numbers") or {},
            {key: str(each["reading"]) for key, each in checks.items() if each.get("reading")},
            left_out,
            diagnosis_numbers(name, record, run.noun),
            record.get("stale"),
            run.command("diagnose", "RUN", "--only", name, *options),
            pictures.get(f"diagnosis/{name}", []),
        )
    return parts


def _sections_missing(run: StoredRun, parts: Mapping[str, Part]) -> list[Missing]:
    """The sections that a diagnosis does not have, and those that are stale."""
    if run.diagnosis is None:
        return []
    absent = [name for _, names in SECTIONS.values() for name in names if name not in parts]
    options = run.options_of_diagnosis
    missing = []
    if absent:
        what = f"Sections of the diagnosis that were not computed: {', '.join(absent)}."
        again = run.command("diagnose", "RUN", "--only", *absent, *options)
        missing.append(Missing(what, again))
    if stale := [name for name, part in parts.items() if part.stale]:
        what = f"Sections of the diagnosis that are stale: {', '.join(stale)}."
        again = run.command("diagnose", "RUN", "--only", *stale, *options)
        missing.append(Missing(what, again))
    return missing
