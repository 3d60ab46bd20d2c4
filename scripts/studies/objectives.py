"""Every objective: log p(x), rate and what the code says of the image, on static MNIST.

`python scripts/studies/objectives.py` trains and evaluates what is not in `objectives.json` yet,
with the network, data, batch and steps of the study of priors, whose row `standard_normal` is this
one's `elbo`; stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.elbo.rate_decomposition import (
    mutual_information_cell,
    mutual_information_column,
)
from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    differences,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    nats_by_seed,
    run_study,
    study_parser,
    svi_train_command,
    trained,
    with_test_data,
)
from pyro_vae.objectives import OBJECTIVES

_FIVE = ("--objective.num-particles", "5")
# Options of one objective alone; all else is its default.
OPTIONS: dict[str, tuple[str, ...]] = {
    "beta": ("--objective.beta", "4"),
    "iwae": _FIVE,
    "dreg": _FIVE,
    "ciwae": _FIVE,
    # The paper's critic, six layers of 1,000, costs several times what the VAE does on a CPU.
    "factor": ("--objective.critic-hidden", "[300, 300, 300]"),
    # Six draws: five are no groups of several.
    "miwae": ("--objective.groups", "2", "--objective.particles-per-group", "3"),
}
# The images are binarised once, so that rows compare with those of the study of priors and with the
# literature.
SETTING = (
    *("--data", "static_mnist", "--latent-dim", "40", "--network", "gated_mlp"),
    *("--batch-size", "100", "--lr", "0.0005", "--epochs", "100000"),
)
KEPT = (
    *("data", "prior", "posterior", "latent_dim", "seed", "steps", "epochs", "n", "n_train"),
    *("log_evidence", "log_evidence_se", "log_evidence_samples", "elbo", "kl", "reconstruction"),
    *("active_units", "khat_share_above", "parameters", "seconds_per_epoch"),
    *("torch", "pyro", "git_commit"),
)
RESULTS = Path(__file__).with_suffix(".json")


def rows() -> list[str]:
    """The objectives compared: all that train a generative model, and so have a term of p(z)."""
    return [name for name, objective in OBJECTIVES.items() if objective.uses_prior]


def arguments_of(row: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that give a cell; the seed comes last."""
    objective = ["--objective", row, *OPTIONS.get(row, ())]
    return [*SETTING, *objective, "--max-steps", str(steps), "--seed", str(seed)]


def cell_of(row: str, seed: int, steps: int) -> Cell:
    """Train by an objective; its evaluation, and the mutual information of the same images."""
    with trained(arguments_of(row, seed, steps)) as run:
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        vae, _, x = with_test_data(run, metrics["n"])
        return {**{name: metrics[name] for name in KEPT}, **mutual_information_cell(vae, x)}


def tables(results: Results) -> str:
    """The results in Markdown, a row an objective."""
    header = (
        *("objective", "log p(x)", "ELBO", "KL", "I(x; z)", "active", "k-hat above"),
        *("s/epoch", "command"),
    )
    lines, first = [], None
    for row in rows():
        cells = cells_of(results, row)
        if not cells:
            continue
        first = first or next(iter(cells.values()))
        column = partial(_column, list(cells.values()))
        lines.append(
            (
                row,
                *(column(name) for name in ("log_evidence", "elbo", "kl")),
                mutual_information_column(list(cells.values())),
                column("active_units", 0),
                column("khat_share_above"),
                column("seconds_per_epoch", 1),
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    if first is None:
        return "No cell has been made yet."
    note = (
        f"Nats per datum, mean and standard deviation over seeds: {first['n']:,} fixed test images, "
        f"{first['log_evidence_samples']:,} importance samples, {first['steps']:,} steps, and beta = 1 in "
        "all that is measured. I(x; z) is the guide's, estimated from the same images: it cannot tell more "
        "of them apart than there are, and is a lower bound where it is within 2 nats of their logarithm. "
        f"{made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note, *_findings(results)])


def _column(cells: Sequence[Cell], name: str, digits: int = 2) -> str:
    return mean_and_spread([cell[name] for cell in cells], digits)


def _findings(results: Results) -> list[str]:
    """What each objective gains on the ELBO in log p(x) and in the ELBO, with the same seeds."""
    lines = []
    for row in rows():
        density, bound = (differences(results, row, "elbo", of) for of in ("log_evidence", "elbo"))
        if row != "elbo" and density and bound:
            lines.append(
                f"- {row} less elbo: log p(x) {nats_by_seed(density)}, ELBO {statistics.mean(bound):+.2f} nats"
            )
    return ["\n".join(lines)] if lines else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--steps", type=int, default=5000, help="The number of training steps.")
    options = parser.parse_args(arguments)
    return run_study("objectives", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it objective by objective."""
    for seed in options.seeds:
        for row in options.only:
            make = partial(cell_of, row, seed, options.steps)
            command = svi_train_command(arguments_of(row, seed, options.steps))
            fill_cell(options.results, f"{row}/{seed}", command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
