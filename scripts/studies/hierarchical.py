"""Two levels of latents beside one with as many parameters: log p(x) on static MNIST, in nats.

On one core it takes about 20 minutes; `--steps 200000` is the larger setting for a GPU.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from analysis.study import SVI_TRAIN, Row, Study, metrics_of
from analysis.study_results import Cell, Results, cells_of, differences, mean, nats_by_seed

# The widths of the hidden layers at which the numbers of parameters are equal to about 1 %.
FLAT, TWO_LEVELS = "--network.hidden [346]", "--network.hidden [300] --top-dim 40"
VAMP = " --prior vamp --prior.components 100"
ROWS = {
    f"{name}{suffix}": Row(f"{words}{prior}", title=f"{title}, {top}")
    for name, words, title in (
        ("flat", FLAT, "one level"),
        *(
            (
                inference,
                f"--model hierarchical --inference {inference} {TWO_LEVELS}",
                f"two levels, {inference.replace('_', '-')}",
            )
            for inference in ("bottom_up", "top_down")
        ),
    )
    for suffix, prior, top in (("", "", "standard normal"), ("_vamp", VAMP, "Vamp"))
}
# The entries of metrics.json that a level has of its own.
LEVELS = ("kl_z1", "kl_z2", "active_units_z1", "active_units_z2")


def measure(run: Path, row: str, _options: argparse.Namespace) -> Cell:
    """The run's metrics, and those of its levels."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {**metrics_of(run), **{name: metrics[name] for name in LEVELS if name in metrics}}


def findings(results: Results) -> list[str]:
    """Two levels less one, with each top prior, over common seeds, and whether that is a gain."""
    lines = []
    for suffix in ("", "_vamp"):
        for inference in ("bottom_up", "top_down"):
            row, flat = f"{inference}{suffix}", f"flat{suffix}"
            if gap := differences(results, row, flat):
                reached = "reached" if statistics.mean(gap) > 0 else "missed"
                lines.append(
                    f"{ROWS[row].title} above {ROWS[flat].title}: {reached}, {nats_by_seed(gap)}"
                )
    for row in ("flat", "bottom_up", "top_down"):
        if gap := differences(results, f"{row}_vamp", row):
            lines.append(f"{ROWS[row].title}, Vamp less standard normal: {nats_by_seed(gap)}")
    return lines


def note(results: Results) -> str:
    """What the numbers are, and what others report."""
    epochs = {cell["epochs"] for row in ROWS for cell in cells_of(results, row).values()}
    return (
        "Nats per image, mean and standard deviation over seeds: 1,000 fixed test images, 1,000 "
        f"importance samples, {', '.join(map(str, sorted(epochs)))} epochs with a linear warm-up "
        "of the KL over the first 5 in every row. Each level has 40 dimensions, as the one level "
        "has. KL z1 and KL z2 add up to the KL; in bottom-up KL z1 is not a divergence. "
        "Published, at 40 + 40 dimensions, gated networks of 300 and 300 units, 500 "
        "pseudo-inputs, 5,000 importance samples and training until the validation "
        "bound stops rising: -85.57 with one level and Vamp, -83.19 with two levels and Vamp, "
        "static MNIST (Tomczak & Welling, 2018, VAE with a VampPrior). Importance weighted "
        "training of two levels, k = 50: -82.90, dynamic MNIST, 3,280 epochs (Burda, Grosse & "
        "Salakhutdinov, 2016). Short training loses many nats to both: only rows of this table "
        "compare."
    )


STUDY = Study(
    name="hierarchical",
    about=__doc__,
    rows=ROWS,
    command=(
        f"{SVI_TRAIN} --data static_mnist --latent-dim 40 --batch-size 100 --epochs 100000 "
        "--objective.warmup-epochs 5 --precision bfloat16 --compile on {words} "
        "--max-steps {steps} --seed {seed}"
    ),
    measure=measure,
    options={"steps": 5000},
    first="model, top prior",
    columns=(
        ("log p(x)", mean("log_evidence")),
        ("ELBO", mean("elbo")),
        ("KL", mean("kl")),
        *((f"KL {name}", mean(f"kl_{name}")) for name in ("z1", "z2")),
        *((f"active {name}", mean(f"active_units_{name}", 0)) for name in ("z1", "z2")),
        ("k-hat above", mean("khat_share_above")),
        ("parameters", lambda cells: f"{max(cell['parameters'] for cell in cells):,}"),
    ),
    note=note,
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
