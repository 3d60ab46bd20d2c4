"""Every likelihood on data that it is for: grey images in bits per dimension, counts in nats.

On one core it takes about an hour; `--steps 50000` is the larger setting for a GPU. Bags of words
are in `topics.py`.
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np

from analysis.study import Row, Study, evaluated
from analysis.study_results import Cell, Results, cells_of, made_with, mean, mean_and_spread
from pyro_vae.data import DATASETS, default_root
from pyro_vae.evidence import fixed_rows
from pyro_vae.evidence.baseline_densities import (
    fit_negative_binomial,
    histogram,
    negative_binomial_log_density,
)
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.runs.run_directory import provenance

# The network of each data set, the same for all likelihoods.
NETWORKS = {
    "digits": "--latent-dim 8 --network.hidden '[200]'",
    "freyface": "--latent-dim 16 --network.hidden '[200]'",
    "photos": "--latent-dim 32 --network.hidden '[200]'",
    "mouse_bladder": "--latent-dim 10 --network.hidden '[128]'",
}
# The number of test data: the whole split except for photographs, whose 1,000 draws are long.
EVALUATED = {"digits": 360, "freyface": 200, "photos": 50, "mouse_bladder": 210}
HISTOGRAM, FITTED, FITTED_SIZES = "histogram", "fitted_negative_binomial", "fitted_with_sizes"
BASELINES = (HISTOGRAM, FITTED, FITTED_SIZES)
# Too many outputs of the decoder: 143,360 for the 256 levels of each pixel of a face, 92,160 for
# the mixtures of a patch.
LEFT_OUT = {"freyface:categorical", "photos:categorical", "photos:logistic_mixture"}


def names(data: str, *supports: str) -> list[str]:
    """The rows of a data set: baselines first, then the likelihoods on these supports."""
    found = [
        f"{data}:{name}"
        for support in supports
        for name, part in LIKELIHOODS.items()
        if getattr(part, "support", None) == support and not getattr(part, "given_total", False)
    ]
    baselines = {"integers": [HISTOGRAM], "counts": [FITTED, FITTED_SIZES]}.get(supports[0], [])
    if "counts" in supports:
        found.insert(
            found.index(f"{data}:negative_binomial") + 1, f"{data}:negative_binomial:library"
        )
    return [
        *(f"{data}:{name}" for name in baselines),
        *(row for row in found if row not in LEFT_OUT),
    ]


def baseline(data: str, name: str, _seed: int, _options: argparse.Namespace) -> Cell:
    """log p(x) of the same test data without latent variables, or with a size alone."""
    loader = DATASETS[data]
    dataset = loader() if data in ("digits", "photos") else loader(default_root())
    chosen = fixed_rows(len(dataset.test), EVALUATED[data])
    train, test = dataset.split("train").numpy(), dataset.test[chosen].numpy()
    if name == HISTOGRAM:
        density = histogram(train, dataset.levels or 2)(test)
    else:
        totals = train.sum(1, dtype=np.float64)
        # A cell without molecules has a size above 0 all the same.
        sizes = np.maximum(totals, 1) / totals.mean() if name == FITTED_SIZES else None
        density = negative_binomial_log_density(test, *fit_negative_binomial(train, sizes), sizes)
    average = float(density.mean())
    return {
        "log_evidence": average,
        "log_evidence_se": float(density.std(ddof=1) / math.sqrt(len(density))),
        "bits_per_dim": -average / (math.prod(dataset.event_shape) * math.log(2)),
        "n": len(density),
        **provenance(),
    }


def row_of(name: str) -> Row:
    """A row from its name, "data:likelihood" or "data:likelihood:library"."""
    data, likelihood, *variant = name.split(":")
    title = ", ".join((data, likelihood, *variant))
    if likelihood in BASELINES:
        command = "python scripts/studies/likelihoods.py --only {row} --seeds {seed}"
        return Row(
            title=title, command=command, make=partial(baseline, data, likelihood), once=True
        )
    library = " --likelihood.library true" if variant else ""
    return Row(f"--data {data} --likelihood {likelihood}{library} {NETWORKS[data]}", title=title)


IMAGES = ("digits", "freyface", "photos")
BITS = [row for data in IMAGES for row in names(data, "integers", "unit")]
# Densities on the real line, which compare with no code length.
DENSITIES = [row for data in IMAGES[1:] for row in names(data, "real")]
COUNTS = names("mouse_bladder", "counts")
REST = (
    ("KL", mean("kl", 1)),
    ("active units", mean("active_units", 1)),
    ("k-hat above", mean("khat_share_above")),
    ("epochs", mean("epochs", 0)),
)
TABLES = (
    (
        BITS,
        ("bits per dimension", mean("bits_per_dim", 3)),
        (
            "Bits per dimension of the levels, lower is better: one column for likelihoods of "
            "integers and, as an upper bound, for densities on [0, 1] of dequantised levels (v + "
            "u) / levels. `histogram` is a histogram of each pixel with one added to each level, "
            "without latent variables."
        ),
    ),
    (
        DENSITIES,
        ("log p(x), nats", mean("log_evidence", 1)),
        (
            "Densities on the real line of v / (levels - 1) without noise, higher is better. "
            "They compare with one another and with nothing above: levels are points, and a "
            "density there may grow without bound."
        ),
    ),
    (
        COUNTS,
        ("log p(x), nats", mean("log_evidence", 1)),
        (
            "Cells of 1,000 genes, higher is better. `fitted_negative_binomial` has a mean and a "
            "dispersion for each gene by maximum likelihood and no latent variables; "
            "`fitted_with_sizes` has the size of the cell as its one latent variable, with the "
            "sizes of the training cells as its prior."
        ),
    ),
)


def tables(study: Study, results: Results) -> str:
    """Levels in bits, real densities and counts in nats."""
    parts = []
    for rows, column, note in TABLES:
        if table := study.table(results, rows, (column, *REST)):
            parts += [table, note]
    sizes = ", ".join(f"{n} of {data}" for data, n in EVALUATED.items())
    parts.append(
        "Mean and standard deviation over seeds; the epoch of the best validation ELBO is "
        f"evaluated, with 1,000 draws on fixed test data ({sizes}). `epochs` is the length of "
        f"training. {made_with(results)}"
    )
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in findings(results))])


def findings(results: Results) -> list[str]:
    """What the best likelihood of each data set gains on the baselines."""
    lines = []
    for data in EVALUATED:
        value, best_of, unit = (
            ("bits_per_dim", min, "bits per dimension")
            if data in IMAGES
            else ("log_evidence", max, "nats per cell")
        )
        means = {}
        for row in (*BITS, *COUNTS):
            if row.startswith(f"{data}:") and (cells := cells_of(results, row)):
                means[row] = float(
                    mean_and_spread([c[value] for c in cells.values()], 6).split()[0]
                )
        best = best_of(
            (row for row in means if row.split(":")[1] not in BASELINES), key=means.__getitem__
        )
        gained = ", ".join(
            f"{row.split(':')[1]} {abs(means[best] - means[row]):+.2f}"
            for row in means
            if row.split(":")[1] in BASELINES
        )
        lines.append(
            f"{data}: best is {', '.join(best.split(':')[1:])}; {unit} gained on {gained}"
        )
    return lines


def measure(run: Path, row: str, _options: argparse.Namespace) -> Cell:
    """The evaluation on the study's own number of test data."""
    return evaluated(run, at_most=EVALUATED[row.split(":")[0]])


STUDY = Study(
    name="likelihoods",
    about=__doc__,
    rows={name: row_of(name) for name in (*BITS, *DENSITIES, *COUNTS)},
    command="python scripts/studies/likelihoods.py --only {row} --steps {steps} --seeds {seed}",
    # The data are small: the epoch of the best validation ELBO is evaluated.
    train=(
        "{words} --early-stopping 20 --epochs 100000 --max-steps {steps} --evaluate none"
        " --seed {seed}"
    ),
    measure=measure,
    options={"steps": 5000},
    first="data, likelihood",
    tables=tables,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
