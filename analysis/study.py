"""A study: a table of cells, each a run, kept as they come and written into the README.

A cell is a dictionary of plain values with the `command` that gives it. Cells are kept in one JSON
file under "row/seed", written anew after each, so that a study that is stopped goes on where it was.
"""

import argparse
import csv
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae import load
from pyro_vae.configuration.components import load_data, prepare_data, to_yaml
from pyro_vae.configuration.parser import parse
from pyro_vae.data import PreparedData, default_root
from pyro_vae.evidence import evaluate, fixed_rows
from pyro_vae.runs.provenance import provenance
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.training.checkpoint import write_atomically

Cell = dict[str, Any]
Results = dict[str, Cell]

SVI_TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "svi_train.py"


class StudyError(RuntimeError):
    """A program of the study ended with an error, or gave no number."""


def study_parser(description: str, results: Path) -> argparse.ArgumentParser:
    """The options that all studies have.

    Args:
        description: The program's docstring, whose first line is shown.
        results: Where results are kept.
    """
    parser = argparse.ArgumentParser(
        description=description.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--again", action="store_true", help="Repeat what is there, too.")
    parser.add_argument("--table", action="store_true", help="Print the table; make nothing.")
    parser.add_argument("--write", type=Path, help="Put the table there; make nothing.")
    parser.add_argument("--results", type=Path, default=results, help="Where results are kept.")
    return parser


def run_study(
    name: str,
    options: argparse.Namespace,
    fill: Callable[[], None],
    tables: Callable[[Results], str],
) -> int:
    """Make what is not there, print or place the table, and return the program's exit code.

    Args:
        name: The program's, without its suffix, and that of the README's markers.
        options: What `study_parser` read.
        fill: Makes the cells.
        tables: Results to Markdown.
    """
    try:
        if not (options.table or options.write):
            fill()
        table = tables(read_results(options.results))
        if options.write:
            write_between_markers(options.write, name, table)
        else:
            print(table)  # noqa: T201 - what the program is for
    except (ValueError, OSError, ImportError, StudyError) as error:
        print(f"{name}.py: error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 1 if isinstance(error, StudyError) else 2
    except KeyboardInterrupt:
        print(f"{name}.py: stopped; the same command goes on with the next cell", file=sys.stderr)  # noqa: T201
        return 130
    return 0


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


def svi_train_command(arguments: Sequence[str]) -> str:
    """What to type, at the root of a checkout, to run `scripts/svi_train.py`."""
    return shlex.join(["python", "scripts/svi_train.py", *arguments])


def svi_train(
    arguments: Sequence[str], kept: Iterable[str], *, picture: Path | None = None
) -> Cell:
    """Run `scripts/svi_train.py` in a temporary directory; return these entries of metrics.json.

    Args:
        arguments: The program's, without `--out`.
        kept: Names of entries.
        picture: Where to keep its figure of samples from the prior; None to keep none.

    Raises:
        StudyError: If it ends with an error, which it has printed.
    """
    with trained(arguments) as run:
        if picture is not None:
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / "figures" / "prior_samples.png", picture)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {name: metrics[name] for name in kept}


@contextmanager
def trained(arguments: Sequence[str]) -> Iterator[Path]:
    """Run `scripts/svi_train.py`; its run directory is there as long as the context.

    Args:
        arguments: The program's, without `--out`.

    Raises:
        StudyError: If it ends with an error, which it has printed.
    """
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        _run_svi_train([*arguments, "--out", str(run)])
        yield run


def kept_run(run: Path, arguments: Sequence[str]) -> Path:
    """A trained and evaluated run that stays where it is: made, gone on with, or there already.

    Args:
        run: The run directory.
        arguments: Those of `scripts/svi_train.py`, without `--out`.

    Raises:
        StudyError: If the program ends with an error, which it has printed, or the directory holds a
            run by other arguments.
    """
    directory = RunDirectory(run)
    words = [*arguments, "--out", str(run)]
    if directory.config.exists():
        if directory.config.read_text(encoding="utf-8") != to_yaml(parse(words)):
            raise StudyError(f"{run} holds a run by other arguments: move it, or delete it.")
        if directory.metrics.exists():
            return run
        words = ["--resume", "--out", str(run)]
    _run_svi_train(words)
    return run


def _run_svi_train(words: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, str(SVI_TRAIN), *words], check=False)
    if done.returncode:
        raise StudyError(f"scripts/svi_train.py ended with exit code {done.returncode}.")


def with_test_data(run: Path, at_most: int) -> tuple[Any, PreparedData, Tensor]:
    """The VAE of a run, its prepared data, and fixed test data.

    Args:
        run: The run directory, of a program that the study itself has run.
        at_most: The number of test data.
    """
    vae: Any = load(run, trust_model_file=True)
    data = prepare_data(vae.configuration, load_data(vae.configuration, default_root()))
    test = data.fixed("test")
    return vae, data, test[fixed_rows(len(test), at_most)]


def evaluated(run: Path, *, at_most: int, num_samples: int = 1000) -> Cell:
    """What the VAE of a run is worth on fixed test data: a study's own number of them.

    `scripts/svi_train.py --evaluate quick` takes 1,000 of them, which is long where a datum is large.

    Args:
        run: The run directory, of a program that the study itself has run.
        at_most: The number of test data.
        num_samples: The number of draws for each.
    """
    vae, data, x = with_test_data(run, at_most)
    evaluation = evaluate(vae, x, num_samples=num_samples, progress=True)
    summary = evaluation.summary()
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    density = summary["log_evidence"]
    return {
        **summary,
        "bits_per_dim": None if density is None else data.bits_per_dim(density),
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "n_train": len(data.train),
        "epochs": len(epochs),
        **provenance(),
    }


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
    commands = {cell["command"].removesuffix(str(seed)) + "S" for seed, cell in cells.items()}
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
        ValueError: If the file has no such pair of markers.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = path.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{path} must hold {start} and, after it, {end}.")
    write_atomically(path, f"{before}{start}\n{text}\n{end}{after}".encode())
