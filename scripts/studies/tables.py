"""Tables and arrays in their own units: log p(x) of a VAE beside factor analysis.

Both models see the same rows and give log densities in the units of the data. On two cores it
takes about half an hour.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study import Row, Study, metrics_of, trained
from analysis.study_results import Cell, Results, cells_of, mean, mean_and_spread
from pyro_vae.data import array_file, default_root, freyface, mouse_bladder
from pyro_vae.data.validation import Support
from pyro_vae.evidence.baseline_densities import factor_analysis


def scikit_learn(name: str, **options: Any) -> np.ndarray:
    """One of scikit-learn's tables, in its own units."""
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(**options).data


def housing() -> np.ndarray:
    """A made table like California housing: skewed incomes, ages cut at 52, places."""
    rng = np.random.default_rng(0)
    wealth, age, size = rng.normal(size=(3, 4000))
    noise = rng.normal(size=(6, 4000))
    income = np.exp(1.2 + 0.45 * wealth + 0.1 * noise[0])
    rooms = np.exp(1.6 + 0.25 * wealth + 0.2 * noise[1])
    columns = [
        income,
        np.minimum(28 + 12 * age + 3 * noise[2], 52),
        rooms,
        rooms / 5 * np.exp(0.05 * noise[3]),
        np.exp(7 + 0.7 * size),
        35.6 + 2 * np.tanh(2 * age) + 0.3 * noise[4],
        -119.5 - 2 * np.tanh(2 * age) + 0.3 * noise[5],
        4.5e4 * income * np.exp(0.3 * rng.normal(size=4000)),
    ]
    return np.stack(columns, 1)


def spectra() -> np.ndarray:
    """Made Raman-like spectra: four peaks that shift together, a falling background, and noise."""
    rng = np.random.default_rng(0)
    x = np.linspace(400, 1800, 128)
    place, width = np.array([520.0, 700, 1003, 1450]), np.array([15.0, 25, 8, 40])
    height = rng.gamma(4, 0.25, (600, 4)) * [800, 500, 1200, 600]
    shift = rng.normal(0, 3, (600, 1, 1))
    peaks = np.exp(-0.5 * ((x - place[:, None] - shift) / width[:, None]) ** 2)
    background = 2000 * np.exp(-(x - 400) / 900) * rng.gamma(9, 1 / 9, (600, 1))
    return (height[:, :, None] * peaks).sum(1) + background + rng.normal(0, 20, (600, 128))


def faces() -> np.ndarray:
    """The Frey faces as numbers from 0 to 255."""
    data = freyface(default_root())
    parts = [data.split(split).flatten(1) for split in ("train", "validation", "test")]
    return np.concatenate([part.numpy() for part in parts]).astype(np.float32)


def genes() -> np.ndarray:
    """Counts of the 200 most variable genes of mouse bladder cells."""
    data = mouse_bladder(default_root(), genes=200)
    parts = [data.split(split) for split in ("train", "validation", "test")]
    return np.concatenate([part.numpy() for part in parts]).astype(np.int32)


DATA: dict[str, tuple[Callable[[], np.ndarray], Support]] = {
    "iris": (partial(scikit_learn, "iris"), "real"),
    "wine": (partial(scikit_learn, "wine"), "real"),
    "diabetes": (partial(scikit_learn, "diabetes", scaled=False), "real"),
    "breast_cancer": (partial(scikit_learn, "breast_cancer"), "real"),
    "housing": (housing, "real"),
    "spectra": (spectra, "real"),
    "faces": (faces, "real"),
    "genes": (genes, "counts"),
}


def compare(row: str, seed: int, options: argparse.Namespace) -> Cell:
    """The VAE's and the factor analysis' log p(x) of the same test data."""
    make, support = DATA[row]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{row}.npy"
        np.save(path, make())
        given = ["--data", str(path), "--data.support", support]
        given += ["--seed", str(seed), "--evaluate", "full"]
        if options.max_steps is not None:
            given += ["--max-steps", str(options.max_steps)]
        with trained(given) as run:
            found = metrics_of(run)
        data = array_file(path, support=support)
    # Of counts + u with u ~ Uniform(0, 1), whose mean log density is below the log mass of the
    # counts.
    uniform = np.random.default_rng(0)
    parts = []
    for split in ("train", "validation", "test"):
        x = data.split(split).double().numpy()
        parts.append(x + uniform.random(x.shape) if support == "counts" else x)
    train, validation, test = parts
    fitted = factor_analysis(train, validation)
    log_density = fitted.log_density(test)
    return {
        **found,
        "columns": data.event_shape[0],
        "factors": fitted.factors,
        "factor_analysis": float(log_density.mean()),
        "factor_analysis_se": float(log_density.std(ddof=1) / len(log_density) ** 0.5),
    }


def above(cells: list[Cell]) -> list[float]:
    """The differences of log p(x) of the VAE and of factor analysis."""
    return [cell["log_evidence"] - cell["factor_analysis"] for cell in cells]


def findings(results: Results) -> list[str]:
    """Where the VAE is not ahead."""
    behind = [
        row for row in DATA if (c := cells_of(results, row)) and min(above([*c.values()])) <= 0
    ]
    return [f"Not ahead with every seed: {', '.join(behind) or 'none'}"]


STUDY = Study(
    name="tables",
    about=__doc__,
    rows={name: Row(make=partial(compare, name)) for name in DATA},
    command="python scripts/studies/tables.py --only {row} --seeds {seed}",
    first="data",
    columns=(
        ("rows x columns", lambda cells: f"{cells[0]['n_train']:,} x {cells[0]['columns']:,}"),
        ("likelihood", lambda cells: cells[0]["likelihood"]),
        (
            "factor analysis (factors)",
            lambda cells: f"{cells[0]['factor_analysis']:.2f} ({cells[0]['factors']})",
        ),
        ("VAE", mean("log_evidence")),
        ("VAE above by", lambda cells: mean_and_spread(above(cells))),
        ("steps", mean("steps", 0)),
    ),
    note=(
        "Nats per row in the units of the data, all test rows, 1,000 importance samples, mean "
        "and standard deviation over seeds. `rows` are training rows."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
