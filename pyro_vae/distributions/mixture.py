"""Mixtures of diagonal normals whose density costs two matrix products."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size


class DiagonalNormalMixture(TorchDistribution):
    r"""p(z) = sum_k w_k N(z | mu_k, diag(sigma_k^2)), with one mixture for the whole batch.

    `MixtureSameFamily` holds n x K x d numbers to give the density of n points. The quadratic form
    written out, sum_j z_j^2 / s_kj^2 - 2 sum_j z_j m_kj / s_kj^2 + sum_j m_kj^2 / s_kj^2, is two
    matrix products and n x K numbers: with K = 500 and d = 50 that is some 20 times faster. The
    products are in float64: in float32 the terms of a narrow component cancel to noise.

    Args:
        logits: log w, up to a constant, `(components,)`.
        loc: mu, `(components, dim)`.
        scale: sigma, `(components, dim)`.
    """

    arg_constraints: ClassVar = {  # pyright: ignore
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, " components"],
        loc: Float[Tensor, "components dim"],
        scale: Float[Tensor, "components dim"],
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "DiagonalNormalMixture":
        """The same mixture, independently for each element of a batch; nothing is copied."""
        new = DiagonalNormalMixture.__new__(DiagonalNormalMixture)
        new.logits, new.loc, new.scale = self.logits, self.loc, self.scale
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), of value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        z, loc, scale = value.double(), self.loc.double(), self.scale.double()
        precision = scale**-2
        quadratic = z.square() @ precision.mT - 2 * z @ (loc * precision).mT
        constant = (loc.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)
        log_weights = self.logits.double().log_softmax(-1)
        log_prob = torch.logsumexp(log_weights - (quadratic + constant) / 2, -1).to(value.dtype)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, dim)`. They carry no gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            component = torch.multinomial(
                self.logits.softmax(-1), math.prod(shape[:-1]), replacement=True
            )
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.loc[component].view(shape) + self.scale[component].view(shape) * noise

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """sum_k w_k mu_k."""
        return (self.logits.softmax(-1) @ self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch dim"]:
        """sum_k w_k (sigma_k^2 + mu_k^2) - mean^2, of each coordinate."""
        second = self.logits.softmax(-1) @ (self.scale.square() + self.loc.square())
        return second.expand(self._extended_shape()) - self.mean.square()
