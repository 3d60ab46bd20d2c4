"""Is one sample enough: the noise of the gradient, and the bound, by the number of particles.

`python scripts/studies/particles.py` trains a VAE of MNIST for a few epochs, and measures at its
parameters and a fixed batch what is not in `particles.json` yet, objective by objective; stopped and
started again, it trains again and goes on with the next. It draws `particles.png` beside itself.
`--run` measures at the parameters of a run of one's own. `--table` prints what is there,
`--write PAGE` puts it between that page's markers.

References:
    Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
    https://arxiv.org/abs/1802.04537
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.particles import (
    Bound,
    GradientNoise,
    ParticleNoise,
    elbo_of,
    iwae_of,
    particle_noise,
    plot_particles,
)
from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    read_results,
    run_study,
    study_parser,
    trained,
    with_test_data,
)
from pyro_vae.objectives import OBJECTIVES, Objective
from pyro_vae.runs.provenance import provenance

PARTICLES = (1, 2, 4, 8, 16, 32, 64)
BATCH = 50
# MIWAE's groups are two where there are draws for two.
GROUPS = 2
CIWAE_ELBO_SHARE = 0.5
SETTING = (
    *("--data", "mnist", "--latent-dim", "20", "--network.hidden", "[200]"),
    *("--batch-size", "100", "--lr", "0.001", "--evaluate", "none"),
)
RESULTS = Path(__file__).with_suffix(".json")


def _grouped(log_weight: Tensor) -> Tensor:
    """The mean over groups of draws of the bound of each."""
    groups = min(GROUPS, len(log_weight))
    return torch.stack([iwae_of(part) for part in log_weight.chunk(groups)]).mean(0)


def _combined(log_weight: Tensor) -> Tensor:
    """A share of the ELBO, and the rest of the bound of importance weighting."""
    return CIWAE_ELBO_SHARE * elbo_of(log_weight) + (1 - CIWAE_ELBO_SHARE) * iwae_of(log_weight)


def _groups(particles: int) -> dict[str, Any]:
    groups = min(GROUPS, particles)
    return {"groups": groups, "particles_per_group": particles // groups}


def _particles(particles: int, **options: Any) -> dict[str, Any]:
    return {"num_particles": particles, **options}


# For each objective with a bound of log p(x) that draws estimate: that bound, and the options for K.
COMPARED: dict[str, tuple[Bound, Callable[[int], dict[str, Any]]]] = {
    "elbo": (elbo_of, _particles),
    "stl": (elbo_of, _particles),
    "iwae": (iwae_of, _particles),
    "dreg": (iwae_of, _particles),
    "miwae": (_grouped, _groups),
    "ciwae": (_combined, partial(_particles, elbo_share=CIWAE_ELBO_SHARE)),
}


def rows() -> list[str]:
    """The objectives compared: those with a bound that tightens, or not, with particles."""
    return [name for name in COMPARED if name in OBJECTIVES]


def objective_of(row: str, num_particles: int) -> Objective:
    """A row's objective with so many draws in all."""
    constructor: Callable[..., Objective] = OBJECTIVES[row]
    return constructor(**COMPARED[row][1](num_particles))


def groups_of(vae: Any) -> dict[str, list[Tensor]]:
    """The parameters of encoder and decoder."""
    parts: Mapping[str, nn.Module] = {"encoder": vae.posterior, "decoder": vae.likelihood}
    return {
        name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()
    }


def measured(vae: Any, x: Tensor, row: str, seed: int, repeats: int) -> Cell:
    """The noise of a row's gradients, K by K."""
    points = [
        particle_noise(
            vae,
            objective_of(row, num_particles),
            x,
            groups_of(vae),
            bound=COMPARED[row][0],
            repeats=repeats,
            seed=seed,
        )
        for num_particles in PARTICLES
    ]
    # `asdict` leaves out what is no field.
    entries = [asdict(point) for point in points]
    return {"points": entries, "repeats": repeats, "batch": len(x), **provenance()}


