"""Forecasts of sequences: a deep Kalman filter beside persistence and a VAE frame by frame.

On one core it takes about twelve minutes.
"""

import argparse
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from analysis.programs.sequence import DRAWS, LEVEL, Forecast, forecast
from analysis.study import Row, Study, with_test_data
from analysis.study_results import Cell, Results, cells_of, made_with, mean
from pyro_vae import build, fit
from pyro_vae.data import Dataset, PreparedData, default_root, freyface_sequences, pendulum
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.npz_sets import freyface_frames
from pyro_vae.data.sequences import FREYFACE_FRAMES
from pyro_vae.evidence import evaluate
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import provenance

SETS = {"freyface_sequences": "Frey faces, in order", "pendulum": "Pendulum"}
# Frames of a sequence and observed ones of these, sequences of a batch, dimensions of the code of
# a frame, and the width of the hidden layer of encoders and decoders.
LENGTH, OBSERVED, BATCH, LATENT, HIDDEN = 20, 10, 32, 8, 200
LR, PATIENCE = 0.002, 30
# The video is short: without a warm-up of the KL the program ignores its codes, and an epoch has
# nine steps.
OPTIONS = f"--early-stopping {PATIENCE}"
# The codes that the autoregression reads: one frame shows no velocity.
ORDER = 2
# Draws of each example for the ELBO.
ELBO_DRAWS = 20


@cache
def sequences(name: str) -> PreparedData:
    """The sequences, for a likelihood of real data."""
    made = pendulum() if name == "pendulum" else freyface_sequences(default_root())
    return PreparedData(made, "real")


@cache
def frames(name: str) -> PreparedData:
    """The frames of the same splits, each once."""
    if name == "pendulum":
        found = pendulum()
        train, validation, test = (found.split(split).flatten(0, 1) for split in SPLITS)
        return PreparedData(Dataset(name, "real", None, train, validation, test), "real")
    train, validation, test = freyface_frames(default_root()).split(FREYFACE_FRAMES)
    return PreparedData(Dataset(name, "integers", 256, train, validation, test), "real")


def values(data: PreparedData, split: str) -> Tensor:
    """A split in the likelihood's support, in memory."""
    found = data.fixed(split)
    assert isinstance(found, Tensor)
    return found


def deep_kalman_filter(run: Path, row: str, _options: argparse.Namespace) -> Cell:
    """A trained program's forecasts."""
    program, _, _ = with_test_data(run, at_most=1)
    x = values(sequences(row.partition(":")[0]), "test")
    found, truth = forecast(program, x, OBSERVED, program.contract)
    bound = evaluate(program, x, num_samples=ELBO_DRAWS, compile="off").importance_weighting
    return {**entries(found, truth), "elbo": bound.elbo.mean() / LENGTH, **of_program(program)}


def persistence(name: str, _seed: int, _options: argparse.Namespace) -> Cell:
    """The last frame stays; intervals are quantiles of the changes in training sequences."""
    data = sequences(name)
    scale = float((data.dataset.levels or 2) - 1)
    train, x = (scale * values(data, split).double().numpy() for split in ("train", "test"))
    last, steps = x[:, OBSERVED - 1 : OBSERVED], range(1, LENGTH - OBSERVED + 1)
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    changes = [np.quantile(train[:, h:] - train[:, :-h], tails, axis=(0, 1)) for h in steps]
    low, high = np.stack(changes, 1)
    found = Forecast(np.repeat(last, len(steps), 1), last + low, last + high)
    return {**entries(found, x[:, OBSERVED:]), **provenance()}


@cache
def trained_vae(name: str, seed: int, steps: int) -> Any:
    """A VAE of frames, with the networks, the steps and the frames per step of the program."""
    data = frames(name)
    pyro.set_rng_seed(seed)
    vae = build(
        data.dataset.event_shape,
        LATENT,
        likelihood=partial(Normal, scale="element"),
        network=partial(MLP, hidden=(HIDDEN,)),
    )
    batch = BATCH * LENGTH
    options = {"lr": LR, "early_stopping": PATIENCE, "epochs": 100_000, "compile": "graph"}
    fit(vae, data, batch_size=batch, max_steps=steps, **options)
    return vae


