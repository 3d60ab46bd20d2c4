"""The speed of training beside plain PyTorch, Pyro, NumPyro, pythae and bare matrix products.

`python scripts/benchmark.py` times whole epochs of each implementation in turn, prints the table
and which targets were reached, and writes `benchmark.json` and `benchmark.png`. `--suite` chooses
what is measured; `--table` prints the stored results and measures nothing. Peers are installed by
`pip install -e '.[benchmark]'`; one that is not installed is listed as such.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.plotting.style import to_png
from analysis.study_results import Parser, write_between_markers
from benchmarks import inference, report
from benchmarks.epochs import SuiteResult
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import IMAGE_SETS, Options, SkippedError, available_cores, made_by


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
            run(options, stored, shlex.join(["python", "scripts/benchmark.py", *typed]))
    except (ValueError, OSError, ImportError) as error:
        print(f"benchmark.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark.py: stopped; finished suites are stored", file=sys.stderr)
        return 130
    return 0


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
    )
    # Check now, rather than after an hour.
    report.read(stored)
    for name in report.SUITES if options.suite == "all" else [options.suite]:
        made = made_by(command, chosen.threads)
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
        help="The number of images from which `evaluation` extrapolates.",
    )
    add("--data", choices=IMAGE_SETS, default="mnist", help="The images.")
    add("--data-root", type=Path, help="The folder of data sets.")
    cores = whole_number(1, available_cores())
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
