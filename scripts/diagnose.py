"""Diagnose a trained VAE: all checks of `analysis` in one command.

`python scripts/diagnose.py RUN` takes a run directory of `scripts/svi_train.py`, writes figures
and diagnosis.json to RUN/diagnosis/, and RUN/report.html, the page that says whether to trust the
model; `--only report` writes that page from what is stored. `--only SECTION` computes one section
and keeps the others; those of another checkpoint, other data or other options are marked stale.
`--only representation` asks what the codes are good for. `scripts/compare.py` compares several
runs.
"""

import gc

# Importing torch creates a million objects and no garbage: collecting costs 15 % of start-up.
gc.disable()

import argparse
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyro

from analysis.html_report.explorer import explorer_payload
from analysis.html_report.page import write_report
from analysis.plotting.style import to_png
from analysis.report import answers_text, insert_run, section_text, wrap
from analysis.result import AGAIN
from analysis.section_processes import ComputedSection, compute_sections
from analysis.sections import GROUPS, SECTIONS, WEIGHTED
from analysis.stored_diagnosis import StoredDiagnosis
from pyro_vae.cli import Parser, exit_process, in_one_line, open_run, run_program
from pyro_vae.commands import as_typed
from pyro_vae.data.nouns import set_noun
from pyro_vae.runs.run_directory import RunDirectory, provenance

if TYPE_CHECKING:
    from analysis.check import SectionResult

gc.enable()
# No later collection looks at what was imported.
if not gc.get_freeze_count():
    gc.freeze()

# The sections of the bare command.
DEFAULT_SECTIONS = tuple(name for name, section in SECTIONS.items() if section.default)
# Of `--only`: the page alone.
PAGE = "report"
LIBRARIES = ("arviz_base", "arviz_plots", "arviz_stats", "matplotlib", "numpy", "scipy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(
        parser(),
        run,
        arguments,
        stopped="finished sections are kept, nothing else was written",
    )


def parser() -> Parser:
    """The options."""
    options = Parser("diagnose.py", "diagnose.py RUN [options]", __doc__)
    add = options.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="The run directory.")
    options.add_held_out_options()
    add(
        "--only",
        nargs="+",
        choices=(*SECTIONS, PAGE),
        metavar="SECTION",
        help=f"Which of {', '.join(SECTIONS)}; or {PAGE}, to write report.html from what is "
        f"stored. Default: {', '.join(DEFAULT_SECTIONS)}, as far as they are defined.",
    )
    add(
        "--against",
        metavar="DATA",
        help="Foreign data for representation, a name or path as for svi_train.py: can the run "
        "tell them from its own, and are its codes useful there? Default: data derived from its "
        "own.",
    )
    options.add_common_options()
    return options


def run(options: argparse.Namespace) -> None:
    """Diagnose the run, or write its page alone."""
    pyro.enable_validation(True)
    made_by = provenance(LIBRARIES)
    if len(options.runs) > 1:
        raise ValueError(
            f"one run is diagnosed at a time, got {len(options.runs)}: `python "
            "scripts/compare.py RUN1 RUN2` compares several."
        )
    if options.against is not None and "representation" not in (options.only or ()):
        raise ValueError("--against needs --only representation: no other section uses it.")
    if options.only == [PAGE]:
        write_page(options)
    else:
        diagnose(options, made_by)


