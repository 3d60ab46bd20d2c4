"""A normal distribution transformed by an invertible map."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution


@runtime_checkable
class Bijection(Protocol):
    """An invertible map f(., h) of a vector, with or without a context h."""

    def __call__(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(u, h) and log |det df/du|."""
        ...

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u = f^-1(z, h), and log |det df/du| of f at that u."""
        ...


class NormalFlow(Distribution):
    """z = f(u, h), u ~ N(mu, diag(sigma^2)): log p(z) = log N(f^-1(z, h)) - log |det df/du|.

    `log_prob` of the tensor that `rsample` has just returned reuses the density of that draw and needs
    no inverse; of any other value it computes f^-1. The two agree, in value and in gradient. A draw
    made without gradients is inverted if gradients are enabled later. The cache belongs to this
    distribution object, so a trace of the program sees both paths as plain operations.

    Args:
        loc: mu, `(*batch, dim)`.
        scale: sigma, `(*batch, dim)`.
        bijection: f, usually a module with parameters.
        context: h, `(*batch, width)`, or None. It is never expanded: leading axes broadcast.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch dim"],
        scale: Float[Tensor, "*batch dim"],
        bijection: Bijection,
        context: Float[Tensor, "*batch width"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.bijection, self.context = loc, scale, bijection, context
        # The last draw, its log density, and whether gradients were enabled.
        self._cache: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "NormalFlow":
        """The same distribution, independently for each element of a larger batch."""
        new = super().expand(batch_shape)
        new._cache = None
        return new

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, dim)`, differentiable in all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z, log_det = self.bijection(self.loc + self.scale * noise, self.context)
        # From the noise itself, without the cancellation in (u - loc) / scale.
        log_prob = self._log_normal(noise) - log_det
        self._cache = z, log_prob, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), of value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        if self._cache is not None and value is self._cache[0]:
            _, log_prob, differentiable = self._cache
            if differentiable or not torch.is_grad_enabled():
                return log_prob
        u, log_det = self.bijection.inverse(value, self.context)
        log_prob = self._log_normal((u - self.loc) / self.scale) - log_det
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def _log_normal(self, noise: Tensor) -> Tensor:
        constant = math.log(2 * math.pi) / 2
        return -(noise.square() / 2 + self.scale.log() + constant).sum(-1)
