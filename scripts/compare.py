"""Compare trained runs on one page: log p(x) datum by datum, rate and distortion, representations.

`python scripts/compare.py RUN1 RUN2 ...` evaluates runs of the same data on the same held-out
examples and writes numbers, figures and report.html to runs/comparison. What is not defined for a
run, such as log p(x) of an autoencoder, is left out and named. `--only evidence` and `--only
representation` compute one half.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyro

from pyro_vae.cli import Parser, exit_process, open_run, run_program
from pyro_vae.commands import as_typed
from pyro_vae.runs.run_directory import RunDirectory, provenance

PARTS = ("evidence", "representation")
LIBRARIES = ("arviz_base", "arviz_plots", "arviz_stats", "matplotlib", "numpy", "scipy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(parser(), run, arguments, stopped="nothing was written")


def parser() -> Parser:
    """The options."""
    options = Parser("compare.py", "compare.py RUN RUN [RUN ...] [options]", __doc__)
    add = options.add_argument
    add("runs", metavar="RUN", nargs="+", type=Path, help="The run directories.")
    options.add_held_out_options()
    add(
        "--only",
        choices=PARTS,
        metavar="PART",
        help=f"One of {', '.join(PARTS)}. Default: both, as far as they are defined.",
    )
    add(
        "--against",
        metavar="DATA",
        help="Foreign data for representation, as for diagnose.py.",
    )
    options.add_common_options()
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="The directory to write. Default: runs/comparison, or the next free number.",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Compare the runs and write the page."""
    pyro.enable_validation(True)
    made_by = provenance(LIBRARIES)
    if len(options.runs) < 2:
        meant = as_typed("compare.py RUN1 RUN2", names=True)
        raise ValueError(f"a comparison needs at least two runs: {meant}.")
    if options.against is not None and options.only == "evidence":
        raise ValueError("--against needs the part representation: no other part uses it.")
    from analysis.html_report.comparison_page import write_comparison
    from analysis.result import UndefinedCheckError
    from analysis.run_comparison import RunComparison, check_output_dir, run_names

    names = run_names(options.runs)
    out = check_output_dir(options.out or RunDirectory.unused(Path("runs"), "comparison").path)
    runs = {name: open_run(options, path) for name, path in zip(names, options.runs, strict=True)}
    comparison = RunComparison(
        runs,
        {name: trained.rows(options.images) for name, trained in runs.items()},
        options.samples,
        options.seed,
        out,
        made_by,
    )
    reports, left_out = [], {}
    for part in PARTS if options.only is None else (options.only,):
        try:
            if part == "evidence":
                reports.append(comparison.evidence())
            else:
                reports.append(
                    comparison.representation(
                        options.against,
                        options.images,
                        data_root=options.data_root,
                        trust_model_file=options.trust_model_file,
                    )
                )
        except UndefinedCheckError as error:
            # An error if it was asked for, and where nothing else is left.
            if options.only is not None:
                raise
            left_out[part] = str(error)
    if not reports:
        raise ValueError(" ".join(left_out.values()))
    comparison.write(reports)
    for part, reason in left_out.items():
        print(f"{part}: left out. {reason}")
    page = write_comparison(
        out, dict(zip(names, options.runs, strict=True)), left_out, command=command(options)
    )
    print(f"\n{page} compares the runs; numbers and figures are beside it")


def command(options: argparse.Namespace) -> list[str]:
    """The words of the command, without options at their defaults."""
    default = parser().parse_args(["RUN"])
    words = [str(path) for path in options.runs]
    for name in ("split", "images", "samples", "only", "against", "seed"):
        if (value := getattr(options, name)) != getattr(default, name):
            words += [f"--{name}", "all" if value is None else str(value)]
    return [
        "python",
        "scripts/compare.py",
        *words,
        *["--trust-model-file"] * options.trust_model_file,
    ]


if __name__ == "__main__":
    exit_process(main())