def frame_by_frame(name: str, seed: int, options: argparse.Namespace, *, order: int) -> Cell:
    """Codes of the observed frames, followed by an autoregression; of order 0, the last stays."""
    vae = trained_vae(name, seed, options.max_steps or options.steps)
    data = sequences(name)
    x = values(data, "test")
    with evaluation_mode(vae, seed=0):
        ahead = LENGTH - OBSERVED
        if order:
            # Of means, on means: a draw's noise is large where the means hardly vary.
            z = vae.embed(x[:, OBSERVED - order : OBSERVED]).expand(DRAWS, -1, -1, -1)
            z = continued(z, *autoregression(vae.embed(values(data, "train")), order), ahead)
        else:
            z = vae.posterior(x[:, OBSERVED - 1 : OBSERVED]).sample((DRAWS,))
            z = z.expand(-1, -1, ahead, -1)
        forecasts = Forecast.from_likelihood(vae.likelihood(z), vae.contract)
        truth = vae.contract.to_data_units(x[:, OBSERVED:], draws=True)
    x = values(frames(name), "test")
    bound = evaluate(vae, x, num_samples=ELBO_DRAWS, compile="off").importance_weighting
    found = entries(forecasts, truth.double().numpy())
    return {**found, "elbo": bound.elbo.mean(), **of_program(vae)}


