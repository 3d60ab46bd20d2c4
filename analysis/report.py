"""Results as text for a terminal and as files."""

import csv
import io
import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from analysis.check import SectionResult
from pyro_vae.cli import in_one_line
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.evidence import ImportanceWeighting
from pyro_vae.json_values import to_jsonable
from pyro_vae.training.checkpoint import write_atomically

WIDTH = 100
# Replaces the run's path and the spaces of commands while text is wrapped: a command stays on one
# line, and a long path wraps no others.
_RUN = "\0RUN"
_SPACE = "\1"

# Labels and formats of numbers in an evaluation; a standard error stands beside its number.
LABELS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "reconstruction, E_q log p(x|z)",
    "kl": "KL(q(z|x) || p(z))",
    "bits_per_dim": "bits per dimension",
    "ess_median": "effective draws, median",
    "khat_share_above": "k-hat above threshold",
    "last_doubling": "gained by the last doubling of K",
    "above_importance_weighting": "above importance weighting",
    "acceptance": "proposals accepted",
    "ess": "effective chains",
    "shortfall": "expected shortfall",
    "lower": "lower bound",
    "upper": "upper bound",
    "gap": "upper - lower",
    "elbo_amortised": "ELBO of the encoder's guide",
    "elbo_local": "ELBO of local guides",
    "approximation": "approximation gap (family)",
    "amortisation": "amortisation gap (encoder)",
    "inference": "inference gap, both",
    "last_third": "gained by the last third of the steps",
}
FORMATS = {
    "bits_per_dim": ".4f",
    "ess_median": ".0f",
    "ess": ".1f",
    "khat_share_above": ".1%",
    "acceptance": ".1%",
}
# Settings, which are printed in the title.
TITLE_FIELDS = ("num_samples", "num_chains", "num_temperatures", "leapfrog_steps", "steps")

Row = tuple[str, str, str]


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Lines of label, number and note, aligned and indented."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]


def format_number(value: Any, form: str) -> str:
    """A number, or "not defined" for None."""
    return "not defined" if value is None else format(value, form)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """The entries of metrics.json as a table."""

    def number(name: str, form: str = ".2f") -> str:
        return format_number(metrics[name], form)

    def above(name: str) -> str:
        difference, error = metrics[f"above_{name}"], metrics[f"above_{name}_se"]
        if difference is None:
            return ""
        exact = "" if error is None else f" +- {error:,.2f}"
        where = "above" if difference >= 0 else "BELOW"
        return f": log p(x) is {abs(difference):,.2f}{exact} {where}"

    samples = metrics["log_evidence_samples"]
    about_evidence = (
        "the guide is a point: without its density there is no bound"
        if samples is None
        else f"nats +- {number('log_evidence_se')}, {samples:,} importance samples"
    )
    rows = [("log p(x)", number("log_evidence"), about_evidence)]
    if metrics["baseline"] is not None:
        what = f"nats, {metrics['baseline']}, no latent variables{above('baseline')}"
        rows.append(("baseline", number("baseline_log_density"), what))
    if (factors := metrics["factors"]) is not None:
        what = f"nats, {factors} factor{'' if factors == 1 else 's'}{above('factor_analysis')}"
        rows.append(("factor analysis", number("factor_analysis_log_density"), what))
    rows += [
        ("ELBO", number("elbo"), "nats = reconstruction - KL"),
        ("reconstruction", number("reconstruction"), "nats, E_q log p(x|z)"),
        ("KL", number("kl"), "nats, KL(q(z|x) || p(z))"),
        ("bits per dimension", number("bits_per_dim", ".4f"), ""),
        (
            "active units",
            number("active_units", "d"),
            # A program of several latent sites counts those of all.
            f"of {metrics.get('latent_units', metrics['latent_dim'])}",
        ),
        (
            "k-hat above threshold",
            number("khat_share_above", ".1%"),
            f"of {nouns()}: log p(x) is less certain there",
        ),
    ]
    if metrics["epochs"]:
        best = metrics["best_validation_epoch"]
        epoch = "not defined" if best is None else f"epoch {best}"
        rows.append(("best validation", epoch, f"of {metrics['epochs']}"))
    title = f"test split of {metrics['data']}, {metrics['n']:,} {nouns()}, mean per {noun()}"
    if metrics["scale"] != "none":
        title += ", densities in the units of the data"
    return "\n".join([title, *format_rows(rows)])


