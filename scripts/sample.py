"""Generate data from a trained VAE: samples, reconstructions, paths, traversals and completions.

`python scripts/sample.py RUN` draws new data from the model to RUN/samples/. A second word says
what else to generate: reconstructions, interpolations, traversals, manifold, classes or
completions. All numbers are in the units of the training data.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro

from analysis.generated import FORMATS, Generated
from analysis.plotting.generated import ANIMATIONS, animate, check_animation, plot_generated
from analysis.plotting.style import to_png
from analysis.run_samples import HALVES, RunSamples
from pyro_vae.cli import Parser, at_least, check_output, exit_process, open_run, run_program
from pyro_vae.data.nouns import set_noun
from pyro_vae.runs.run_directory import provenance
from pyro_vae.runs.trained_run import TrainedRun
from pyro_vae.training.checkpoint import write_atomically

# The options of each kind, beside those of all, with their defaults.
KINDS: dict[str, dict[str, Any]] = {
    "prior": {"n": 64, "noise": False},
    "reconstructions": {"n": 20, "rows": None, "noise": False},
    "interpolations": {"n": 8, "rows": None, "steps": 11, "path": "straight", "noise": False},
    "traversals": {"n": 10, "rows": None, "steps": 11, "dimensions": None, "noise": False},
    "manifold": {"steps": None, "dimensions": [0, 1], "noise": False},
    "classes": {"n": 10, "noise": False},
    "completions": {
        "n": None,
        "rows": None,
        "missing": None,
        "draws": 8,
        "method": "importance",
        "samples": 1000,
    },
}
OPTIONS = tuple(dict.fromkeys(name for options in KINDS.values() for name in options))
SUFFIXES = (".png", *ANIMATIONS, *FORMATS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(parser(), run, arguments, stopped="nothing was written")


def parser() -> Parser:
    """The options."""
    options = Parser(
        "sample.py",
        "sample.py RUN [KIND] [options]",
        __doc__,
        "--data NAME, or a path, and --data.OPTION: other data than the run's, with the options "
        "of svi_train.py, to reconstruct, interpolate, traverse or complete.",
        takes_data=True,
    )
    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add(
        "kind",
        metavar="KIND",
        nargs="?",
        choices=tuple(KINDS),
        default="prior",
        help=f"One of {', '.join(KINDS)}. Default: prior.",
    )
    add(
        "--n",
        type=at_least(1),
        metavar="N",
        help="How many: samples, of classes of each, rows, paths, or coordinates of traversals.",
    )
    add(
        "--rows",
        type=at_least(0),
        nargs="+",
        metavar="ROW",
        help="Rows of the split, or of the "
        "file given, from 0; the ends of paths in pairs. Default: the same ones at random.",
    )
    add("--split", choices=("train", "validation", "test"), default="test", help="Default: test.")
    add(
        "--given",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="A class or covariate "
        "of a clustering, semi_supervised or conditional program; may be repeated.",
    )
    add(
        "--path",
        choices=("straight", "spherical", "data"),
        help="Of interpolations; data: along the codes of the training data. Default: straight.",
    )
    add(
        "--steps",
        type=at_least(2),
        metavar="N",
        help="Points of a path, a traversal, or a side of the manifold.",
    )
    add(
        "--dimensions",
        type=at_least(0),
        nargs="+",
        metavar="J",
        help="Coordinates of the code, from 0: of traversals, or the two of the manifold.",
    )
    add(
        "--missing",
        metavar="SHARE|HALF|FILE",
        help="Of completions: the share of elements to "
        f"remove, one of {', '.join(HALVES)}, or a file of data with missing values.",
    )
    add("--draws", type=at_least(1), metavar="N", help="Draws of each completion. Default: 8.")
    add("--method", choices=("importance", "gibbs"), help="Of completions. Default: importance.")
    add(
        "--samples",
        type=at_least(25),
        metavar="N",
        help="Draws of z for each completion. Default: 1000.",
    )
    add(
        "--noise",
        action="store_true",
        default=None,
        help="Draw x from p(x | z) instead of taking its mean.",
    )
    add(
        "--out",
        action="append",
        type=Path,
        metavar="FILE",
        help="A file to write: "
        f"{', '.join(SUFFIXES)}; may be repeated. Default: RUN/samples/KIND.png and .npz; of "
        "tables .csv and .npz.",
    )
    add("--overwrite", action="store_true", help="Replace existing files.")
    options.add_common_options()
    return options


def run(options: argparse.Namespace) -> None:
    """Check everything, generate, then write."""
    pyro.enable_validation(True)
    made_by = provenance()
    fill_defaults(options)
    for path in options.out or ():
        check_output(path, SUFFIXES, overwrite=options.overwrite)
    if options.kind == "completions" and options.missing is None:
        raise ValueError(
            f"completions need --missing: a share such as 0.5, one of {', '.join(HALVES)}, or a "
            "file of data with missing values."
        )
    trained = open_run(options)
    set_noun(trained.data.dataset.noun)
    made = RunSamples(trained, options)
    out = options.out or default_files(trained, made, options.kind)
    for path in out:
        check_output(path, SUFFIXES, overwrite=options.overwrite)
        if path.suffix in ANIMATIONS:
            check_animation(options.kind, made.event_shape, path.suffix)
    generated = made.generate()
    metadata = {
        "run": str(options.run.resolve()),
        "checkpoint_sha256": trained.checkpoint_hash,
        "data": made.dataset.name,
        "split": options.split if made.dataset.is_split else "new",
        "seed": options.seed,
        **{name: getattr(options, name) for name in (*KINDS[options.kind], "given")},
        **generated.metadata,
        **made_by,
    }
    generated = replace(generated, metadata=metadata)
    for path in out:
        content = content_of(generated, made.reference, path.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        print(path)


def default_files(trained: TrainedRun, made: RunSamples, kind: str) -> list[Path]:
    """RUN/samples/KIND with the suffixes of images or of tables."""
    suffixes = (".csv" if made.names and len(made.event_shape) == 1 else ".png", ".npz")
    return [trained.directory.samples / f"{trained.prefix}{kind}{suffix}" for suffix in suffixes]


def content_of(generated: Generated, reference: np.ndarray, suffix: str) -> bytes:
    """The content of a file."""
    if suffix == ".png":
        return to_png(plot_generated(generated, reference))
    if suffix in ANIMATIONS:
        return animate(generated, reference, suffix)
    return FORMATS[suffix](generated)


def fill_defaults(options: argparse.Namespace) -> None:
    """Give the options of the kind their defaults.

    Raises:
        ValueError: If an option of another kind is given.
    """
    for name in OPTIONS:
        given = getattr(options, name)
        if name in KINDS[options.kind]:
            setattr(options, name, KINDS[options.kind][name] if given is None else given)
        elif given is not None:
            kinds = ", ".join(kind for kind, names in KINDS.items() if name in names)
            raise ValueError(f"--{name} is an option of {kinds}, not of {options.kind}.")


if __name__ == "__main__":
    exit_process(main())