def autoregression(codes: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Coefficients of z_t on z_(t - 1), ..., 1 by least squares, and the errors' Cholesky root."""
    times = range(order, codes.shape[1])
    rows = torch.cat([lagged(codes[:, t - order : t]) for t in times])
    targets = torch.cat([codes[:, t] for t in times])
    weight = torch.linalg.lstsq(rows, targets).solution
    errors = targets - rows @ weight
    return weight, torch.linalg.cholesky(errors.mT @ errors / len(errors))


def lagged(codes: Tensor) -> Tensor:
    """The codes of the times before the next, the earliest first, and a 1."""
    return torch.cat([codes.flatten(-2), torch.ones_like(codes[..., 0, :1])], -1)


def continued(z: Tensor, weight: Tensor, root: Tensor, steps: int) -> Tensor:
    """Draws of the next codes."""
    order = z.shape[-2]
    for _ in range(steps):
        mean = lagged(z[..., -order:, :]) @ weight
        z = torch.cat([z, (mean + torch.randn_like(mean) @ root.mT).unsqueeze(-2)], -2)
    return z[..., order:, :]


def of_program(program: Any) -> Cell:
    """The number of parameters, and the versions."""
    count = sum(parameter.numel() for parameter in program.parameters())
    return {"parameters": count, **provenance()}


def entries(found: Forecast, truth: np.ndarray) -> Cell:
    """Errors, coverage and widths at the first and the last horizon, and over all."""
    rmse, coverage, width = found.rmse(truth), found.coverage(truth), found.width()
    return {
        "rmse_first": float(rmse[0]),
        "rmse_last": float(rmse[-1]),
        "rmse": float(np.sqrt((rmse**2).mean())),
        "coverage_first": float(coverage[0]),
        "coverage_last": float(coverage[-1]),
        "coverage": float(coverage.mean()),
        "width": float(width.mean()),
        "n": len(truth),
    }


def tables(study: Study, results: Results) -> str:
    """A table for each set, and what is asked of the intervals."""
    parts = []
    for name, title in SETS.items():
        rows = [row for row in ROWS if row.startswith(f"{name}:")]
        digits = 1 if name == "freyface_sequences" else 3
        parts += [f"## {title}", study.table(results, rows, columns(digits))]
        parts.append("\n".join(findings(results, name)))
    return "\n\n".join([*filter(None, parts), f"{NOTE} {made_with(results)}"])


def findings(results: Results, name: str) -> list[str]:
    """The program beside the best other, and whether its intervals cover 0.87 to 0.93."""
    cells = cells_of(results, f"{name}:sequence")
    if not cells:
        return []
    lines = []
    for key, words in (("rmse_first", "one frame"), ("rmse_last", "ten frames")):
        others = {
            ROWS[row].title: np.mean([cell[key] for cell in cells_of(results, row).values()])
            for row in ROWS
            if row.startswith(f"{name}:") and row != f"{name}:sequence" and cells_of(results, row)
        }
        if others:
            best = min(others, key=lambda title: others[title])
            ratio = np.mean([cell[key] for cell in cells.values()]) / others[best]
            lines.append(
                f"- {words} ahead: error {ratio:.2f} times that of the best other, {best}"
            )
    coverage = float(np.mean([cell["coverage"] for cell in cells.values()]))
    verdict = "reached" if abs(coverage - LEVEL) <= 0.03 else "missed"
    lines.append(
        f"- 90 % intervals of the program cover {coverage:.3f}; target, within 3 points: {verdict}"
    )
    return lines


def columns(digits: int) -> tuple[Any, ...]:
    """The columns of a table."""
    return (
        ("RMSE, 1 ahead", mean("rmse_first", digits)),
        ("RMSE, 10 ahead", mean("rmse_last", digits)),
        ("coverage, 1", mean("coverage_first", 3)),
        ("coverage, 10", mean("coverage_last", 3)),
        ("coverage, all", mean("coverage", 3)),
        ("width", mean("width", digits)),
        ("ELBO per frame", mean("elbo", 1)),
    )


def rows_of(name: str) -> dict[str, Row]:
    """The rows of a set."""
    command = "python scripts/studies/sequence.py --only {row} --seeds {seed}"
    steps = "python scripts/studies/sequence.py --only {row} --steps {steps} --seeds {seed}"
    made = {
        "persistence": Row(
            title="persistence", command=command, make=partial(persistence, name), once=True
        ),
        "vae": Row(
            title="VAE frame by frame, the last code stays",
            command=steps,
            make=partial(frame_by_frame, name, order=0),
        ),
        "autoregression": Row(
            title=f"VAE frame by frame, linear autoregression of order {ORDER} on its codes",
            command=steps,
            make=partial(frame_by_frame, name, order=ORDER),
        ),
        "sequence": Row(
            f"--data {name} {OPTIONS}", title="deep Kalman filter, `--model sequence`"
        ),
    }
    return {f"{name}:{row}": entry for row, entry in made.items()}


ROWS = {row: entry for name in SETS for row, entry in rows_of(name).items()}
NOTE = (
    f"Mean and standard deviation over seeds. The first {OBSERVED} of the {LENGTH} frames of each "
    "test sequence are observed, the others forecast, in the units of the data: grey levels 0 to "
    "255; brightness, with noise of 0.1, below which no error can be. RMSE is that of the mean, "
    f"coverage the share of the elements within 90 % intervals from {DRAWS} draws, which include "
    "the noise of p(x | z); persistence has the quantiles of the changes in training sequences. "
    "Of the video, the first 1,365 frames train, 200 validate and the last 400 are the test. All "
    f"models have a normal likelihood with a scale for each pixel, {LATENT} latent dimensions for "
    f"each frame, one hidden layer of {HIDDEN} in encoder and decoder, {BATCH * LENGTH} frames a "
    "step, and the epoch of the best validation ELBO. The ELBO, on test data with "
    f"{ELBO_DRAWS} draws, is of densities: of brightness on the pendulum, of v / 255 on the faces."
)
STUDY = Study(
    name="sequence",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/sequence.py --only {row} --steps {steps} --seeds {seed}",
    train=(
        "--model sequence {words} --likelihood normal --likelihood.scale element "
        f"--latent-dim {LATENT} --network.hidden [{HIDDEN}] --batch-size {BATCH} --lr {LR} "
        "--epochs 100000 --max-steps {steps} --compile graph "
        "--evaluate none --seed {seed}"
    ),
    measure=deep_kalman_filter,
    options={"steps": 2000},
    tables=tables,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
