"""The gradient noise and the bound of an objective by its number of particles.

Both are estimated from repeated draws at fixed parameters and data.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from analysis.plotting.style import BLUE, GREEN, GREY, LABEL_COLOURS, ORANGE, new_figure, tidy
from pyro_vae.data.nouns import noun
from pyro_vae.log_densities import log_densities
from pyro_vae.rng import evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

# K draws of log p(x, z) - log q(z | x) per example -> an estimate of a bound of log p(x).
Bound = Callable[[Float[Tensor, "particles batch"]], Float[Tensor, " batch"]]

_COLOURS = (BLUE, ORANGE, GREEN, LABEL_COLOURS[5], LABEL_COLOURS[1], LABEL_COLOURS[0], GREY)
_MARKERS = "osD^vPX"


@dataclass(frozen=True)
class GradientNoise:
    """The noise of the gradient g of some parameters, estimated from repeated draws.

    Args:
        variance: The trace of the covariance of g, in nats^2: the expected squared distance of g
            from its mean. Unbiased.
        squared_signal: The squared norm of the mean of g, in nats^2. Unbiased, so it may be
            negative where noise dominates.
    """

    variance: float
    squared_signal: float

    @property
    def signal_to_noise(self) -> float:
        """|E[g]| / sqrt(trace Cov[g]): 1 if noise and signal have equal length.

        The ratio that Rainforth et al. (2018) define for each parameter, for all together.
        Infinite for a gradient without noise, NaN if it has no signal either.
        """
        if self.variance == 0:
            return math.inf if self.squared_signal > 0 else math.nan
        return math.sqrt(max(self.squared_signal, 0.0) / self.variance)


@dataclass(frozen=True)
class ParticleNoise:
    """The noise of an objective with K particles, at fixed parameters and data.

    Args:
        num_particles: The number K of particles.
        bound: The mean of the bound over repeats and data, in nats per example.
        bound_se: Its standard error due to the draws, in nats per example.
        gradients: The noise of the gradient of the mean loss, by group of parameters.
    """

    num_particles: int
    bound: float
    bound_se: float
    gradients: Mapping[str, GradientNoise]


def elbo_of(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    """1/K sum_k log w_k: the ELBO, whose expectation does not depend on K."""
    return log_weight.mean(0)


def iwae_of(log_weight: Float[Tensor, "particles batch"]) -> Float[Tensor, " batch"]:
    """log 1/K sum_k w_k: the importance-weighted bound, which grows with K towards log p(x)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def particle_noise(
    program: Any,
    objective: Any,
    x: Shaped[Tensor, " batch *event"],
    parameters: Mapping[str, Iterable[Tensor]],
    *,
    bound: Bound = elbo_of,
    repeats: int = 100,
    seed: int = 0,
) -> ParticleNoise:
    """Estimate the noise of the gradient of an objective's mean loss, and its bound.

    It runs in evaluation mode with its own random stream, so only the draws of z differ between
    repeats. Parameters do not change.

    Args:
        program: A program with `model(x)` and `guide(x)`.
        objective: The objective, whose `num_particles` is K.
        x: A fixed batch in the likelihood's support.
        parameters: Groups of leaves with a gradient, by name, such as those of encoder and
            decoder.
        bound: The bound that the objective's log weights estimate. The loss need not be a bound:
            some estimators have a loss of which only the gradient is right.
        repeats: The number of gradients.
        seed: The seed of the draws.

    Raises:
        ValueError: If `repeats` is below 2, or a group is empty.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}.")
    groups = {name: list(group) for name, group in parameters.items()}
    for name, group in groups.items():
        if not group:
            raise ValueError(f"the group {name!r} must have at least one parameter, got none.")
    leaves = [leaf for group in groups.values() for leaf in group]
    moments = {name: _Moments() for name in groups}
    bounds = []
    with evaluation_mode(program, objective, seed=seed), torch.enable_grad():
        for _ in range(repeats):
            terms = log_densities(
                program.model, program.guide, x, num_particles=objective.num_particles
            )
            bounds.append(bound(terms.log_weight.detach()).double().mean())
            loss = objective(terms).loss.mean()
            gradients = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
            for name, group in groups.items():
                moments[name].add(_flat(group, gradients))
    values = torch.stack(bounds)
    return ParticleNoise(
        num_particles=objective.num_particles,
        bound=float(values.mean()),
        bound_se=float(values.std()) / math.sqrt(repeats),
        gradients={name: each.noise() for name, each in moments.items()},
    )


def _flat(group: Sequence[Tensor], gradients: Any) -> Tensor:
    """A group's gradients in one float64 vector; 0 where the loss does not depend on it."""
    found = (next(gradients) for _ in group)
    both = zip(group, found, strict=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in both]
    ).double()


