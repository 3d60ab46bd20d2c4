"""Every prior on the real line: log p(x) on static MNIST with the same network, data and steps.

Network, data and batch size are those of the published comparison of priors. On two cores it takes
about an hour; `--steps 50000` is the larger setting for a GPU.
"""

import statistics
import sys

from analysis.study import SVI_TRAIN, Row, Study
from analysis.study_results import Results, differences, gains, mean, nats_by_seed
from pyro_vae.priors import PRIORS

# As many components as Vamp has by default.
OPTIONS = {"gaussian_mixture": " --prior.components 500"}
ROWS = {
    name: Row(f"--prior {name}{OPTIONS.get(name, '')}")
    for name, part in PRIORS.items()
    if getattr(part, "support", None) == "real"
}
# The target: a flow prior is above Vamp by this many nats on the same network.
FLOW_ABOVE_VAMP = 1.0


def findings(results: Results) -> list[str]:
    """Each prior beside the standard normal, and the flow beside Vamp, over common seeds."""
    lines = gains(results, ROWS, "standard_normal")
    if gap := differences(results, "flow", "vamp"):
        reached = "reached" if statistics.mean(gap) >= FLOW_ABOVE_VAMP else "missed"
        lines.append(
            f"flow above vamp by at least {FLOW_ABOVE_VAMP:g} nat: {reached}, {nats_by_seed(gap)}"
        )
    return lines


STUDY = Study(
    name="priors",
    about=__doc__,
    rows=ROWS,
    command=(
        f"{SVI_TRAIN} --data static_mnist --latent-dim 40 --network gated_mlp --batch-size 100 "
        "--lr 0.0005 --epochs 100000 {words} --max-steps {steps} --seed {seed}"
    ),
    options={"steps": 5000},
    first="prior",
    columns=(
        ("log p(x)", mean("log_evidence")),
        ("ELBO", mean("elbo")),
        ("KL", mean("kl")),
        ("active units", mean("active_units", 0)),
        ("parameters", lambda cells: f"{max(cell['parameters'] for cell in cells):,}"),
    ),
    note=(
        "Nats per image, mean and standard deviation over seeds: 1,000 fixed test images, 1,000 "
        "importance samples."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
