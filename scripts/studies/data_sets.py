"""Every data set: log p(x) of the default VAE after a small budget, and samples to look at.

`--samples DIR` keeps each data set's figure of samples from the prior. On two cores it takes about
half an hour; `--steps 50000` is the larger setting for a GPU.
"""

import argparse
import shutil
import sys
from pathlib import Path

from analysis.study import SVI_TRAIN, Row, Study, metrics_of
from analysis.study_results import Cell, mean

# All else is the default: a data set needs a likelihood of its support.
ROWS = {
    "digits": Row(),
    "mnist": Row(),
    "static_mnist": Row(),
    "fashion_mnist": Row(),
    "omniglot": Row(),
    "dsprites": Row("--data.size 32"),
    "freyface": Row("--likelihood continuous_bernoulli"),
    "photos": Row("--likelihood continuous_bernoulli"),
    "newsgroups": Row("--likelihood poisson"),
    "mouse_bladder": Row("--likelihood poisson"),
}


def measure(run: Path, row: str, options: argparse.Namespace) -> Cell:
    """The evaluation; the figure of samples is kept if asked for."""
    if options.samples:
        options.samples.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / "figures" / "prior_samples.png", options.samples / f"{row}.png")
    return metrics_of(run)


def likelihood(cells: list[Cell]) -> str:
    """The likelihood, and how grey levels were binarised."""
    how = f", {cells[0]['binarisation']} binarisation" if cells[0]["binarisation"] else ""
    return f"{cells[0]['likelihood']}{how}"


STUDY = Study(
    name="data_sets",
    about=__doc__,
    rows=ROWS,
    command=(
        f"{SVI_TRAIN} --data {{row}} {{words}} --epochs 100000 --max-steps {{steps}}"
        " --seed {seed}"
    ),
    measure=measure,
    options={"steps": 2000, "samples": None},
    first="data",
    columns=(
        ("likelihood", likelihood),
        ("log p(x)", mean("log_evidence")),
        ("bits per dimension", mean("bits_per_dim", 3)),
        ("test data", lambda cells: f"{cells[0]['n']:,}"),
    ),
    note=(
        "Nats per example on fixed test data, 1,000 importance samples, mean and standard "
        "deviation over seeds. Rows do not compare with one another: each is a density on data "
        "of another kind."
    ),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
