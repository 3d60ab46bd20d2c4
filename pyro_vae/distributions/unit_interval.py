"""Densities on [0, 1] that are finite at both ends and accurate in float32's tails."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vae.distributions.constrained import InteriorBeta
from pyro_vae.distributions.distribution import Distribution

# Values closer than this to 0 or 1 get the density at this distance: data are rounded to the ends.
EDGE = 1e-6
# Below this |l| a series is exact to rounding, and the closed form begins to cancel.
_NEAR_ZERO = 0.1
# From this scale of the logit on, moments are integrals over the unit interval.
_WIDE = 4.0


class ContinuousBernoulli(Distribution):
    r"""p(x) = exp(l x) l / (exp(l) - 1) on [0, 1], with the logit l.

    torch's clamps the probability sigmoid(l) to float32, but not l: from |l| = 16 on its density
    does not have mass one, and near l = 0 its logarithms of ratios near 1 cancel. Here log((exp(l)
    - 1) / l) is l / 2 plus an even function of l, computed in float64.

    Args:
        logits: l.
    """

    arg_constraints = {"logits": constraints.real}
    batched = ("logits",)
    support = constraints.unit_interval  # pyright: ignore
    has_rsample = True

    def __init__(self, logits: Float[Tensor, "*batch"], validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def _sizes(self) -> tuple[Tensor, Tensor, Tensor]:
        """l, whether it is near 0, and |l|, or near 0 a number where closed forms are finite."""
        logits = self.logits.double()
        near = logits.abs() < _NEAR_ZERO
        return logits, near, torch.where(near, 1.0, logits.abs())

    def log_prob(self, value: Float[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        logits, near, size = self._sizes()
        # log(sinh(l / 2) / (l / 2)).
        closed = size / 2 + (-torch.expm1(-size)).log() - size.log()
        square = torch.where(near, logits, 0.0).square()
        series = square * (1 / 24 + square * (-1 / 2880 + square / 181_440))
        log_prob = logits * (value.double() - 0.5) - torch.where(near, series, closed)
        return log_prob.to(self.logits.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """The inverse of the distribution function at uniform noise."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.float64, device=self.logits.device)
        logits = self.logits.double()
        near = logits.abs() < 1e-4
        size = torch.where(near, 1.0, logits.abs())
        # Invert the falling density, of logit -|l|, and mirror it for a rising one.
        falling = -torch.log1p(u * torch.expm1(-size)) / size
        closed = torch.where(logits > 0, 1 - falling, falling)
        series = u + torch.where(near, logits, 0.0) * u * (1 - u) / 2
        return torch.where(near, series, closed).clamp(0, 1).to(self.logits.dtype)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """1 / (1 - exp(-l)) - 1 / l."""
        logits, near, size = self._sizes()
        closed = 0.5 + logits.sign() * (-1 / torch.expm1(-size) - 1 / size - 0.5)
        square = logits.square()
        series = 0.5 + logits * (1 / 12 - square * (1 / 720 - square / 30_240))
        return torch.where(near, series, closed).to(self.logits.dtype)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """1 / l^2 - 1 / (4 sinh(l / 2)^2)."""
        logits, near, size = self._sizes()
        closed = size**-2 - (-size).exp() / torch.expm1(-size).square()
        square = logits.square()
        series = 1 / 12 - square * (1 / 240 - square / 6048)
        return torch.where(near, series, closed).to(self.logits.dtype)


class Beta(InteriorBeta):
    r"""Beta(x | a, b), within `EDGE` of 0 and 1 with the density there, in float64 inside.

    A Beta's density is 0 or infinite at an end, unless a or b is 1. The mass of this one is only
    nearly one: within `EDGE` of an end it is `EDGE` times the density there.
    """

    def log_prob(self, value: Float[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.double().clamp(EDGE, 1 - EDGE)
        a, b = self.concentration1.double(), self.concentration0.double()
        log_constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        log_prob = (a - 1) * x.log() + (b - 1) * torch.log1p(-x) + log_constant
        return log_prob.to(self.concentration1.dtype)


class LogitNormal(Distribution):
    r"""sigmoid(u), u ~ N(loc, scale^2); within `EDGE` of 0 and 1 with the density there.

    Args:
        loc: The mean of u.
        scale: Its standard deviation; broadcasts with `loc`.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval  # pyright: ignore
    batched = ("loc", "scale")
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*#batch"],
        scale: Float[Tensor, "*#batch"],
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Float[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x) = log N(logit x) - log x - log(1 - x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        # In float64, which represents 1 - EDGE.
        x = value.double().clamp(EDGE, 1 - EDGE)
        log_x, log_rest = x.log(), torch.log1p(-x)
        standard = (log_x - log_rest - self.loc) / self.scale
        log_constant = self.scale.double().log() + math.log(2 * math.pi) / 2
        return (-standard.square() / 2 - log_constant - log_x - log_rest).to(self.loc.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """sigmoid(loc + scale * noise)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.sigmoid(self.loc + self.scale * noise)

    def _expectation(self, power: int) -> Tensor:
        """E[x^power] by Gauss quadrature over u, or for a wide density over x, to 3e-5."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        narrow = torch.zeros_like(self.loc)
        for node, weight in zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True):
            narrow = narrow + weight * torch.sigmoid(self.loc + self.scale * node) ** power
        # By parts it is the integral of power x^(power - 1) P(sigmoid(u) > x).
        nodes, weights = np.polynomial.legendre.leggauss(64)
        wide = torch.zeros_like(self.loc)
        for node, weight in zip(((1 + nodes) / 2).tolist(), (weights / 2).tolist(), strict=True):
            logit = math.log(node) - math.log1p(-node)
            above = torch.special.ndtr((self.loc - logit) / self.scale)
            wide = wide + weight * power * node ** (power - 1) * above
        return torch.where(self.scale < _WIDE, narrow, wide)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """E[sigmoid(u)], by quadrature."""
        return self._expectation(1)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """E[sigmoid(u)^2] - mean^2, by quadrature."""
        return self._expectation(2) - self.mean.square()
