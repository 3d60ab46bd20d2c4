"""Every prior on the real line: log p(x) on static MNIST with the same network, data and steps.

`python scripts/studies/priors.py` trains and evaluates what is not in `priors.json` yet, prior by
prior; stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers. On two cores it takes about an
hour; `--steps 50000` is the larger setting for a GPU.
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
    differences,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    nats_by_seed,
    run_study,
    study_parser,
    svi_train,
    svi_train_command,
)
from pyro_vae.priors import PRIORS

# Options of one prior alone. All else is the default; as many components as Vamp has by default.
OPTIONS: dict[str, tuple[str, ...]] = {"gaussian_mixture": ("--prior.components", "500")}
# The network, the data and the batch are those of the published comparison of priors.
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

# "A flow prior is better than Vamp by so many nats", on the same network. A flow prior is one whose
# class is in this module.
FLOW_ABOVE_VAMP = 1.0
FLOWS = "pyro_vae.priors.flow"


def rows() -> list[str]:
    """The priors compared: all that are real."""
    # A prior may have its support from the class that it shares with others, as flows do.
    return [name for name, part in PRIORS.items() if getattr(part, "support", None) == "real"]


def arguments_of(row: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that give a cell; the seed comes last."""
    prior = ["--prior", row, *OPTIONS.get(row, ())]
    return [*SETTING, *prior, "--max-steps", str(steps), "--seed", str(seed)]


def tables(results: Results) -> str:
    """The results in Markdown, a row a prior."""
    header = ("prior", "log p(x)", "ELBO", "KL", "active", "parameters", "command")
    lines, first = [], None
    for row in rows():
        cells = cells_of(results, row)
        if not cells:
            continue
        first = first or next(iter(cells.values()))
        column = partial(_column, list(cells.values()))
        parameters = max(cell["parameters"] for cell in cells.values())
        lines.append(
            (
                row,
                *(column(name) for name in ("log_evidence", "elbo", "kl")),
                column("active_units", 0),
                f"{parameters:,}",
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    if first is None:
        return "No cell has been made yet."
    note = (
        f"Nats per datum, mean and standard deviation over seeds: {first['n']:,} fixed test images, "
        f"{first['log_evidence_samples']:,} importance samples, {first['steps']:,} steps. "
        f"{made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note, *_findings(results)])


def _column(cells: Sequence[dict], name: str, digits: int = 2) -> str:
    return mean_and_spread([cell[name] for cell in cells], digits)


def _findings(results: Results) -> list[str]:
    """How each prior stands beside the standard normal, and a flow beside Vamp, with the same seeds."""
    lines = [
        f"- {row} above standard_normal: {nats_by_seed(gaps)}"
        for row in rows()
        if row != "standard_normal" and (gaps := differences(results, row, "standard_normal"))
    ]
    flows = {
        row: gaps
        for row in rows()
        if PRIORS[row].__module__ == FLOWS and (gaps := differences(results, row, "vamp"))
    }
    for row, gaps in flows.items():
        reached = "reached" if statistics.mean(gaps) >= FLOW_ABOVE_VAMP else "missed"
        lines.append(
            f"- a flow prior, {row}, above vamp by at least {FLOW_ABOVE_VAMP:g} nat on the same "
            f"network: {reached}, {nats_by_seed(gaps)}"
        )
    return ["\n".join(lines)] if lines else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These priors.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--steps", type=int, default=5000, help="The number of training steps.")
    options = parser.parse_args(arguments)
    return run_study("priors", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it prior by prior."""
    for seed in options.seeds:
        for row in options.only:
            given = arguments_of(row, seed, options.steps)
            make = partial(svi_train, given, KEPT)
            name, command = f"{row}/{seed}", svi_train_command(given)
            fill_cell(options.results, name, command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
