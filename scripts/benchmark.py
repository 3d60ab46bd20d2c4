"""How fast training is, beside PyTorch by hand, Pyro, NumPyro, pythae and bare matrix products.

`python scripts/benchmark.py` times whole epochs of each way in turn, prints the table and which
targets were reached, and writes `benchmark.json` and `benchmark.png`. `--suite` chooses what is
measured, `--table` prints what is stored and measures nothing. Peers come with
`pip install -e '.[benchmark]'`; one that is not installed is listed so.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from analysis.study import write_between_markers
from benchmarks import evaluation, report
from benchmarks.figure import plot_benchmark
from benchmarks.images import IMAGE_SETS
from benchmarks.machine import made_by
from benchmarks.registry import WAYS
from benchmarks.suite import Options, Skipped, available_cores


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        self.exit(2, f"benchmark.py: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(typed)
    stored = options.out / "benchmark.json"
    try:
        if options.write_readme:
            write_between_markers(
                options.write_readme, "benchmark", report.page(stored_in(stored))
            )
        elif options.table:
            print(report.page(stored_in(stored)))
        else:
            run(options, stored, shlex.join(["python", "scripts/benchmark.py", *typed]))
    except (ValueError, OSError, ImportError) as error:
        print(f"benchmark.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark.py: stopped; suites that were finished are stored", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace, stored: Path, command: str) -> None:
    """Measure the suites asked for, and store and print each once it is done.

    Raises:
        ValueError: If the data are missing, or what is stored is damaged.
    """
    names = list(report.SUITES) if options.suite == "all" else [options.suite]
    root = None if options.data_root is None else str(options.data_root)
    chosen = Options(
        rounds=options.rounds,
        ways=options.ways,
        images=options.images,
        data=options.data,
        data_root=root,
        threads=options.threads,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    # Now, rather than after an hour.
    report.read(stored)
    for name in names:
        suite = report.SUITES[name]
        made = made_by(command, chosen.threads)
        try:
            result = suite.run(chosen)
        except Skipped as skipped:
            print(skipped)
            continue
        result["made_by"] = made
        stored.parent.mkdir(parents=True, exist_ok=True)
        report.write(stored, name, result)
        print(report.section(name, result, suite.table), flush=True)
        results = report.read(stored)
        if results.keys() - {"precision", "evaluation", "annealing"}:
            plot_benchmark(results).savefig(stored.with_suffix(".png"), dpi=110)
        print(f"written: {stored}", file=sys.stderr)


def stored_in(path: Path) -> dict[str, report.Result]:
    """The results stored.

    Raises:
        ValueError: If there are none.
    """
    results = report.read(path)
    if not results:
        raise ValueError(f"{path} is not there: measure something first, or say --out.")
    return results


def parser() -> Parser:
    """The command line."""
    assert __doc__ is not None
    made = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    made.add_argument(
        "--suite", choices=[*report.SUITES, "all"], default="cpu", help="What to measure."
    )
    made.add_argument(
        "--rounds", type=positive, default=5, help="How often everything is measured."
    )
    made.add_argument("--ways", type=ways, help=f"These ways alone, of {', '.join(WAYS)}.")
    made.add_argument(
        "--images",
        type=images,
        default=300,
        help="The images that `evaluation` extrapolates from.",
    )
    made.add_argument("--data", choices=IMAGE_SETS, default="mnist", help="The images.")
    made.add_argument("--data-root", type=Path, help="The folder of data sets.")
    made.add_argument("--threads", type=cores, default=available_cores(), help="Cores to use.")
    made.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="Where to write.")
    made.add_argument("--table", action="store_true", help="Print what is stored in --out.")
    made.add_argument("--write-readme", type=Path, help="Put what is stored into this file.")
    return made


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def images(text: str) -> int:
    """A number of images that a line can be drawn through."""
    if not text.isdecimal() or int(text) <= evaluation.FEW:
        raise argparse.ArgumentTypeError(
            f"must be a whole number above {evaluation.FEW}, got {text!r}"
        )
    return int(text)


def cores(text: str) -> int:
    """A number of cores that there are."""
    if not text.isdecimal() or not 1 <= int(text) <= available_cores():
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to {available_cores()}, got {text!r}"
        )
    return int(text)


def ways(text: str) -> tuple[str, ...]:
    """Names of ways, with commas between."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in WAYS]:
        raise argparse.ArgumentTypeError(
            f"must be of {', '.join(WAYS)}, got {', '.join(map(repr, unknown))}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
