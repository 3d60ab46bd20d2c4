"""Posterior collapse: what holds the code in use beside a decoder that can do without it.

`python scripts/studies/collapse.py` trains on Omniglot with an autoregressive decoder, once plainly
and once for each remedy, and evaluates what is not in `collapse.json` yet; stopped and started again,
it goes on with the next. `--table` prints what is there, `--write README.md` puts it between
the README's markers.

References:
    Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al., 2019),
    https://arxiv.org/abs/1901.05534
"""

import argparse
import shlex
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
    evaluated,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    trained,
    with_test_data,
)

EPOCHS = 5
# What each row does against collapse. Schedules are in use for 2 of the 5 epochs, or for four cycles.
ROWS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "warm-up": ("--objective.warmup-epochs", "2"),
    "cyclical": (
        *("--objective.schedule", "cyclical"),
        *("--objective.cycles", "4", "--objective.cycle-epochs", "1"),
    ),
    # 8 nats of the code as a whole, so of the order of what the two posteriors below commit to.
    "free bits": ("--objective.free-bits", "8", "--objective.free-bits-per", "rate"),
    "BN-VAE": ("--posterior", "batch_normalised"),
    "delta-VAE": ("--posterior", "committed_rate"),
    "aggressive": ("--aggressive-steps", "10"),
}
SETTING = (
    *("--data", "omniglot", "--latent-dim", "32", "--likelihood", "autoregressive_bernoulli"),
    # Deep networks: f(z) is then learned later than how pixels follow one another, which is what lets
    # plain training collapse. With one hidden layer it keeps 7 nats.
    *("--network.hidden", "[200, 200, 200, 200, 200]", "--batch-size", "100", "--lr", "0.001"),
)
# So many test images, and draws for each.
EVALUATED, SAMPLES = 500, 500
# A code of fewer nats is called collapsed: how much ink there is alone is worth about one and a half.
COLLAPSED = 2.0
RESULTS = Path(__file__).with_suffix(".json")


def rows() -> list[str]:
    """What is compared, in the order of the table."""
    return list(ROWS)


def arguments_of(row: str, seed: int, epochs: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that train a cell's VAE; the seed comes last."""
    return [
        *SETTING,
        *ROWS[row],
        *("--epochs", str(epochs), "--evaluate", "none", "--seed", str(seed)),
    ]


def command_of(row: str, seed: int, epochs: int) -> str:
    """What to type, at the root of a checkout, to get a cell."""
    program = ["python", "scripts/studies/collapse.py", "--only", row]
    return shlex.join([*program, "--epochs", str(epochs), "--seeds", str(seed)])


def cell_of(row: str, seed: int, epochs: int) -> Cell:
    """Train and evaluate a cell."""
    with trained(arguments_of(row, seed, epochs)) as run:
        vae, _, x = with_test_data(run, EVALUATED)
        found = evaluated(run, at_most=EVALUATED, num_samples=SAMPLES)
        return {**found, **mutual_information_cell(vae, x)}


def tables(results: Results) -> str:
    """The results in Markdown, a row a remedy."""
    header = ("against collapse", "-log p(x)", "KL", "I(x; z)", "active", "k-hat above", "command")
    lines, first = [], None
    for row in rows():
        cells = cells_of(results, row)
        if not cells:
            continue
        first = first or next(iter(cells.values()))
        values = list(cells.values())
        densities = [cell["log_evidence"] for cell in values]
        negative = [None if density is None else -density for density in densities]
        lines.append(
            (
                row,
                mean_and_spread(negative),
                mean_and_spread([cell["kl"] for cell in values]),
                mutual_information_column(values),
                mean_and_spread([cell["active_units"] for cell in values], 0),
                mean_and_spread([cell["khat_share_above"] for cell in values]),
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    if first is None:
        return "No cell has been made yet."
    note = (
        f"Nats per datum, mean and standard deviation over seeds: {first['n']:,} fixed test images, "
        f"{first['log_evidence_samples']:,} importance samples, {first['epochs']} epochs, and beta = 1 in all "
        "that is measured. I(x; z) is the guide's, estimated from the same images. A posterior that "
        "cannot collapse has a KL, and active units, whether or not the decoder listens: what it gains is in "
        f"-log p(x). {made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note, *_findings(results)])


def _findings(results: Results) -> list[str]:
    """Whether plain training collapsed, and which remedies hold the code in use at no cost."""
    plain = cells_of(results, "plain")
    if not plain:
        return []
    kl = mean_and_spread([cell["kl"] for cell in plain.values()])
    collapsed = max(cell["kl"] for cell in plain.values()) < COLLAPSED
    said = "collapses" if collapsed else "does not collapse"
    lines = [f"- plain training {said}: its KL is {kl} nats"]
    for row in rows():
        cells = cells_of(results, row)
        seeds = sorted(plain.keys() & cells.keys())
        if row == "plain" or not seeds:
            continue
        pairs = [(cells[s]["log_evidence"], plain[s]["log_evidence"]) for s in seeds]
        gains = [None if None in pair else pair[0] - pair[1] for pair in pairs]
        held = min(cells[s]["kl"] for s in seeds) >= COLLAPSED
        state = "holds its code" if held else "collapses, too"
        lines.append(f"- {row} {state}; log p(x) less plain's: {mean_and_spread(gains)} nats")
    return ["\n".join(lines)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1), help="These seeds.")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="Passes over the images.")
    options = parser.parse_args(arguments)
    return run_study("collapse", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it row by row."""
    for seed in options.seeds:
        for row in options.only:
            make = partial(cell_of, row, seed, options.epochs)
            command = command_of(row, seed, options.epochs)
            fill_cell(options.results, f"{row}/{seed}", command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