def evidence_text(method: str, record: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The result of a method of `scripts/evaluate.py` as a table, in nats per example.

    Args:
        method: The method's name.
        record: The record that is written, with its origin.
        summary: The entries of the record that the method computed.
    """
    settings = [
        f"{record[name]:,} {name.removeprefix('num_').replace('_', ' ')}"
        for name in TITLE_FIELDS
        if record.get(name) is not None
    ]
    if record["refine_steps"]:
        settings.append(f"guide refined by {record['refine_steps']:,} steps")
    title = (
        f"{method.replace('_', ' ')}: {record['n']:,} {record['split']} {nouns()} of "
        f"{record['data']}, means in nats per {noun()}; {', '.join(settings)}; "
        f"{record['seconds']:.1f} s"
    )
    rows = []
    for name in summary:
        if name in ("n", *TITLE_FIELDS) or name.endswith("_se") or isinstance(record[name], str):
            continue
        error = record.get(f"{name}_se")
        rows.append(
            (
                LABELS.get(name, name.replace("_", " ")),
                format_number(record[name], FORMATS.get(name, ".3f")),
                "" if error is None else f"+- {error:.3f}",
            )
        )
    return "\n".join(
        [
            "",
            *textwrap.wrap(title, WIDTH, subsequent_indent="  "),
            *format_rows(rows),
            *textwrap.wrap(record["trust"], 98, initial_indent="  ", subsequent_indent="  "),
        ]
    )


def scores_csv(result: ImportanceWeighting, rows: Tensor) -> str:
    """Log densities of each row in nats, in the order of the rows, as CSV."""
    columns = {
        "row": rows.numpy(),
        "log_evidence": result.log_evidence,
        "elbo": result.elbo,
        "reconstruction": result.reconstruction,
        "kl": result.kl,
        "ess": result.ess,
        "khat": np.full(len(rows), np.nan) if result.khat is None else result.khat,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    order = np.argsort(columns["row"])
    for values in zip(*(column[order] for column in columns.values()), strict=True):
        writer.writerow("" if np.isnan(value) else value for value in values)
    return text.getvalue()


def section_text(
    name: str, section: "SectionResult | None", record: Mapping[str, Any], seconds: float
) -> str:
    """A section of a diagnosis: its numbers, then its readings; see `insert_run`."""
    if section is None:
        return "\n".join(["", *wrap(f"{name}: left out. {record['left_out']}")])
    width = max(map(len, section.numbers), default=0)
    lines = [f"  {label:<{width}}  {number}" for label, number in section.numbers.items()]
    for part, reading in section.readings.items():
        lines += wrap(f"{part.replace('_', ' ')}: {reading}", "  ")
    for part, reason in section.left_out.items():
        lines += wrap(f"{part.replace('_', ' ')}: left out. {in_one_line(reason)}", "  ")
    return "\n".join(["", f"{name}, {seconds:.1f} s", *lines])


def answers_text(answers: Sequence[Mapping[str, str | None]]) -> list[str]:
    """Each question of a diagnosis with its answer and the section that gives it."""
    lines = ["", "answers"]
    width = max((len(str(each["question"])) for each in answers), default=0)
    for each in answers:
        stale = f"; STALE, {each['stale']}" if each["stale"] else ""
        lines.append(f"  {each['question']:<{width}}  {each['answer']} ({each['section']}{stale})")
    return lines if answers else []


def wrap(text: str, indent: str = "") -> list[str]:
    """Wrap text to a terminal's width, keeping commands in backticks whole; see `insert_run`."""
    text = re.sub(
        r"\x60[^\x60]*\x60",
        lambda command: command[0].replace(" RUN", f" {_RUN}").replace(" ", _SPACE),
        text,
    )
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


def insert_run(text: str, run: str) -> str:
    """Restore the spaces of commands in wrapped text, and name the run in them."""
    return text.replace(_RUN, run).replace(_SPACE, " ")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, atomically; what is not finite becomes null.

    Raises:
        OSError: If the disk is full or the folder not writable.
    """
    text = json.dumps(to_jsonable(record), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def write_reports(
    folder: Path, files: Mapping[str, bytes], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Replace a folder by records and their figures, or leave nothing.

    Args:
        folder: The folder.
        files: The figures by file name.
        records: The records by file name.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is then in it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for key, picture in files.items():
            write_atomically(folder / key, picture)
        # Last, so that a record lists only figures that exist.
        for name, record in records.items():
            write_json(folder / name, record)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
