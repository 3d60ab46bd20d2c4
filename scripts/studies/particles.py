"""Is one sample enough: the noise of the gradient, and the bound, by the number of particles.

Trains a VAE of MNIST for a few epochs and measures at its parameters with a fixed batch; `--run`
uses the parameters of another run.

References:
    Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
    https://arxiv.org/abs/1802.04537
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analysis.particles import (
    Bound,
    GradientNoise,
    ParticleNoise,
    elbo_of,
    iwae_of,
    particle_noise,
    plot_particles,
)
from analysis.study import ROOT, Row, Study, trained, with_test_data
from analysis.study_results import Cell, Results, cells_of
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.runs.run_directory import provenance

PARTICLES = (1, 2, 4, 8, 16, 32, 64)
BATCH = 50
# miwae has two groups where there are draws for two.
GROUPS = 2
CIWAE_ELBO_SHARE = 0.5
FIGURE = ROOT / "docs" / "results" / "figures" / "particles.png"
SETTING = (
    "--data mnist --latent-dim 20 --network.hidden [200] --batch-size 100 --lr 0.001"
    " --evaluate none"
)


def grouped(log_weight: Tensor) -> Tensor:
    """The mean over groups of draws of the bound of each."""
    groups = min(GROUPS, len(log_weight))
    return torch.stack([iwae_of(part) for part in log_weight.chunk(groups)]).mean(0)


def combined(log_weight: Tensor) -> Tensor:
    """A share of the ELBO, and the rest of the bound of importance weighting."""
    return CIWAE_ELBO_SHARE * elbo_of(log_weight) + (1 - CIWAE_ELBO_SHARE) * iwae_of(log_weight)


def groups_of(particles: int) -> dict[str, Any]:
    """The options of miwae for a number of draws in all."""
    groups = min(GROUPS, particles)
    return {"groups": groups, "particles_per_group": particles // groups}


def draws_of(particles: int, **options: Any) -> dict[str, Any]:
    """The options of other objectives."""
    return {"num_particles": particles, **options}


# For each objective with a bound that draws estimate: that bound, and the options for K draws.
COMPARED: dict[str, tuple[Bound, Callable[[int], dict[str, Any]]]] = {
    "elbo": (elbo_of, draws_of),
    "stl": (elbo_of, draws_of),
    "iwae": (iwae_of, draws_of),
    "dreg": (iwae_of, draws_of),
    "miwae": (grouped, groups_of),
    "ciwae": (combined, partial(draws_of, elbo_share=CIWAE_ELBO_SHARE)),
}
# Trained runs by seed and epochs, shared by the rows.
TRAINED: dict[tuple[int, int], tuple[Any, Tensor]] = {}


def trained_vae(seed: int, options: argparse.Namespace) -> tuple[Any, Tensor]:
    """The VAE of `--run`, or one trained with this seed, and the batch."""
    if options.run:
        vae, _, x = with_test_data(options.run, BATCH)
        return vae, x.float()
    key = (seed, options.epochs)
    if key not in TRAINED:
        steps = [] if options.max_steps is None else ["--max-steps", str(options.max_steps)]
        words = [*SETTING.split(), "--epochs", str(options.epochs), *steps, "--seed", str(seed)]
        with trained(words) as run:
            vae, _, x = with_test_data(run, BATCH)
            TRAINED[key] = vae, x.float()
    return TRAINED[key]


def noise(name: str, seed: int, options: argparse.Namespace) -> Cell:
    """The noise of an objective's gradients, K by K."""
    vae, x = trained_vae(seed, options)
    groups = {
        part: [p for p in module.parameters() if p.requires_grad]
        for part, module in (("encoder", vae.posterior), ("decoder", vae.likelihood))
    }
    constructor: Callable[..., Any] = OBJECTIVES[name]
    bound, options_of = COMPARED[name]
    points = [
        particle_noise(
            vae,
            constructor(**options_of(k)),
            x,
            groups,
            bound=bound,
            repeats=options.repeats,
            seed=seed,
        )
        for k in PARTICLES
    ]
    return {
        "points": [asdict(point) for point in points],
        "repeats": options.repeats,
        "batch": len(x),
        **provenance(),
    }


def points_of(cell: Cell) -> list[ParticleNoise]:
    """The measurements that a cell stores."""
    return [
        ParticleNoise(
            **{**p, "gradients": {n: GradientNoise(**g) for n, g in p["gradients"].items()}}
        )
        for p in cell["points"]
    ]


def bound_at(place: int) -> Callable[[list[Cell]], str]:
    """A column of the bound of the first seed, at a place of `PARTICLES`."""
    return lambda cells: f"{points_of(cells[0])[place].bound:.2f}"


def falls(group: str) -> Callable[[list[Cell]], str]:
    """A column of the factor by which the variance of the gradient falls."""

    def text(cells: list[Cell]) -> str:
        one, *_, most = (point.gradients[group].variance for point in points_of(cells[0]))
        return f"{one / most:.1f}" if most else "not defined"

    return text


def ratio(group: str) -> Callable[[list[Cell]], str]:
    """A column of the signal-to-noise ratio for the fewest and the most draws."""

    def text(cells: list[Cell]) -> str:
        one, *_, most = (p.gradients[group].signal_to_noise for p in points_of(cells[0]))
        return f"{one:.2f} to {most:.2f}"

    return text


def draw(results: Results, _options: argparse.Namespace) -> None:
    """Draw the first seed of each objective."""
    if rows := {row: cells for row in COMPARED if (cells := cells_of(results, row))}:
        curves = {row: points_of(next(iter(cells.values()))) for row, cells in rows.items()}
        plot_particles(curves).savefig(FIGURE, dpi=130)


STUDY = Study(
    name="particles",
    about=__doc__,
    rows={name: Row(make=partial(noise, name)) for name in COMPARED if name in OBJECTIVES},
    command=lambda options: (
        "python scripts/studies/particles.py --only {row} "
        + ("--run {run}" if options.run else "--epochs {epochs}")
        + " --repeats {repeats} --seeds {seed}"
    ),
    options={"epochs": 3, "repeats": 100, "run": None},
    seeds=(0,),
    draw=draw,
    first="objective",
    columns=(
        ("bound, K = 1", bound_at(0)),
        (f"bound, K = {PARTICLES[-1]}", bound_at(-1)),
        ("encoder, variance falls by", falls("encoder")),
        ("encoder, SNR", ratio("encoder")),
        ("decoder, variance falls by", falls("decoder")),
        ("decoder, SNR", ratio("decoder")),
    ),
    note=(
        f"Nats per image, 100 gradients of one batch of {BATCH} test images at fixed parameters "
        "of a VAE trained by the ELBO. The variance is the trace of the gradient's covariance, "
        f"and falls by a factor of {PARTICLES[-1]} where draws are averaged. SNR is the norm of "
        "the mean gradient over the root of that trace. K counts all draws: miwae has them in "
        f"{GROUPS} groups, and ciwae has {CIWAE_ELBO_SHARE:g} of the ELBO."
    ),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