class _Moments:
    """Welford's running mean of a vector, and the sum of squared distances from it."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.squares = 0.0

    def add(self, vector: Tensor) -> None:
        self.count += 1
        if self.mean is None:
            self.mean = torch.zeros_like(vector)
        away = vector - self.mean
        self.mean += away / self.count
        self.squares += float(away @ (vector - self.mean))

    def noise(self) -> GradientNoise:
        assert self.mean is not None
        variance = self.squares / (self.count - 1)
        # The squared norm of the mean of `count` draws is biased by their noise.
        signal = float(self.mean @ self.mean) - variance / self.count
        return GradientNoise(variance, signal)


def plot_particles(
    curves: Mapping[str, Sequence[ParticleNoise]],
    *,
    groups: Sequence[str] = ("encoder", "decoder"),
) -> "matplotlib.figure.Figure":
    """The gradient's variance, its signal-to-noise ratio and the bound, by number of particles.

    Each objective has a colour. In the first two panels the first group of parameters is a solid
    line with markers, the second a dashed line.

    Args:
        curves: The noise for each K, by objective.
        groups: One or two groups of parameters.

    Raises:
        ValueError: If there is no curve, an empty one, or another number of groups.
    """
    if not curves or not all(curves.values()):
        raise ValueError("curves must have at least one objective, each with a point, got none.")
    if len(groups) not in (1, 2):
        raise ValueError(f"groups must be one or two, got {len(groups)}.")
    figure = new_figure(12.0, 4.4)
    panels = figure.subplots(1, 3)
    for place, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        marker = _MARKERS[place % len(_MARKERS)]
        # Curves of one bound coincide: every other one is thin, so that both are visible.
        wide = place % 2 == 0
        width, size = (3.0, 7.5) if wide else (1.3, 4.0)
        drawn: dict[str, Any] = {"color": colour, "lw": width, "ms": size}
        ks = [point.num_particles for point in points]
        for group, line, own in zip(groups, ("-", "--"), (marker, None), strict=False):
            noises = [point.gradients[group] for point in points]
            style = {**drawn, "linestyle": line, "marker": own}
            panels[0].plot(ks, [_positive(noise.variance) for noise in noises], **style)
            panels[1].plot(ks, [_positive(noise.signal_to_noise) for noise in noises], **style)
        means, errors = [p.bound for p in points], [p.bound_se for p in points]
        panels[2].errorbar(ks, means, errors, **drawn, elinewidth=1, marker=marker, label=name)
    panels[0].set(title="variance of the gradient", ylabel="trace of its covariance, nats²")
    panels[1].set(
        title="signal-to-noise ratio of the gradient", ylabel="|mean| / √(trace of cov.)"
    )
    panels[2].set(title="bound of log p(x)", ylabel=f"nats/{noun()}")
    every = sorted({point.num_particles for points in curves.values() for point in points})
    for ax in panels:
        ax.set_xscale("log", base=2)
        ax.set_xticks(every, [str(k) for k in every])
        ax.set_xlabel("particles K")
    for ax in panels[:2]:
        ax.set_yscale("log")
        for group, line in zip(groups, ("-", "--"), strict=False):
            ax.plot([], [], line, color="0.3", label=group)
        ax.legend(loc="best", frameon=False)
    figure.legend(
        *panels[2].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(curves),
        frameon=False,
    )
    tidy(panels, grid="both")
    return figure


def _positive(value: float) -> float:
    """A value for a logarithmic axis: NaN unless it is positive and finite."""
    return value if 0 < value < math.inf else math.nan