def points_of(cell: Cell) -> list[ParticleNoise]:
    """What a cell holds, as it was measured."""
    return [
        ParticleNoise(
            **{
                **point,
                "gradients": {n: GradientNoise(**g) for n, g in point["gradients"].items()},
            }
        )
        for point in cell["points"]
    ]


# ---- tables ------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """The results in Markdown: one particle beside the most, for each objective."""
    header = (
        *("objective", "bound, K = 1", f"bound, K = {PARTICLES[-1]}"),
        *("encoder, variance falls by", "encoder, SNR", "decoder, variance falls by"),
        *("decoder, SNR", "command"),
    )
    lines, first = [], None
    for row in COMPARED:
        cells = cells_of(results, row)
        if not cells:
            continue
        # One seed: what is measured has an error of its own.
        cell = next(iter(cells.values()))
        first = first or cell
        one, *_, most = points_of(cell)
        columns = []
        for group in ("encoder", "decoder"):
            before, after = one.gradients[group], most.gradients[group]
            columns += [
                f"{before.variance / after.variance:.1f}" if after.variance else "not defined",
                f"{before.signal_to_noise:.2f} to {after.signal_to_noise:.2f}",
            ]
        command = f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}"
        lines.append((row, f"{one.bound:.2f}", f"{most.bound:.2f}", *columns, command))
    if first is None:
        return "No cell has been made yet."
    note = (
        f"Nats per datum, {first['repeats']} gradients of one batch of {first['batch']} test images at "
        "fixed parameters of a VAE that the ELBO has trained. The variance is the trace of the gradient's "
        f"covariance, and falls by a factor of {PARTICLES[-1]} where draws are averaged. SNR is the norm of "
        f"the mean gradient over the root of that trace. K counts all draws: miwae has them in {GROUPS} "
        f"groups, and ciwae has {CIWAE_ELBO_SHARE:g} of the ELBO. {made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note])


def draw(results: Results, path: Path) -> None:
    """Write the figure of what is there, of the first seed of each objective."""
    curves = {
        row: points_of(next(iter(c.values()))) for row in COMPARED if (c := cells_of(results, row))
    }
    if curves:
        plot_particles(curves).savefig(path, dpi=130)


# ---- the program -------------------------------------------------------------------------------


def command_of(row: str, seed: int, options: argparse.Namespace) -> str:
    """What to type, at the root of a checkout, to get a cell; the seed comes last."""
    where = ["--run", str(options.run)] if options.run else ["--epochs", str(options.epochs)]
    program = ["python", "scripts/studies/particles.py", "--only", row, *where]
    return shlex.join([*program, "--repeats", str(options.repeats), "--seeds", str(seed)])


@contextmanager
def _run_of(options: argparse.Namespace, seed: int) -> Iterator[Path]:
    arguments = [*SETTING, "--epochs", str(options.epochs), "--seed", str(seed)]
    with nullcontext(options.run) if options.run else trained(arguments) as run:
        yield run


def fill(options: argparse.Namespace) -> None:
    """Measure what is not there yet, store it objective by objective, and draw it."""
    for seed in options.seeds:
        commands = {row: command_of(row, seed, options) for row in options.only}
        there = read_results(options.results)
        if not options.again and all(
            there.get(f"{row}/{seed}", {}).get("command") == command
            for row, command in commands.items()
        ):
            continue
        with _run_of(options, seed) as run:
            vae, _, x = with_test_data(run, BATCH)
            for row, command in commands.items():
                make = partial(measured, vae, x.float(), row, seed, options.repeats)
                fill_cell(options.results, f"{row}/{seed}", command, make, again=options.again)
    draw(read_results(options.results), options.results.with_suffix(".png"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,), help="These seeds.")
    parser.add_argument("--epochs", type=int, default=3, help="Passes over MNIST, to train.")
    parser.add_argument("--repeats", type=int, default=100, help="Gradients for each K.")
    parser.add_argument("--run", type=Path, help="Measure at the parameters of this run.")
    options = parser.parse_args(arguments)
    return run_study("particles", options, partial(fill, options), tables)


if __name__ == "__main__":
    sys.exit(main())
