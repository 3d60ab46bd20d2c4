"""Latents on a sphere or in space: von Mises-Fisher against the diagonal normal on MNIST.

Both have the same dimension d: a sphere of dimension d lies in R^(d+1), so its `--latent-dim` is d
+ 1.

References:
    Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), table 1,
    https://arxiv.org/abs/1804.00891
"""

import statistics
import sys

from analysis.study import SVI_TRAIN, Row, Study
from analysis.study_results import Results, differences, mean, nats_by_seed

DIMENSIONS = (2, 5, 10)
SPACES = {
    "normal": ("--prior standard_normal --posterior diagonal_normal", 0),
    "sphere": ("--prior spherical_uniform --posterior von_mises_fisher", 1),
}
ROWS = {
    f"{space}-{d}": Row(f"{words} --latent-dim {d + longer}", title=f"{space}, d = {d}")
    for d in DIMENSIONS
    for space, (words, longer) in SPACES.items()
}


def findings(results: Results) -> list[str]:
    """Whether the sphere is above the normal, as published, over common seeds."""
    lines = []
    for d in DIMENSIONS:
        if gap := differences(results, f"sphere-{d}", f"normal-{d}"):
            reached = "reached" if statistics.mean(gap) > 0 else "missed"
            lines.append(
                f"d = {d}, the sphere above the normal, as published: {reached}, "
                f"{nats_by_seed(gap)}"
            )
    return lines


STUDY = Study(
    name="spherical",
    about=__doc__,
    rows=ROWS,
    # Hidden sizes are read from the input on: the decoder's layers are 256 and 128 wide, too.
    command=(
        f"{SVI_TRAIN} --data mnist --binarisation dynamic --network mlp --network.hidden '[256, "
        "128]' --network.activation relu --batch-size 128 --lr 0.001 {words} --epochs {epochs} "
        "--seed {seed}"
    ),
    options={"epochs": 20},
    columns=(("log p(x)", mean("log_evidence")), ("ELBO", mean("elbo")), ("KL", mean("kl"))),
    note=(
        "Nats per image, mean and standard deviation over seeds: 1,000 fixed test images, 1,000 "
        "importance samples."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
