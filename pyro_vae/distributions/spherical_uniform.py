"""The uniform distribution on the unit sphere."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.types import _size


def log_surface_area(dim: int) -> float:
    """log(2 pi^(d/2) / Gamma(d/2)): of the unit sphere in R^d, whose own dimension is d - 1."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


class SphericalUniform(TorchDistribution):
    """p(z) = Gamma(d/2) / (2 pi^(d/2)) on the unit sphere in R^d: a standard normal's direction.

    Args:
        like: Of shape `(*batch, dim)`. Only its shape, type and device matter.

    Raises:
        ValueError: If d is below 2.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore
    support = constraints.sphere  # pyright: ignore
    has_rsample = True

    def __init__(
        self, like: Float[Tensor, "*batch dim"], validate_args: bool | None = None
    ) -> None:
        if like.shape[-1] < 2:
            raise ValueError(f"a sphere lies in at least 2 dimensions, got {like.shape[-1]}.")
        self._like = like.detach()
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "SphericalUniform":
        """The same distribution, independently for each element of a batch."""
        new = SphericalUniform.__new__(SphericalUniform)
        new._like = self._like.expand(*batch_shape, -1)
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """Minus the logarithm of the sphere's surface area."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -log_surface_area(value.shape[-1]))

    def rsample(self, sample_shape: _size = ()) -> Float[Tensor, "*shape dim"]:
        """Draws, `(*sample_shape, *batch_shape, dim)`. There is no parameter to differentiate in."""
        shape = self._extended_shape(torch.Size(sample_shape))
        # In float64 the normal is nowhere so short that its direction loses digits.
        noise = torch.randn(shape, dtype=torch.float64, device=self._like.device)
        return (noise / noise.norm(dim=-1, keepdim=True)).to(self._like.dtype)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """The logarithm of the surface area, in nats."""
        return self._like.new_full(self.batch_shape, log_surface_area(self.event_shape[0]))

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """0, which is not on the sphere."""
        return torch.zeros_like(self._like)
