"""A Markov chain of normal vectors, and two vectors of which one depends on the other."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution

# z_(t - 1), and the row of the context for t -> location and scale of z_t; leading axes are free.
Transition = Callable[..., tuple[Tensor, Tensor]]


class MarkovNormal(Distribution):
    """p(z) = N(z_1 | m_1, s_1^2) prod_(t > 1) N(z_t | m(z_(t - 1), h_t), s(z_(t - 1), h_t)^2).

    Normals are diagonal. An event is z_1, ..., z_T in one vector of T d numbers, time first.
    Drawing takes T calls of the transition, one after the other; the density takes one call, for
    all times at once.

    Args:
        loc: m_1, `(*batch, d)`.
        scale: s_1, `(*batch, d)`.
        transition: Maps z_(t - 1) and h_t, with any leading axes, to m and s.
        steps: The number T of times.
        context: h_2, ..., h_T, `(*batch, T - 1, width)`, or None. It is never expanded: leading
            axes broadcast.
    """

    arg_constraints: ClassVar = {  # pyright: ignore
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch dim"],
        scale: Float[Tensor, "*batch dim"],
        transition: Transition,
        steps: int,
        context: Float[Tensor, "*batch times width"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.transition = loc, scale, transition
        self.steps, self.context = steps, context
        event = torch.Size([steps * loc.shape[-1]])
        super().__init__(loc.shape[:-1], event, validate_args=validate_args)

    def path(self, noise: Float[Tensor, "*noise steps dim"]) -> Float[Tensor, "*batch event"]:
        """z with z_t = m + s noise_t: a draw for standard normal noise, the locations for 0."""
        z = [self.loc + self.scale * noise[..., 0, :]]
        for t in range(1, self.steps):
            row = None if self.context is None else self.context[..., t - 1, :]
            loc, scale = self.transition(z[-1], row)
            z.append(loc + scale * noise[..., t, :])
        return torch.stack(z, -2).flatten(-2)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, T d)`, differentiable in all parameters."""
        shape = (*sample_shape, *self.batch_shape, self.steps, self.loc.shape[-1])
        return self.path(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Float[Tensor, "*batch event"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), of value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        z = value.unflatten(-1, (self.steps, -1))
        log_prob = _log_normal(z[..., 0, :], self.loc, self.scale).sum(-1)
        if self.steps > 1:
            loc, scale = self.transition(z[..., :-1, :], self.context)
            log_prob = log_prob + _log_normal(z[..., 1:, :], loc, scale).sum((-2, -1))
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


def _log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -(((value - loc) / scale).square() / 2 + scale.log() + math.log(2 * math.pi) / 2)


class TwoLevels:
    """(a, b) in one vector, a ~ p(a), b ~ p(b | a).

    Args:
        first: p(a).
        second: a to p(b | a).
        split: The length of the part that is first in the vector.
        reverse: Whether the vector is (b, a).
    """

    def __init__(
        self, first: Any, second: Callable[[Tensor], Any], split: int, reverse: bool = False
    ) -> None:
        self.first, self.second = first, second
        self.split, self.reverse = split, reverse

    @property
    def batch_shape(self) -> torch.Size:
        """That of p(a)."""
        return self.first.batch_shape

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, dim)`."""
        a = self.first.sample(sample_shape)
        b = self.second(a).sample()
        return torch.cat([b, a] if self.reverse else [a, b], -1)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log p(a) + log p(b | a)."""
        parts = value[..., : self.split], value[..., self.split :]
        a, b = parts[::-1] if self.reverse else parts
        return self.first.log_prob(a) + self.second(a).log_prob(b)
