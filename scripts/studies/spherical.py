"""Codes on a sphere or in space: von Mises-Fisher against the diagonal normal on MNIST.

`python scripts/studies/spherical.py` trains and evaluates what is not in `spherical.json` yet, with
the same network, data and epochs, at the same own dimension d of the latent space: a sphere of
dimension d lies in R^(d+1), so its `--latent-dim` is d + 1. Stopped and started again, it goes on
with the next. `--table` prints what is there, `--write README.md` puts it between the README's
markers.

References:
    Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), table 1,
    https://arxiv.org/abs/1804.00891
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.study import (
    Results,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    svi_train,
    svi_train_command,
)

# By the sphere's own dimension.
DIMENSIONS = (2, 5, 10)
# Posterior and prior, and how much longer z is than the own dimension of where it lies.
SPACES: dict[str, tuple[str, str, int]] = {
    "normal": ("diagonal_normal", "standard_normal", 0),
    "sphere": ("von_mises_fisher", "spherical_uniform", 1),
}
# `hidden` is read from the input on: the decoder's layers are 256 and 128 wide, too.
SETTING = (
    *("--data", "mnist", "--binarisation", "dynamic"),
    *("--network", "mlp", "--network.hidden", "[256, 128]", "--network.activation", "relu"),
    *("--batch-size", "128", "--lr", "0.001"),
)
KEPT = (
    *("data", "prior", "posterior", "latent_dim", "seed", "steps", "epochs", "n", "n_train"),
    *("log_evidence", "log_evidence_se", "log_evidence_samples", "elbo", "kl", "reconstruction"),
    *("khat_share_above", "parameters", "seconds_per_epoch", "torch", "pyro", "git_commit"),
)
RESULTS = Path(__file__).with_suffix(".json")

# What the published comparison finds at each of these dimensions.
PUBLISHED = "the sphere above the normal"


def row_of(space: str, dimension: int) -> str:
    """The name of a row's cells."""
    return f"{space}-{dimension}"


def arguments_of(space: str, dimension: int, seed: int, epochs: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that give a cell; the seed comes last."""
    posterior, prior, longer = SPACES[space]
    parts = ["--prior", prior, "--posterior", posterior]
    length = ["--latent-dim", str(dimension + longer), "--epochs", str(epochs)]
    return [*SETTING, *parts, *length, "--seed", str(seed)]


def tables(results: Results) -> str:
    """The results in Markdown, a row a dimension, and the commands and findings below."""
    header = (
        *("d", "normal, log p(x)", "sphere, log p(x)", "sphere - normal"),
        *("normal, ELBO", "sphere, ELBO", "normal, KL", "sphere, KL"),
    )
    lines, commands, findings = [], [], []
    for dimension in DIMENSIONS:
        pair = {space: cells_of(results, row_of(space, dimension)) for space in SPACES}
        if not any(pair.values()):
            continue
        gaps = _gaps(pair["normal"], pair["sphere"])
        columns = [
            mean_and_spread([cell[name] for cell in cells.values()]) if cells else "not made"
            for name in ("log_evidence", "elbo", "kl")
            for cells in pair.values()
        ]
        gap = mean_and_spread(gaps) if gaps else "not made"
        lines.append((str(dimension), *columns[:2], gap, *columns[2:]))
        commands += [
            f"- d = {dimension}, {space}: `{common_command(cells)}`, S = {', '.join(map(str, cells))}"
            for space, cells in pair.items()
            if cells
        ]
        if gaps:
            findings.append(_finding(dimension, gaps))
    if not lines:
        return "No cell has been made yet."
    first = next(iter(results.values()))
    note = (
        "Nats per datum, mean and standard deviation over seeds; differences are between runs of one "
        f"seed. d is the own dimension of the space of codes. {first['n']:,} fixed test images, "
        f"{first['log_evidence_samples']:,} importance samples, {first['epochs']:,} epochs. "
        f"{made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note, "\n".join([*commands, *findings])])


def _gaps(normal: dict[int, dict], sphere: dict[int, dict]) -> list[float]:
    """By how many nats the sphere is above the normal, for each seed that both have."""
    seeds = sorted(normal.keys() & sphere.keys())
    return [sphere[seed]["log_evidence"] - normal[seed]["log_evidence"] for seed in seeds]


def _finding(dimension: int, gaps: Sequence[float]) -> str:
    mean = statistics.mean(gaps)
    reached = "reached" if mean > 0 else "missed"
    each = ", ".join(f"{gap:+.2f}" for gap in gaps)
    return (
        f"- d = {dimension}, the published sign, {PUBLISHED}: {reached} "
        f"(mean {mean:+.2f}; by seed {each})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    spaces, dimensions = list(SPACES), list(DIMENSIONS)
    parser.add_argument("--only", nargs="+", choices=spaces, default=spaces, help="These spaces.")
    parser.add_argument(
        "--dimensions",
        nargs="+",
        type=int,
        choices=dimensions,
        default=dimensions,
        help="These d.",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--epochs", type=int, default=20, help="The number of training epochs.")
    parser.add_argument(
        "--max-steps", type=int, help="Stop training after so many steps, to try the program."
    )
    options = parser.parse_args(arguments)
    return run_study("spherical", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it cell by cell."""
    for seed in options.seeds:
        for dimension in options.dimensions:
            for space in options.only:
                given = arguments_of(space, dimension, seed, options.epochs)
                if options.max_steps is not None:
                    # Before the seed, which comes last.
                    given[-2:-2] = ["--max-steps", str(options.max_steps)]
                make = partial(svi_train, given, KEPT)
                name = f"{row_of(space, dimension)}/{seed}"
                command = svi_train_command(given)
                fill_cell(options.results, name, command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
