"""Every objective: log p(x), rate and mutual information on static MNIST.

Network, data, batch size and steps are those of the study of priors, so that the row `elbo` is its
`standard_normal`.
"""

import argparse
import statistics
import sys
from pathlib import Path

from analysis.elbo.aggregate_posterior import mutual_information_cell, mutual_information_column
from analysis.study import SVI_TRAIN, Row, Study, metrics_of, with_test_data
from analysis.study_results import Cell, Results, differences, mean, nats_by_seed
from pyro_vae.objectives import OBJECTIVES

FIVE = " --objective.num-particles 5"
# All other options are defaults. The paper's critic of `factor`, six layers of 1,000, costs
# several times what the VAE does on a CPU; `miwae` has six draws, since five do not divide into
# groups.
OPTIONS = {
    "beta": " --objective.beta 4",
    "iwae": FIVE,
    "dreg": FIVE,
    "ciwae": FIVE,
    "factor": " --objective.critic-hidden '[300, 300, 300]'",
    "miwae": " --objective.groups 2 --objective.particles-per-group 3",
}
# The objectives that train a generative model.
ROWS = {
    name: Row(f"--objective {name}{OPTIONS.get(name, '')}")
    for name, objective in OBJECTIVES.items()
    if objective.uses_prior
}


def measure(run: Path, _row: str, _options: argparse.Namespace) -> Cell:
    """The evaluation, and the mutual information of the same images."""
    metrics = metrics_of(run)
    vae, _, x = with_test_data(run, metrics["n"])
    return {**metrics, **mutual_information_cell(vae, x)}


def findings(results: Results) -> list[str]:
    """What each objective gains on the ELBO, over common seeds."""
    lines = []
    for row in ROWS:
        density, bound = (differences(results, row, "elbo", of) for of in ("log_evidence", "elbo"))
        if row != "elbo" and density and bound:
            lines.append(
                f"{row} less elbo: log p(x) {nats_by_seed(density)}, ELBO "
                f"{statistics.mean(bound):+.2f} nats"
            )
    return lines


STUDY = Study(
    name="objectives",
    about=__doc__,
    rows=ROWS,
    command=(
        f"{SVI_TRAIN} --data static_mnist --latent-dim 40 --network gated_mlp --batch-size 100 "
        "--lr 0.0005 --epochs 100000 {words} --max-steps {steps} --seed {seed}"
    ),
    options={"steps": 5000},
    measure=measure,
    first="objective",
    columns=(
        ("log p(x)", mean("log_evidence")),
        ("ELBO", mean("elbo")),
        ("KL", mean("kl")),
        ("I(x; z)", mutual_information_column),
        ("active units", mean("active_units", 0)),
        ("k-hat above", mean("khat_share_above")),
        ("s/epoch", mean("seconds_per_epoch", 1)),
    ),
    note=(
        "Nats per image, mean and standard deviation over seeds: 1,000 fixed test images, 1,000 "
        "importance samples, and beta = 1 in everything measured. I(x; z) is estimated under the "
        "guide from the same images; it is a lower bound where it is within 2 nats of the "
        "logarithm of their number."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
