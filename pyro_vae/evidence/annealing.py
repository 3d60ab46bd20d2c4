"""The path from the guide to the joint density, and chains that walk it, chunk of data by chunk."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import torch
from jaxtyping import Float, Real
from pyro.nn import PyroModule
from torch import Tensor
from tqdm import tqdm

from pyro_vae.compilation.work import CompileMode
from pyro_vae.evidence.endpoints import Densities, Endpoints
from pyro_vae.evidence.hamiltonian import adapted_step_sizes, transition
from pyro_vae.rng import as_floats

# Step sizes are found in a pass over a tenth of the temperatures, but no fewer than these, after a few
# more transitions at the first.
_ADAPTATION_SHARE = 10
_FEWEST_ADAPTATIONS = 20
_WARM_UP = 10

# Draws of the guide for the scale of its coordinates, datum by datum.
_SCALE_DRAWS = 64
# The interquartile range of a normal density, in standard deviations.
_NORMAL_RANGE = 1.349


@dataclass(frozen=True)
class Options:
    """How chains walk.

    Args:
        num_chains: The number of chains for each datum.
        num_temperatures: The number T of increments of b from 0 to 1; T - 1 transitions lie between.
        leapfrog_steps: The number of leapfrog steps of a transition.
        max_elements: Chains x data x elements of a datum held at once.
        compile: "off", "on", or "auto" to compile where the counted work pays for it.

    Raises:
        ValueError: If a number is below 1.
    """

    num_chains: int
    num_temperatures: int
    leapfrog_steps: int
    max_elements: int
    compile: CompileMode

    def __post_init__(self) -> None:
        for word in ("num_chains", "num_temperatures", "leapfrog_steps", "max_elements"):
            value = getattr(self, word)
            if value < 1:
                raise ValueError(f"{word} must be at least 1, got {value}.")

    @property
    def adaptations(self) -> int:
        """The number of temperatures of the pass that finds step sizes; 0 without a transition."""
        if self.num_temperatures == 1:
            return 0
        return max(_FEWEST_ADAPTATIONS, -(-self.num_temperatures // _ADAPTATION_SHARE))

    def transitions(self, passes: int) -> int:
        """The transitions of a chunk of data, with so many passes over the path."""
        preliminary = self.adaptations + _WARM_UP if self.adaptations else 0
        return preliminary + passes * (self.num_temperatures - 1)


class Weights(NamedTuple):
    """Log weights of a pass, in nats, and each chain's mean probability of acceptance."""

    log_weights: Float[Tensor, "chains batch"]
    acceptance: Float[Tensor, "chains batch"]


def schedule(num_temperatures: int) -> list[float]:
    """b_0 = 0 < ... < b_T = 1, in equal steps.

    From the prior, steps are often taken shorter near both ends, by a sigmoid, as most changes there.
    From a guide it is not so: with 20 temperatures log weights of a linear-Gaussian VAE spread by 0.77
    nats over a guide half as wide as it should be, and 0.77, 0.77 and 0.80 with sigmoids of slopes 1, 2
    and 4; over one too wide, by 0.75, and 0.75, 0.78 and 0.93.
    """
    return [t / num_temperatures for t in range(num_temperatures + 1)]


@dataclass(frozen=True)
class Chunk:
    """Some data, with all that is fixed before their chains start.

    Args:
        rows: Which of the data they are.
        endpoints: The program's densities.
        densities: They, at these data.
        x: The data; their last row may be repeated.
        path: b_0, ..., b_T.
        step_sizes: The step size of each datum at b_1, ..., b_(T - 1).
        scale: The preconditioner of each datum.
        leapfrog_steps: The number of leapfrog steps.
        bar: Counts transitions.
    """

    rows: slice
    endpoints: Endpoints
    densities: Densities
    x: Tensor
    path: Sequence[float]
    step_sizes: Tensor
    scale: Tensor
    leapfrog_steps: int
    bar: tqdm

    def forward(self) -> Weights:
        """From exact draws of q(z | x) to the joint density: E[w] = p(x)."""
        start = self.endpoints.draws(self.x, self.endpoints.num_chains)
        return self._walk(start, self.path, self.step_sizes)

    def backward(self, z: Float[Tensor, "rows event"]) -> Weights:
        """From an exact draw of p(z | x), where all chains start, to the guide: E[w] = 1 / p(x)."""
        z = _filled(z, len(self.x))
        start = self.endpoints.inverse(z).expand(self.endpoints.num_chains, *([-1] * z.dim()))
        return self._walk(start, self.path[::-1], self.step_sizes.flip(0))

    def _walk(self, start: Tensor, path: Sequence[float], step_sizes: Tensor) -> Weights:
        point = self.densities(start.contiguous())
        log_weights = torch.zeros_like(point.log_q)
        acceptance = torch.zeros_like(point.log_q)
        for t in range(1, len(path)):
            log_weights = log_weights + (path[t] - path[t - 1]) * point.log_weight
            if t == len(path) - 1:
                break
            point, accepted = transition(
                self.densities,
                point,
                path[t],
                step_sizes[t - 1],
                self.scale,
                self.leapfrog_steps,
            )
            acceptance = acceptance + accepted
            self.bar.update()
        taken = len(path) - 2
        count = self.rows.stop - self.rows.start
        mean = acceptance / taken if taken else torch.ones_like(acceptance)
        return Weights(log_weights[:, :count], mean[:, :count])


