"""How several runs differ: the options that are not the same, and how long each was trained."""

from collections.abc import Mapping, Sequence
from typing import Any

# What a run is not: where it was trained, and what was done afterwards.
_LEFT_OUT = ("device", "data_root", "evaluate", "model")
# Of an option that the part chosen does not have.
_ABSENT = "-"
_LONGEST = 32


def run_differences(
    configurations: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The options and facts that differ between runs, by name and run.

    Args:
        configurations: The options of each run, as in its config.yaml.
        facts: What else is known of each run, by name, such as the steps that it was trained.

    Returns:
        Only what differs; an option that a run's part does not have is absent there.

    >>> run_differences({"a": {"lr": 0.1, "prior": {"name": "vamp", "components": 5}},
    ...                  "b": {"lr": 0.1, "prior": {"name": "laplace"}}})
    {'prior': {'a': 'vamp', 'b': 'laplace'}, 'prior.components': {'a': 5}}
    """
    options = {run: _flat(configuration) for run, configuration in configurations.items()}
    found = {run: {**options[run], **(facts or {}).get(run, {})} for run in options}
    # Options first, in the order in which they are written.
    names = dict.fromkeys(
        name for source in (options, found) for each in source.values() for name in each
    )
    by_name = {
        name: {run: values[name] for run, values in found.items() if name in values}
        for name in names
    }
    return {
        name: values
        for name, values in by_name.items()
        if len(values) < len(found)
        or any(v != found[next(iter(found))][name] for v in values.values())
    }


def differences_report(
    differences: Mapping[str, Mapping[str, Any]], runs: Sequence[str], *, width: int
) -> list[str]:
    """Lines that say how runs differ: a table with a row an option and a column a run.

    Args:
        differences: As of `run_differences`.
        runs: The names of all runs, in order.
        width: The most characters of a line.
    """
    if not differences:
        return ["The runs do not differ in any option, nor in how long they were trained."]
    rows = {
        name: {run: _text(values.get(run, _ABSENT)) for run in runs}
        for name, values in differences.items()
    }
    return ["The runs differ in", *(f"  {line}" for line in run_table(rows, width - 2))]


def run_table(rows: Mapping[str, Mapping[str, str]], width: int) -> list[str]:
    """Lines of a table with a column a run; as many columns at a time as fit.

    Args:
        rows: The text of each cell, by row and run.
        width: The most characters of a line.
    """
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


def _flat(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the name under which they are typed: `prior`, `prior.components`."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        if name in _LEFT_OUT:
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
