"""A study: a table of runs over seeds, stored cell by cell and written into a page of the docs.

A cell is a dictionary of plain values with the `command` that gives it. Cells are stored in one
JSON file under "row/seed", rewritten after each, so that a study that was stopped continues where
it was.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.study_results import (
    Cell,
    Column,
    Parser,
    Results,
    StudyError,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    read_results,
    shared_command,
    write_between_markers,
)
from pyro_vae import load
from pyro_vae.configuration import read_yaml
from pyro_vae.configuration.components import load_data, prepare_data, to_yaml
from pyro_vae.configuration.parser import parse
from pyro_vae.data import PreparedData, default_root
from pyro_vae.evidence import evaluate, fixed_rows
from pyro_vae.runs.run_directory import RunDirectory, provenance

ROOT = Path(__file__).resolve().parents[1]
SVI_TRAIN = "python scripts/svi_train.py"
# The entries of metrics.json that a cell keeps, where they are there.
METRICS = (
    *(
        "data",
        "binarisation",
        "scale",
        "prior",
        "likelihood",
        "posterior",
        "objective",
        "latent_dim",
    ),
    *("seed", "steps", "epochs", "n", "n_train", "log_evidence", "log_evidence_se"),
    *("log_evidence_samples", "elbo", "kl", "reconstruction", "bits_per_dim", "active_units"),
    *("khat_share_above", "parameters", "seconds_per_epoch", "torch", "pyro", "git_commit"),
)


@dataclass(frozen=True)
class Row:
    """A row of a study.

    Args:
        words: Its own options of `scripts/svi_train.py`, for `{words}` in the study's templates.
        title: Its name in the table; by default that of the row.
        command: Its template in place of the study's.
        make: Makes a cell from a seed and the options, for a row that is not a run of
            `svi_train.py`.
        once: Whether seeds change nothing.
    """

    words: str = ""
    title: str = ""
    command: str | None = None
    make: Callable[[int, argparse.Namespace], Cell] | None = None
    once: bool = False


@dataclass(frozen=True)
class Study:
    """Rows of runs, what is measured of each, and the table of it.

    Args:
        name: The name of the program and of the markers in the page.
        about: The program's docstring, whose first line is shown by `--help`.
        rows: The rows in the order of the table.
        command: What to type, at the root of a checkout, to get a cell: a template with `{row}`,
            `{words}`, `{seed}`, `{all_seeds}` and the names in `options`. The seed comes last.
        columns: Titles and functions from a row's cells to text. The first column is the row's
            title.
        note: A text below the table, or a function of the results.
        train: The template of `svi_train.py`'s options, if `command` runs the study itself.
        measure: Measures a trained run, from its directory, row and options; by default its
            metrics.json.
        options: Further options of the program with their defaults.
        seeds: The default seeds.
        findings: Lines below the note, from the results.
        draw: Draws the study's figures from the results and the options.
        first: The title of the first column.
        tables: The whole text from the results, in place of one table.
    """

    name: str
    about: str | None
    rows: Mapping[str, Row]
    command: str | Callable[[argparse.Namespace], str]
    columns: Sequence[Column] = ()
    note: str | Callable[[Results], str] = ""
    train: str | None = None
    measure: Callable[[Path, str, argparse.Namespace], Cell] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    findings: Callable[[Results], Iterable[str]] = lambda _: ()
    draw: Callable[[Results, argparse.Namespace], None] | None = None
    first: str = ""
    tables: "Callable[[Study, Results], str] | None" = None

    @property
    def stored(self) -> Path:
        """The file of the results, beside the program."""
        return ROOT / "scripts" / "studies" / f"{self.name}.json"

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the program and return its exit code."""
        options = self.parser().parse_args(arguments)
        try:
            if options.table and not options.results.exists():
                raise ValueError(f"there are no results at {options.results}.")
            if not (options.table or options.write):
                self.fill(options)
                if self.draw:
                    self.draw(read_results(options.results), options)
            text = self.text(read_results(options.results))
            if options.write:
                write_between_markers(options.write, self.name, text)
            else:
                print(text)  # noqa: T201 - the program's output
        except (ValueError, OSError, ImportError, StudyError) as error:
            print(f"{self.name}.py: error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
            return 1 if isinstance(error, StudyError) else 2
        except KeyboardInterrupt:
            print(f"{self.name}.py: stopped; the same command continues", file=sys.stderr)  # noqa: T201
            return 130
        return 0

    def parser(self) -> argparse.ArgumentParser:
        """The options of all studies, and this one's."""
        about = (self.about or "").partition("\n")[0]
        parser = Parser(prog=f"{self.name}.py", description=about, allow_abbrev=False)
        add, rows = parser.add_argument, list(self.rows)
        add("--only", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
        add("--seeds", nargs="+", type=int, default=list(self.seeds), help="The training seeds.")
        for name, default in self.options.items():
            if default is False:
                add(f"--{name}", action="store_true")
                continue
            kind = Path if default is None else type(default)
            add(
                f"--{name.replace('_', '-')}",
                type=kind,
                default=default,
                help=f"Default: {default}.",
            )
        add("--max-steps", type=int, help="Stop each training after this number of steps.")
        add("--again", action="store_true", help="Repeat stored cells, too.")
        add("--table", action="store_true", help="Print the table of stored cells.")
        add(
            "--write",
            type=Path,
            metavar="PAGE",
            help="Write that table between the page's markers.",
        )
        add("--results", type=Path, default=self.stored, help="The file of the stored cells.")
        return parser

    def fill(self, options: argparse.Namespace) -> None:
        """Make the cells that are not stored yet, and store each."""
        for name in options.only:
            for seed in options.seeds[:1] if self.rows[name].once else options.seeds:
                command = self.command_of(name, seed, options)
                make = partial(self.cell, name, seed, options)
                fill_cell(options.results, f"{name}/{seed}", command, make, again=options.again)

    def words_of(
        self, template: str, name: str, seed: int, options: argparse.Namespace
    ) -> list[str]:
        """A template's words for a row and a seed."""
        filled = template.format(
            **{
                **vars(options),
                "row": shlex.quote(name),
                "words": self.rows[name].words,
                "seed": seed,
                "all_seeds": " ".join(map(str, options.seeds)),
            }
        )
        words = shlex.split(filled)
        if options.max_steps is not None:
            # The seed stays last.
            words[-2:-2] = ["--max-steps", str(options.max_steps)]
        return words

    def command_of(self, name: str, seed: int, options: argparse.Namespace) -> str:
        """The command that gives a cell."""
        template = self.rows[name].command or self.command
        template = template if isinstance(template, str) else template(options)
        return shlex.join(self.words_of(template, name, seed, options))

    def cell(self, name: str, seed: int, options: argparse.Namespace) -> Cell:
        """Train a row with a seed and measure it."""
        row = self.rows[name]
        if row.make is not None:
            return row.make(seed, options)
        template = self.train or str(row.command or self.command).removeprefix(SVI_TRAIN)
        with trained(self.words_of(template, name, seed, options)) as run:
            return metrics_of(run) if self.measure is None else self.measure(run, name, options)

    def text(self, results: Results) -> str:
        """The table with its command, note and findings, in Markdown."""
        if not results:
            return "No cell has been made yet."
        if self.tables is not None:
            return self.tables(self, results)
        note = self.note if isinstance(self.note, str) else self.note(results)
        findings = "\n".join(f"- {line}" for line in self.findings(results))
        table = self.table(results, self.rows, self.columns)
        return "\n\n".join(
            part for part in (table, f"{note} {made_with(results)}", findings) if part
        )

    def table(self, results: Results, rows: Iterable[str], columns: Sequence[Column]) -> str:
        """A table of these rows, and below it their command once."""
        shown = {name: cells for name in rows if (cells := cells_of(results, name))}
        if not shown:
            return ""
        titles = {name: self.rows[name].title or name for name in shown}
        commands = {titles[name]: common_command(cells) for name, cells in shown.items()}
        own, text = shared_command(commands)
        seeds = {", ".join(map(str, cells)) for cells in shown.values()}
        header = [self.first, *(title for title, _ in columns)]
        if own:
            header.append("ROW")
        if len(seeds) > 1:
            header.append("S")
        elif " S`" in text:
            text += f"; S = {seeds.pop()}"
        lines = []
        for name, cells in shown.items():
            title = titles[name]
            line = [title, *(value(list(cells.values())) for _, value in columns)]
            if own:
                line.append(f"`{own[title]}`" if own[title] else "")
            if len(seeds) > 1:
                line.append(", ".join(map(str, cells)))
            lines.append(line)
        return f"{markdown(header, lines)}\n\n{text}."


def metrics_of(run: Path) -> Cell:
    """The entries of metrics.json that a cell keeps."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {name: metrics[name] for name in METRICS if name in metrics}


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
        StudyError: If the program ends with an error, which it has printed, or the directory holds
            a run by other arguments.
    """
    directory = RunDirectory(run)
    words = [*arguments, "--out", str(run)]
    if directory.config.exists():
        if to_yaml(read_yaml(directory.config)) != to_yaml(parse(words)):
            raise StudyError(f"{run} holds a run by other arguments: move it, or delete it.")
        if directory.metrics.exists():
            return run
        words = ["--resume", "--out", str(run)]
    _run_svi_train(words)
    return run


def _run_svi_train(words: Sequence[str]) -> None:
    program = ROOT / "scripts" / "svi_train.py"
    done = subprocess.run([sys.executable, str(program), *words], check=False)
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

    `scripts/svi_train.py --evaluate quick` takes 1,000 of them, which is long where an example is
    large.

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
