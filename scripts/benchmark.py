"""The speed of training beside plain PyTorch, Pyro, NumPyro, pythae and bare matrix products.

`python scripts/benchmark.py` times whole epochs of each implementation in turn, prints the table
and which targets were reached, and writes `benchmark.json` and `benchmark.png`. `--suite` chooses
what is measured; `--table` prints the stored results and measures nothing. Peers are installed by
`pip install -e '.[benchmark]'`; one that is not installed is listed as such.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from analysis.plotting.style import to_png
from analysis.study_results import Parser, write_between_markers
from benchmarks import epochs, inference, report, start
from benchmarks.epochs import SuiteResult
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import IMAGE_SETS, Options, SkippedError, available_cores, made_by
from benchmarks.timing import ProcessError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(typed)
    stored = options.out / "benchmark.json"
    try:
        if options.write:
            page = report.page(stored_results(stored))
            write_between_markers(options.write, "benchmark", page)
        elif options.table:
            print(report.page(stored_results(stored)))
        else:
            with empty_cache():
                run(options, stored, typed_command(typed))
    except (ValueError, OSError, ImportError, ProcessError) as error:
        print(f"benchmark.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark.py: stopped; finished suites are stored", file=sys.stderr)
        return 130
    return 0


@contextmanager
def empty_cache() -> Iterator[None]:
    """A context with an empty cache of compiled graphs, so that earlier runs have no effect."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder),
    ):
        yield


def typed_command(typed: Sequence[str]) -> str:
    """The command to show, in which the baseline has no path of this machine."""
    words = [
        "CHECKOUT" if before == "--baseline" else word
        for before, word in zip(["", *typed], typed, strict=False)
    ]
    return shlex.join(["python", "scripts/benchmark.py", *words])


def run(options: argparse.Namespace, stored: Path, command: str) -> None:
    """Measure the suites, and store and print each when it is done.

    Raises:
        ValueError: If the data are missing, or the stored results are damaged.
    """
    chosen = Options(
        rounds=options.rounds,
        names=options.ways,
        images=options.images,
        data=options.data,
        data_root=None if options.data_root is None else str(options.data_root),
        threads=options.threads,
        say=lambda line: print(line, file=sys.stderr, flush=True),
        baseline=options.baseline,
        part=options.part,
    )
    # Check now, rather than after an hour.
    earlier = report.read(stored)
    for name in report.SUITES if options.suite == "all" else [options.suite]:
        parts = report.SUITES[name].parts
        if options.part is not None and options.part not in parts:
            known = ", ".join(parts) or "none"
            raise ValueError(f"--part of {name} must be one of {known}, got {options.part!r}.")
        made = made_by(command, chosen.threads)
        if options.add and name in earlier:
            check_same_origin(earlier[name]["made_by"], made)
            made = earlier[name]["made_by"]
            chosen = replace(chosen, stored=earlier[name])
        try:
            result = report.SUITES[name].run(chosen)
        except SkippedError as skipped:
            print(skipped)
            continue
        result["made_by"] = made
        stored.parent.mkdir(parents=True, exist_ok=True)
        report.write(stored, name, result)
        print(report.section(name, result), flush=True)
        if (figure := report.plot_benchmark(report.read(stored))) is not None:
            stored.with_suffix(".png").write_bytes(to_png(figure, dpi=110))
        print(f"written: {stored}", file=sys.stderr)


def check_same_origin(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a result may be added to.

    Raises:
        ValueError: If it is of another commit, other versions or another machine.
    """
    # Storing the first part of a result makes the checkout dirty.
    commits = [str(made["git_commit"]).removesuffix("-dirty") for made in (earlier, now)]
    for what, old, new in (
        ("commit", *commits),
        *((key, earlier[key], now[key]) for key in ("versions", "machine")),
    ):
        if old != new:
            raise ValueError(
                f"--add: the stored result has {what} {old}, and this has {what} {new}."
            )


def stored_results(path: Path) -> dict[str, SuiteResult]:
    """The stored results.

    Raises:
        ValueError: If there are none.
    """
    results = report.read(path)
    if not results:
        raise ValueError(f"{path} is not there: measure something first, or give --out.")
    return results


def parser() -> Parser:
    """The options."""
    assert __doc__ is not None
    options = Parser(
        prog="benchmark.py", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    add = options.add_argument
    add("--suite", choices=[*report.SUITES, "all"], default="cpu", help="What to measure.")
    add("--rounds", type=whole_number(1), default=5, help="The number of repetitions.")
    add("--ways", type=names, help=f"Only these of {', '.join(IMPLEMENTATIONS)}.")
    add(
        "--images",
        type=whole_number(inference.FEW + 1),
        default=300,
        help="The number of images from which `evaluation` and `scores` extrapolate.",
    )
    add("--data", choices=IMAGE_SETS, default="mnist", help="The images.")
    add("--data-root", type=Path, help="The folder of data sets.")
    cores = whole_number(1, available_cores())
    add(
        "--baseline",
        type=Path,
        help="A checkout, for `short`, `start` and `diagnosis`.",
    )
    parts = [*epochs.AXES, *start.TASKS]
    add("--part", choices=parts, help="The only axis of `scaling`, or task of `start`.")
    add("--add", action="store_true", help="Add to the stored result of --out.")
    add("--threads", type=cores, default=available_cores(), help="The number of cores to use.")
    add("--out", type=Path, default=Path("runs/benchmark"), help="The folder of results.")
    add("--table", action="store_true", help="Print the stored results of --out.")
    add("--write", type=Path, help="Write the stored results into this file.")
    return options


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""
    span = f"of at least {low}" if high is None else f"from {low} to {high}"

    def read(text: str) -> int:
        number = int(text) if text.isdecimal() else -1
        if number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be a whole number {span}, got {text!r}")
        return number

    return read


def names(text: str) -> tuple[str, ...]:
    """Names of implementations, separated by commas."""
    chosen = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in chosen if name not in IMPLEMENTATIONS]:
        raise argparse.ArgumentTypeError(
            f"must be of {', '.join(IMPLEMENTATIONS)}, got {', '.join(map(repr, unknown))}"
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
