"""Stored results of a study, and tables of them in Markdown."""

import argparse
import json
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_vae.training.checkpoint import write_atomically

Cell = dict[str, Any]
Results = dict[str, Cell]
Column = tuple[str, Callable[[list[Cell]], str]]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error, and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


class StudyError(RuntimeError):
    """A program of the study ended with an error, or gave no number."""


def read_results(path: Path) -> Results:
    """The cells stored, none if there is no file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def fill_cell(
    path: Path, name: str, command: str, make: Callable[[], Cell], *, again: bool = False
) -> None:
    """Make a cell and store it, unless it is there by the same command.

    Args:
        path: The results.
        name: "row/seed".
        command: What to type, at the root of a checkout, to get the cell.
        make: Gives the cell; its `log_evidence`, if it has one, must be a number, unless its
            `log_evidence_samples` are None, too: log p(x) is then not defined.
        again: Make it in any case.

    Raises:
        StudyError: If log p(x) is not finite.
    """
    if not again and read_results(path).get(name, {}).get("command") == command:
        print(f"{name} is there: {command}")  # noqa: T201 - a study's progress
        return
    print(f"{name}: {command}", flush=True)  # noqa: T201
    cell = make()
    defined = cell.get("log_evidence_samples", 0) is not None
    if defined and cell.get("log_evidence", 0.0) is None:
        raise StudyError(f"log p(x) of {name} is not finite; nothing was stored.")
    # Read anew: another process may have filled another cell.
    results = {**read_results(path), name: {"command": command, **cell}}
    results = {name: results[name] for name in sorted(results)}
    write_atomically(path, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


def cells_of(results: Results, row: str) -> dict[int, Cell]:
    """The cells of a row by seed, in order."""
    named = (name.partition("/") for name in results)
    seeds = sorted(int(seed) for name, _, seed in named if name == row)
    return {seed: results[f"{row}/{seed}"] for seed in seeds}


def common_command(cells: dict[int, Cell]) -> str:
    """The command of a row's cells, with S for the seed, which comes last.

    Raises:
        ValueError: If they were made by different commands: no mean is over those.
    """
    commands = {
        cell["command"].removesuffix(f" {seed}") + " S"
        if cell["command"].endswith(f" {seed}")
        else cell["command"]
        for seed, cell in cells.items()
    }
    if len(commands) > 1:
        raise ValueError(
            "the cells of a row must have one command but for the seed, got "
            f"{' and '.join(sorted(commands))}; run them again with one."
        )
    return commands.pop()


def mean_and_spread(values: Sequence[float | int | None], digits: int = 2) -> str:
    """The mean and, of several, the standard deviation; "not defined" if a value is not."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not numbers:
        return "not defined"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{spread}"


def differences(results: Results, row: str, other: str, of: str = "log_evidence") -> list[float]:
    """An entry of a row's cells less that of another's, seed by seed, where both are defined."""
    ours, theirs = cells_of(results, row), cells_of(results, other)
    pairs = [(ours[seed][of], theirs[seed][of]) for seed in sorted(ours.keys() & theirs.keys())]
    return [pair[0] - pair[1] for pair in pairs if None not in pair]


def nats_by_seed(gaps: Sequence[float]) -> str:
    """The mean of differences in nats, and each."""
    by_seed = ", ".join(f"{gap:+.2f}" for gap in gaps)
    return f"{statistics.mean(gaps):+.2f} nats (by seed {by_seed})"


def made_with(results: Results) -> str:
    """The versions and commits that made the results."""
    versions = sorted({f"torch {cell['torch']}, pyro {cell['pyro']}" for cell in results.values()})
    commits = sorted({(cell["git_commit"] or "none")[:10] for cell in results.values()})
    return f"Made with {'; '.join(versions)}; commit {', '.join(commits)}."


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what is between `<!-- name -->` and `<!-- /name -->` in a Markdown file.

    Raises:
        ValueError: If there is no such file, or it has no such pair of markers.
    """
    if not path.is_file():
        raise ValueError(f"there is no page {path} to write the table into.")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{path} must hold {start} and, after it, {end}.")
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())


def shared_command(commands: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The words of each row's command that are its own, and a sentence with those that rows share.

    >>> shared_command({"a": "python x.py -p a --seed S", "b": "python x.py -p b -l --seed S"})
    ({'a': 'a', 'b': 'b -l'}, 'Command: `python x.py -p ROW --seed S`')
    """
    words = [shlex.split(command) for command in commands.values()]
    shortest = min(map(len, words))
    first = next((i for i in range(shortest) if len({w[i] for w in words}) > 1), shortest)
    most = shortest - first
    last = next((i for i in range(most) if len({w[-1 - i] for w in words}) > 1), most)
    if first < 2:
        lines = (f"- {title}: `{command}`" for title, command in commands.items())
        return {}, "\n".join(lines)
    own = {
        title: shlex.join(w[first : len(w) - last])
        for title, w in zip(commands, words, strict=True)
    }
    row = ["ROW"] if any(own.values()) else []
    end = words[0][len(words[0]) - last :]
    sentence = (
        f"Command: `{' '.join([shlex.join(words[0][:first]), *row, shlex.join(end)]).strip()}`"
    )
    if all(value in (title, shlex.quote(title), "") for title, value in own.items()):
        own = {}
        sentence += " with the first column for ROW" if row else ""
    return own, sentence


def mean(name: str, digits: int = 2, *, sign: int = 1) -> Callable[[list[Cell]], str]:
    """A column of the mean and standard deviation of an entry; empty for a row without it."""

    def text(cells: list[Cell]) -> str:
        if name not in cells[0]:
            return ""
        values = [cell[name] for cell in cells]
        return mean_and_spread([v if v is None else sign * v for v in values], digits)

    return text


def gains(
    results: Results, rows: Iterable[str], baseline: str, of: str = "log_evidence"
) -> list[str]:
    """Each row's difference from the baseline in nats, over common seeds."""
    return [
        f"{row} less {baseline}: {nats_by_seed(gap)}"
        for row in rows
        if row != baseline and (gap := differences(results, row, baseline, of))
    ]