def diagnose(options: argparse.Namespace, made_by: dict[str, str | None]) -> None:
    """Compute the sections of one run and write each as soon as it is finished."""
    trained = open_run(options, options.runs[0])
    set_noun(trained.data.dataset.noun)
    from analysis.check import UNDEFINED
    from analysis.result import UndefinedCheckError
    from analysis.run_subject import (
        dependencies,
        diagnosis_header,
        foreign_of_run,
        subject_of_run,
    )
    from analysis.subject import Steps

    foreign = foreign_of_run(
        trained,
        options.against,
        options.images,
        data_root=options.data_root,
        trust_model_file=options.trust_model_file,
    )
    print(f"{trained.data.description}\n{trained.directory.path}/", flush=True)
    stored = StoredDiagnosis(trained.directory.diagnosis)
    names = [name for name in SECTIONS if name in (options.only or DEFAULT_SECTIONS)]
    steps = {name: SECTIONS[name].steps(name) for name in names}
    started = time.perf_counter()
    sections: dict[str, SectionResult | None] = {}
    with closing(Steps({s for each in steps.values() for s in each}, visible=True)) as step:
        subject = subject_of_run(
            trained,
            trained.rows(options.images),
            num_samples=options.samples,
            seed=options.seed,
            step=step,
            foreign=foreign,
            report=lambda text: print(text, flush=True),
        )
        depends_on = dependencies(subject, trained)

        def compute(name: str) -> ComputedSection:
            begun = time.perf_counter()
            files: dict[str, bytes] = {}
            section = None
            try:
                found = SECTIONS[name].run(name, subject)
            except UndefinedCheckError as error:
                # An error if the section was requested; otherwise it is just not defined here.
                if options.only:
                    raise
                record = {"left_out": in_one_line(error)}
            else:
                with step(f"{name}: figures"):
                    files = {key: to_png(figure) for key, figure in found.figures.items()}
                record = {**found.record, "figures": found.captions, "numbers": found.numbers}
                section = replace(found, figures={}, results={})
            step.finish(steps[name])
            return ComputedSection(section, record, files, time.perf_counter() - begun)

        if set(names) >= WEIGHTED:
            # With all threads, for the processes of both sections.
            with suppress(*UNDEFINED):
                _ = subject.evaluation
        groups = [[name for name in group if name in names] for group in GROUPS]
        with closing(compute_sections(list(filter(None, groups)), compute, step)) as computed:
            for name, found in computed:
                sections[name] = found.section
                against = {"against": options.against} if name == "representation" else {}
                stored.put(
                    name,
                    found.record,
                    found.files,
                    of={**depends_on, **against},
                    seconds=found.seconds,
                    header={
                        **diagnosis_header(
                            trained,
                            n=len(subject.x),
                            num_samples=options.samples,
                            seed=options.seed,
                        ),
                        "n_train": len(trained.data.train),
                        "data_sets": subject.data_sets,
                        "seconds": {"total": time.perf_counter() - started, "steps": step.seconds},
                        **made_by,
                    },
                )
    seconds = stored.record["seconds"]["sections"]
    text = [
        section_text(name, sections[name], stored.record[name], seconds[name]) for name in names
    ]
    if kept := kept_sections(stored, names, options):
        text += ["", *kept]
    text += answers_text(stored.record["answers"])
    # Printed commands name this run, and trust its model file as this command did.
    place = f"{trained.directory.path}{' --trust-model-file' * options.trust_model_file}"
    print(as_typed(insert_run("\n".join(text), place)))
    explorer = explorer_payload(trained)
    page = write_report(trained.directory.path, explorer=explorer, check_data=False)
    print(f"\nnumbers and figures are in {trained.directory.diagnosis}/")
    print(f"{page} says whether to trust the model")


def write_page(options: argparse.Namespace) -> None:
    """Write report.html from what is stored; without its explorer if the run cannot be read."""
    explorer = None
    try:
        explorer = explorer_payload(open_run(options, options.runs[0]))
    except ValueError as error:
        if not RunDirectory(options.runs[0]).holds_a_run:
            raise
        print(f"without the latent explorer: {in_one_line(error)}")
    print(f"{write_report(options.runs[0], explorer=explorer)} is written from stored numbers")


def kept_sections(
    stored: StoredDiagnosis, names: Sequence[str], options: argparse.Namespace
) -> list[str]:
    """Sections of earlier commands, why they are stale, and the command that recomputes them."""
    lines, again = [], []
    for name, section in stored.sections.items():
        if name not in names:
            why = f"STALE, {section['stale']}" if section["stale"] else "up to date"
            lines += wrap(f"{name}: kept from an earlier command, {why}.")
            again += [name] * bool(section["stale"])
    if again:
        lines += wrap(
            "Recompute stale sections with "
            f"`{AGAIN.replace('SECTION', ' '.join(again))}{options_of_data(options)}`."
        )
    return lines


def options_of_data(options: argparse.Namespace) -> str:
    """The options that all sections depend on, as typed, without those at their defaults."""
    default = parser().parse_args(["RUN"])
    return "".join(
        f" --{name} {value if value is not None else 'all'}"
        for name in ("split", "images", "samples", "seed")
        if (value := getattr(options, name)) != getattr(default, name)
    )


if __name__ == "__main__":
    exit_process(main())
