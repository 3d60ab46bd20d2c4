"""The page of a comparison: log p(x) datum by datum, rate and distortion, representations."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from analysis.html_report.chart import Chart, library_script
from analysis.html_report.charts import comparison_charts
from analysis.html_report.facts import VERSIONS, bibtex_entry
from analysis.html_report.findings import overall
from analysis.html_report.numbers import Scalar, format_value
from analysis.html_report.page import chart_sources
from analysis.html_report.pictures import Picture, is_png
from analysis.html_report.render import render
from analysis.html_report.stored_run import StoredRun
from analysis.run_comparison import RECORDS
from pyro_vae.commands import as_typed
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.training.checkpoint import write_atomically

NAME = "report.html"
# The data in the table of the largest differences.
MOST_DATA = 10
CAPTIONS = {
    "comparison": "Mean log p(x) of each run below the best, with paired standard errors",
    "paired_differences": "Differences of log p(x), datum by datum",
    "rate_distortion": "Rate and distortion of each run",
    "label_efficiency": "How many labels does a classifier of each run's codes need?",
    "robustness": "Whose codes keep more when data are corrupted?",
}


def write_comparison(
    folder: Path,
    runs: Mapping[str, Path],
    left_out: Mapping[str, str],
    *,
    command: Sequence[str],
) -> Path:
    """Write the page of a comparison to `report.html` in its folder, atomically.

    Args:
        folder: The folder, with the records and figures of the comparison.
        runs: The directory of each run.
        left_out: The parts of the comparison that are not defined, with the reason.
        command: The words of the command that made it.

    Returns:
        The file.

    Raises:
        ValueError: If a record cannot be read.
        OSError: If the disk is full or the folder not writable.
    """
    path = folder / NAME
    text = as_typed(comparison_page(folder, runs, left_out, command=command))
    write_atomically(path, text.encode("utf-8", "replace"))
    return path


def comparison_page(
    folder: Path,
    runs: Mapping[str, Path],
    left_out: Mapping[str, str],
    *,
    command: Sequence[str],
) -> str:
    """The page of a comparison; see `write_comparison`."""
    evidence, representation = (
        json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        for name in RECORDS
    )
    first = evidence or representation
    header = next(iter(first["runs"].values()))
    compared, plane = evidence.get("comparison", {}), evidence.get("rate_distortion", {})
    readings = [each["reading"] for each in (compared, plane) if each]
    pictures = _pictures(folder, evidence, representation)
    provenance = {"command": shlex.join(command)}
    provenance |= {
        f"checkpoint of {name}": f"SHA-256 {each['checkpoint_sha256']}"
        for name, each in first["runs"].items()
    }
    provenance["seed of all draws"] = str(header["seed"])
    versions = [f"{name} {first[name]}" for name in (*VERSIONS, "git_commit") if first.get(name)]
    provenance["versions"] = ", ".join(versions)
    context = {
        "names": [*runs],
        "subject": f"{header['n']:,} {header['split']} {nouns()} of {header['data']}",
        "headline": _headline(compared),
        "readings": readings,
        "left_out": left_out,
        "runs": [_run_row(name, path, folder) for name, path in runs.items()],
        "differences": {
            option: {r: "default" if v is None else str(v) for r, v in values.items()}
            for option, values in first["differences"].items()
        },
        "evidence": _evidence_rows(compared),
        "by_datum": _largest_differences(evidence),
        "plane": _plane_rows(plane),
        "measures": representation.get("measures", {}),
        "representation": {
            name: record.get("reading", "")
            for name, record in representation.get("representation", {}).items()
        },
        "pictures": pictures,
        "charts": _charts(evidence),
        "provenance": provenance,
        "noun": noun(),
        "nouns": nouns(),
    }
    context["bibtex"] = bibtex_entry(
        folder.name,
        f"Comparison of {', '.join(runs)}: {context['subject']}",
        first,
        [*readings, f"seed {header['seed']}"],
    )
    record = {"command": shlex.join(command), "evidence": evidence}
    record |= {"representation": representation}
    scripts, styles = chart_sources() if context["charts"] else ([], [])
    return render("comparison.html.j2", context, record=record, scripts=scripts, styles=styles)


def _charts(evidence: Mapping[str, Any]) -> dict[str, Chart]:
    found = evidence.get("by_datum")
    if found is None or library_script() is None:
        return {}
    names = [each["name"] for each in evidence["comparison"]["models"]]
    values = {name: np.array(found["log_evidence"][name], np.float64) for name in names}
    finite = np.all([np.isfinite(each) for each in values.values()], axis=0)
    values = {name: each[finite] for name, each in values.items()}
    points = evidence["rate_distortion"]["models"]
    return comparison_charts(values, points, np.array(found["row"])[finite])


def _headline(compared: Mapping[str, Any]) -> str:
    models = compared.get("models", [])
    if not models:
        return "Representations side by side"
    best, *others = models
    clear = all(each["told_apart_from_best"] for each in others)
    return f"{best['name']} has the highest log p(x)" + ("" if clear else ", not clearly")


def _run_row(name: str, path: Path, folder: Path) -> dict[str, Any]:
    """The verdict on a run by itself, with the address of its own page."""
    run = StoredRun.read(path, check_data=False)
    verdict = overall(run.findings())
    page = run.directory.report
    # A file's address, in which Windows' separators are slashes.
    address = None
    if page.exists():
        address = quote(Path(os.path.relpath(page, folder)).as_posix())
    return {
        "name": name,
        "verdict": verdict,
        "address": address,
        "command": run.command("diagnose", "RUN"),
    }


def _evidence_rows(compared: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    nats = f"nats per {noun()}"
    rows = {}
    for rank, each in enumerate(compared.get("models", [])):
        share = each["khat_share_above"]
        rows[each["name"]] = {
            f"log p(x), {nats}": _with_error(each["log_evidence"], each["log_evidence_se"]),
            f"below the best, {nats}": "best"
            if rank == 0
            else _with_error(each["difference"], each["difference_se"]),
            "told apart": "" if rank == 0 else "yes" if each["told_apart_from_best"] else "no",
            "k-hat above its threshold": "not defined" if share is None else f"{share:.1%}",
            "stacking weight": f"{each['weight']:.2f}",
        }
    return rows


def _plane_rows(plane: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    nats = f"nats per {noun()}"
    return {
        each["name"]: {
            f"{term}, {nats}": _with_error(each[key], each[f"{key}_se"])
            for term, key in (("rate", "rate"), ("distortion", "distortion"), ("ELBO", "elbo"))
        }
        | {"collapsed": "yes" if each["collapsed"] else "no"}
        for each in plane.get("models", [])
    }


def _with_error(value: Scalar, error: Scalar) -> str:
    spread = "" if error is None else f" ± {format_value(error, error)}"
    return f"{format_value(value, error)}{spread}"


def _largest_differences(evidence: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The data on which the best run and the next differ most, either way."""
    found = evidence.get("by_datum")
    if not found:
        return {}
    names = [each["name"] for each in evidence["comparison"]["models"]]
    values = np.array([found["log_evidence"][name] for name in names], np.float64)
    difference = np.nan_to_num(values[0] - values[1])
    order = np.argsort(-np.abs(difference), kind="stable")[:MOST_DATA]
    return {
        f"row {found['row'][i]}": {
            **{name: format_value(float(values[k, i])) for k, name in enumerate(names)},
            f"{names[0]} minus {names[1]}": f"{difference[i]:+,.2f}",
        }
        for i in order
    }


def _pictures(
    folder: Path, evidence: Mapping[str, Any], representation: Mapping[str, Any]
) -> dict[str, Picture]:
    """The figures of a comparison, with texts from their readings."""
    compared = evidence.get("comparison", {}).get("reading", "")
    plane = evidence.get("rate_distortion", {}).get("reading", "")
    texts = {"comparison": compared, "paired_differences": compared, "rate_distortion": plane}
    for stem in ("label_efficiency", "robustness"):
        readings = [
            f"{name}: {record[stem]['reading']}"
            for name, record in representation.get("representation", {}).items()
            if "reading" in record.get(stem, {})
        ]
        texts[stem] = " ".join(readings)
    return {
        stem: Picture(stem, CAPTIONS[stem], f"{CAPTIONS[stem]}. {text}".replace("`", ""), content)
        for stem, text in texts.items()
        if (path := folder / f"{stem}.png").is_file() and is_png(content := path.read_bytes())
    }
