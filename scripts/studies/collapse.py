"""Posterior collapse: remedies for an autoregressive decoder that can ignore z, on Omniglot.

References:
    Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al.,
    2019), https://arxiv.org/abs/1901.05534
"""

import argparse
import sys
from pathlib import Path

from analysis.elbo.aggregate_posterior import mutual_information_cell, mutual_information_column
from analysis.study import Row, Study, evaluated, with_test_data
from analysis.study_results import Cell, Results, cells_of, differences, mean, mean_and_spread

# Schedules are in use for 2 of the 5 epochs, or for four cycles. 8 free nats are about as many as
# the posteriors of the rows below commit to.
ROWS = {
    "plain": Row(),
    "warm-up": Row("--objective.warmup-epochs 2"),
    "cyclical": Row(
        "--objective.schedule cyclical --objective.cycles 4 --objective.cycle-epochs 1"
    ),
    "free bits": Row("--objective.free-bits 8 --objective.free-bits-per rate"),
    "BN-VAE": Row("--posterior batch_normalised"),
    "delta-VAE": Row("--posterior committed_rate"),
    "aggressive": Row("--aggressive-steps 10"),
}
EVALUATED, SAMPLES = 500, 500
# A code of fewer nats has collapsed: the amount of ink alone is worth about one and a half.
COLLAPSED = 2.0


def measure(run: Path, _row: str, _options: argparse.Namespace) -> Cell:
    """The evaluation and the mutual information of the same images."""
    vae, _, x = with_test_data(run, EVALUATED)
    found = evaluated(run, at_most=EVALUATED, num_samples=SAMPLES)
    return {**found, **mutual_information_cell(vae, x)}


def findings(results: Results) -> list[str]:
    """Which rows keep their code, and what it costs."""
    lines = []
    for row in ROWS:
        cells = cells_of(results, row)
        if not cells:
            continue
        state = (
            "collapses" if min(c["kl"] for c in cells.values()) < COLLAPSED else "keeps its code"
        )
        gap = differences(results, row, "plain")
        cost = (
            f"; log p(x) less plain's: {mean_and_spread(gap)} nats"
            if row != "plain" and gap
            else ""
        )
        lines.append(f"{row} {state}{cost}")
    return lines


STUDY = Study(
    name="collapse",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/collapse.py --only {row} --epochs {epochs} --seeds {seed}",
    # Deep networks learn f(z) later than how pixels follow one another, which is what lets plain
    # training collapse; with one hidden layer it keeps 7 nats.
    train=(
        "--data omniglot --latent-dim 32 --likelihood autoregressive_bernoulli --network.hidden "
        "'[200, 200, 200, 200, 200]' --batch-size 100 --lr 0.001 {words} --epochs {epochs} "
        "--evaluate none --seed {seed}"
    ),
    measure=measure,
    options={"epochs": 5},
    seeds=(0, 1),
    first="remedy",
    columns=(
        ("-log p(x)", mean("log_evidence", sign=-1)),
        ("KL", mean("kl")),
        ("I(x; z)", mutual_information_column),
        ("active units", mean("active_units", 0)),
        ("k-hat above", mean("khat_share_above")),
    ),
    note=(
        f"Nats per image, mean and standard deviation over seeds: {EVALUATED} fixed test images, "
        f"{SAMPLES} importance samples, and beta = 1 in everything measured. I(x; z) is "
        "estimated under the guide from the same images. A posterior that cannot collapse has a "
        "KL and active units whether or not the decoder uses them: its gain shows in -log p(x)."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