def chunks(
    vae: PyroModule,
    x: Real[Tensor, " n *event"],
    options: Options,
    *,
    passes: int,
    progress: bool,
) -> Iterator[Chunk]:
    """Data in chunks of one size, the last filled up, so that all of them share a graph.

    Pyro validates the guide on the first chunk and, for speed, nothing after it.

    Args:
        vae: A program with one latent site.
        x: Data; integers are made floats chunk by chunk.
        options: How chains walk.
        passes: How often each chunk's chains will walk the path.
        progress: Show a bar.

    Raises:
        ValueError: If there are no data, or the program is none that chains can walk.
    """
    if len(x) == 0:
        raise ValueError("annealed importance sampling needs at least one datum, got none.")
    most = max(1, options.max_elements // (options.num_chains * max(1, x[0].numel())))
    count = -(-len(x) // most)
    batch = -(-len(x) // count)
    endpoints = Endpoints(
        vae,
        num_chains=options.num_chains,
        compile=options.compile,
        expected_calls=count * options.transitions(passes) * options.leapfrog_steps,
    )
    path = schedule(options.num_temperatures)
    total = count * options.transitions(passes)
    bar = tqdm(total=total, desc="annealing", unit="transition", disable=not progress)
    with bar, ExitStack() as speed:
        for start in range(0, len(x), batch):
            rows = x[start : start + batch]
            data = as_floats(rows)
            data = _filled(data, batch)
            scale = _scale(endpoints.draws(data, _SCALE_DRAWS))
            if start == 0:
                endpoints.validate(data)
                speed.enter_context(pyro.validation_enabled(False))
            densities = endpoints.at(data)
            step_sizes = _step_sizes(endpoints, densities, data, scale, options)
            if options.adaptations:
                bar.update(options.adaptations + _WARM_UP)
            yield Chunk(
                slice(start, start + len(rows)),
                endpoints,
                densities,
                data,
                path,
                step_sizes,
                scale,
                options.leapfrog_steps,
                bar,
            )


def _step_sizes(
    endpoints: Endpoints, densities: Densities, x: Tensor, scale: Tensor, options: Options
) -> Tensor:
    """A step size for each datum at b_1, ..., b_(T - 1), from a shorter pass of other chains."""
    transitions = options.num_temperatures - 1
    if not options.adaptations:
        return scale.new_ones(0, len(x), dtype=torch.float64)
    short = schedule(options.adaptations + 1)[1:-1]
    start = densities(endpoints.draws(x, options.num_chains).contiguous())
    found = adapted_step_sizes(
        densities, start, short, scale, options.leapfrog_steps, warm_up=_WARM_UP
    )
    # Between the short pass's temperatures, linear.
    place = torch.linspace(0, len(found) - 1, transitions + 2, device=found.device)[1:-1]
    below = place.floor().long().clamp(max=len(found) - 2)
    share = (place - below).unsqueeze(-1).to(found.dtype)
    return (1 - share) * found[below] + share * found[below + 1]


def _scale(draws: Float[Tensor, "draws batch real"]) -> Float[Tensor, "batch real"]:
    """Each coordinate's interquartile range over a normal's: tails have no say, and may have no variance."""
    ordered = draws.sort(0).values
    quarter = len(draws) // 4
    spread = (ordered[-1 - quarter] - ordered[quarter]) / _NORMAL_RANGE
    # Where most draws are one number, as at the edge of a support.
    spread = torch.where(spread > 0, spread, draws.std(0))
    smallest = math.sqrt(torch.finfo(draws.dtype).eps)
    return torch.where(spread.isfinite() & (spread > smallest), spread, smallest)


def _filled(rows: Tensor, batch: int) -> Tensor:
    """The last row again and again, up to the size of a batch."""
    missing = batch - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
