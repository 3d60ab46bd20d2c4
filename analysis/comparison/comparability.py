"""Whether runs can be compared, and the options and facts in which they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Real
from torch import Tensor

from pyro_vae.data import PreparedData
from pyro_vae.runs.result_cache import digest

# The label of each field, in the order in which differences are reported: causes before
# consequences.
_LABELS = {
    "data": "data",
    "likelihood_support": "support of the likelihood",
    "levels": "levels",
    "binarisation": "binarisation",
    "dequantised": "dequantisation",
    "given_total": "counts given their total",
    "split": "split",
    "rows": "number of data",
    "x_digest": "values of the data (digest)",
}
# Entries of a configuration that do not describe the trained model.
_IGNORED = ("device", "data_root", "evaluate", "model")
_LONGEST = 32


class NotComparableError(ValueError):
    """The log densities of two runs are of different data, or in different units."""


@dataclass(frozen=True)
class DataRecord:
    """The data that a run's log p(x) is a density of.

    Args:
        run: The run's name.
        data: The name of the data set.
        likelihood_support: binary, unit, real, integers or counts. A probability of levels and a
            density on [0, 1] differ by a constant; a density of other values by its unit.
        levels: The number of levels of the raw values; None for other data.
        binarisation: dynamic, static or threshold; None if nothing was binarised.
        dequantised: Whether uniform noise was added to levels.
        given_total: Whether the likelihood is one of counts given their total.
        split: test, validation or train.
        rows: The number of examples.
        x_digest: Hexadecimal digits that differ if any value differs.
    """

    run: str
    data: str
    likelihood_support: str
    levels: int | None
    binarisation: str | None
    dequantised: bool
    given_total: bool
    split: str
    rows: int
    x_digest: str


def data_record(
    run: str,
    data: PreparedData,
    x: Real[Tensor, " n *event"],
    *,
    split: str = "test",
    given_total: bool = False,
) -> DataRecord:
    """The record of a run that is evaluated on x, rows of `data.fixed(split)`."""
    return DataRecord(
        run=run,
        data=data.dataset.name,
        likelihood_support=data.likelihood_support,
        levels=data.dataset.levels,
        binarisation=data.binarisation,
        # Levels may be scaled with or without noise; the description states it.
        dequantised="dequantised" in data.description,
        given_total=given_total,
        split=split,
        rows=len(x),
        x_digest=digest({"x": x}),
    )


def check_comparable(
    first: DataRecord, others: Sequence[DataRecord], *, what: str = "log p(x)"
) -> None:
    """Check that log p(x) of runs are comparable: forms of MNIST alone differ by 3 to 20 nats.

    Raises:
        NotComparableError: A ValueError of one line that names the two runs and both values.
    """
    for other in others:
        for name, label in _LABELS.items():
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise NotComparableError(
                    f"{what} of {first.run} and {other.run} do not compare: {label} {_value(one)} "
                    f"against {_value(two)}."
                )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def run_differences(
    configurations: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The options and facts that differ between runs, by name and run.

    Args:
        configurations: The options of each run, as in its config.yaml.
        facts: Other facts of each run, by name, such as the number of training steps.

    Returns:
        Only what differs. An option that the chosen part of a run does not have is missing there.

    >>> run_differences({"a": {"lr": 0.1, "prior": {"name": "vamp", "components": 5}},
    ...                  "b": {"lr": 0.1, "prior": {"name": "laplace"}}})
    {'prior': {'a': 'vamp', 'b': 'laplace'}, 'prior.components': {'a': 5}}
    """
    options = {run: _flatten(configuration) for run, configuration in configurations.items()}
    runs = {run: {**options[run], **(facts or {}).get(run, {})} for run in options}
    # Options first, in the order in which they are written.
    names = dict.fromkeys(
        name for source in (options, runs) for values in source.values() for name in values
    )
    differences = {}
    for name in names:
        values = {run: found[name] for run, found in runs.items() if name in found}
        first = next(iter(values.values()))
        if len(values) < len(runs) or any(value != first for value in values.values()):
            differences[name] = values
    return differences


def differences_report(
    differences: Mapping[str, Mapping[str, Any]], runs: Sequence[str], *, width: int
) -> list[str]:
    """Lines of at most `width` characters: a table with a row per option and a column per run."""
    if not differences:
        return ["The runs have the same options and training length."]
    rows = {
        name: {run: _text(values[run]) if run in values else "-" for run in runs}
        for name, values in differences.items()
    }
    return ["The runs differ in", *(f"  {line}" for line in run_table(rows, width - 2))]


def run_table(rows: Mapping[str, Mapping[str, str]], width: int) -> list[str]:
    """Lines of a table with a column per run, in blocks that fit into `width` characters."""
    label = max(map(len, rows))
    runs = list(next(iter(rows.values())))
    column = {run: max(len(run), *(len(row[run]) for row in rows.values())) for run in runs}
    lines: list[str] = []
    while runs:
        shown, used = [], label
        while runs and (not shown or used + 2 + column[runs[0]] <= width):
            shown.append(runs.pop(0))
            used += 2 + column[shown[-1]]
        lines += [""] if lines else []
        lines.append(" " * label + "".join(f"  {run:>{column[run]}}" for run in shown))
        for name, row in rows.items():
            cells = "".join(f"  {row[run]:>{column[run]}}" for run in shown)
            lines.append(f"{name:<{label}}{cells}")
    return lines


def _flatten(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their command-line names: `prior`, `prior.components`."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        if name in _IGNORED:
            continue
        if not isinstance(value, Mapping):
            flat[name] = value
            continue
        for inner, item in value.items():
            flat[name if inner == "name" else f"{name}.{inner}"] = item
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "null"
    text = f"{value:,}" if type(value) is int else str(value)
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"
