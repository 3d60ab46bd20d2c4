"""Tables and arrays in their own units: log p(x) of a VAE beside a standardised factor analysis.

`python scripts/studies/tables.py` trains what is not in `tables.json` yet, on files that it writes from
scikit-learn's tables, the data root and two made sets; `--table` prints what is there, and
`--write docs/your-data.md` puts it between that page's markers. Both models see the same rows and
give log densities in the units of the data. On two cores it takes about half an hour.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study import (
    Cell,
    Results,
    cells_of,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    svi_train,
)
from pyro_vae.data import array_file, default_root, freyface, mouse_bladder
from pyro_vae.data.values import Support
from pyro_vae.evidence.baseline_densities import factor_analysis

KEPT = (
    *("scale", "likelihood", "seed", "steps", "epochs", "n", "n_train", "log_evidence"),
    *("log_evidence_se", "log_evidence_samples", "active_units", "khat_share_above"),
    *("torch", "pyro", "git_commit"),
)
RESULTS = Path(__file__).with_suffix(".json")


def scikit_learn(name: str, **options: Any) -> np.ndarray:
    """One of scikit-learn's tables, in its own units."""
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(**options).data


def housing() -> np.ndarray:
    """A made table like California housing: skewed incomes and populations, ages cut at 52, places."""
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


ROWS: dict[str, tuple[Callable[[], np.ndarray], Support]] = {
    "iris": (partial(scikit_learn, "iris"), "real"),
    "wine": (partial(scikit_learn, "wine"), "real"),
    "diabetes": (partial(scikit_learn, "diabetes", scaled=False), "real"),
    "breast_cancer": (partial(scikit_learn, "breast_cancer"), "real"),
    "housing": (housing, "real"),
    "spectra": (spectra, "real"),
    "faces": (faces, "real"),
    "genes": (genes, "counts"),
}


def cell(row: str, seed: int) -> Cell:
    """The VAE's and the factor analysis' log p(x) of the same test data."""
    make, support = ROWS[row]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{row}.npy"
        np.save(path, make())
        given = ["--data", str(path), "--data.support", support]
        given += ["--seed", str(seed), "--evaluate", "full"]
        found = svi_train(given, KEPT)
        data = array_file(path, support=support)
    # Of counts + u with u ~ Uniform(0, 1), whose mean log density is below the log mass of the counts.
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


def tables(results: Results) -> str:
    """The results in Markdown, a row a data set, and where the VAE is not ahead."""
    header = (
        *("data", "rows x columns", "likelihood", "factor analysis (factors)", "VAE"),
        *("VAE above by", "steps", "command"),
    )
    rows: list[tuple[str, ...]] = []
    behind: list[str] = []
    for row in ROWS:
        cells = cells_of(results, row)
        if not cells:
            continue
        first = next(iter(cells.values()))
        above = [each["log_evidence"] - each["factor_analysis"] for each in cells.values()]
        if min(above) <= 0:
            behind.append(row)
        rows.append(
            (
                row,
                f"{first['n_train']:,} x {first['columns']:,}",
                first["likelihood"],
                f"{first['factor_analysis']:.2f} ({first['factors']})",
                mean_and_spread([each["log_evidence"] for each in cells.values()]),
                mean_and_spread(above),
                mean_and_spread([each["steps"] for each in cells.values()], digits=0),
                f"`python scripts/studies/tables.py --only {row} --seeds S`, S = {', '.join(map(str, cells))}",
            )
        )
    note = (
        "Nats per row in the units of the data, all test rows, 1,000 importance samples, mean and standard deviation "
        "over seeds. `rows` are training rows. "
    )
    said = f"Not ahead with every seed: {', '.join(behind) or 'none'}. "
    return f"{markdown(header, rows)}\n\n{note}{said}{made_with(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="These sets.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    options = parser.parse_args(arguments)
    return run_study("tables", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it row by row."""
    for seed in options.seeds:
        for row in options.only:
            command = f"python scripts/studies/tables.py --only {row} --seeds {seed}"
            name, make = f"{row}/{seed}", partial(cell, row, seed)
            fill_cell(options.results, name, command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
