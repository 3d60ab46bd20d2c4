"""Normals with a covariance of low rank plus a diagonal, on events of any shape."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size


class LowRankNormal(TorchDistribution):
    r"""N(x | mu, W W^T + diag(sigma^2)), over all D elements of an event together.

    With V = W / sigma and d = (x - mu) / sigma, the quadratic form is |d|^2 - |L^-1 V^T d|^2 and the
    log determinant 2 sum log sigma + 2 sum log diag L, for the Cholesky factor L of I + V^T V
    (rank x rank). L is computed once, when the distribution is made, in float64, for as many
    covariances as the factor has, not for the whole batch: a factor that all share costs one.

    Args:
        loc: mu, `(*batch, *event)`.
        factor: W, `(*leading, D, rank)`, D being the number of elements; its leading axes are none, or the batch.
        scale: sigma, of the event's shape, with leading axes as the factor's.
        event_dim: The number of axes of an event, at least 1.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch_event"],
        factor: Float[Tensor, "*leading elements rank"],
        scale: Float[Tensor, "*leading_event"],
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        batch, event = loc.shape[: loc.dim() - event_dim], loc.shape[loc.dim() - event_dim :]
        self.loc, self.factor = loc.flatten(-event_dim), factor
        self.scale = scale.flatten(-event_dim)
        self.woodbury = woodbury(factor, self.scale)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Real events."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: _size, _instance: object = None) -> "LowRankNormal":
        """The same distributions, broadcast; nothing is copied, nor factorised again."""
        new = LowRankNormal.__new__(LowRankNormal)
        new.loc = self.loc.expand(*batch_shape, self.loc.shape[-1])
        for name in ("factor", "scale", "woodbury"):
            setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Float[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), in float64 inside: both terms of the quadratic form are large where sigma is small."""
        if self._validate_args:
            self._validate_sample(value)
        standard, cholesky, log_determinant = self.woodbury
        x = value.flatten(-len(self.event_shape)).double()
        d = (x - self.loc.double()) / self.scale.double()
        # With one factor for all it is a matrix product for the whole batch.
        shared = standard.dim() == 2
        projected = (d @ standard)[..., None] if shared else standard.mT @ d[..., None]
        inner = torch.linalg.solve_triangular(cholesky, projected, upper=False)[..., 0]
        quadratic = d.square().sum(-1) - inner.square().sum(-1)
        constant = d.shape[-1] * math.log(2 * math.pi)
        return (-(quadratic + log_determinant + constant) / 2).to(self.loc.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """mu + W noise + sigma noise, `(*sample_shape, *batch_shape, *event_shape)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        options = {"dtype": self.loc.dtype, "device": self.loc.device}
        shared = torch.randn(*shape, self.factor.shape[-1], 1, **options)
        own = torch.randn(*shape, self.loc.shape[-1], **options)
        x = self.loc + (self.factor @ shared)[..., 0] + self.scale * own
        return x.view(shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Float[Tensor, "*leading elements elements"]:
        """W W^T + diag(sigma^2), with as many leading axes as the factor has."""
        return self.factor @ self.factor.mT + torch.diag_embed(self.scale.square())

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """mu."""
        return self.loc.reshape(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch_event"]:
        """sum_r W_ir^2 + sigma_i^2, of each element."""
        variance = self.factor.square().sum(-1) + self.scale.square()
        return variance.expand_as(self.loc).reshape(self._extended_shape())


def woodbury(
    factor: Float[Tensor, "*leading elements rank"], scale: Float[Tensor, "*leading elements"]
) -> tuple[Tensor, Tensor, Tensor]:
    """V = W / sigma, the Cholesky factor of I + V^T V, and log |W W^T + diag(sigma^2)|, in float64.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), appendix A.3.
    """
    scale = scale.double()
    standard = factor.double() / scale[..., None]
    identity = torch.eye(factor.shape[-1], dtype=torch.float64, device=factor.device)
    # Without a look at its success, which would stop the graph: I + V^T V is positive definite.
    cholesky = torch.linalg.cholesky_ex(identity + standard.mT @ standard).L
    diagonal = cholesky.diagonal(dim1=-2, dim2=-1)
    return standard, cholesky, 2 * (scale.log().sum(-1) + diagonal.log().sum(-1))
