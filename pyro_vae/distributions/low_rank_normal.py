"""Normals with a low-rank covariance that keep their digits in float32."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.lowrank_multivariate_normal import (
    LowRankMultivariateNormal as TorchLowRank,
)
from torch.types import _size


class LowRankNormal(dist.LowRankMultivariateNormal):
    r"""N(z | loc, W W^T + D), W of few columns and D diagonal, by Woodbury's identity in float64.

    |z - loc|^2 in the metric D^-1 and what W explains of it are two large numbers with a small
    difference: with W a thousand times the root of D, float32 gives a density that is wrong by
    nats, and torch's Cholesky factor of I + W^T D^-1 W fails. Both are float64 here. The factor is
    worked out once, before `expand`.

    Args:
        loc: The mean, `(*batch, dim)`.
        cov_factor: W, `(*batch, dim, rank)`.
        cov_diag: The diagonal of D, `(*batch, dim)`.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), appendix A.3.
    """

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        # torch's own __init__, without its Cholesky factor.
        self.loc = loc
        self.cov_factor = self._unbroadcasted_cov_factor = cov_factor
        self.cov_diag = self._unbroadcasted_cov_diag = cov_diag
        self.woodbury = woodbury(cov_factor, cov_diag)
        # For torch's own methods and divergences.
        self._capacitance_tril = self.woodbury[1].to(loc.dtype)
        super(TorchLowRank, self).__init__(
            loc.shape[:-1], loc.shape[-1:], validate_args=validate_args
        )

    def expand(self, batch_shape: _size, _instance: object = None) -> "LowRankNormal":
        """The same distribution for each element of a batch; nothing is copied or worked out anew."""
        new = LowRankNormal.__new__(LowRankNormal)
        new.woodbury = self.woodbury
        return super().expand(batch_shape, new)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, of the value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        whitened, tril, log_det = self.woodbury
        difference = value.double() - self.loc.double()
        scaled = difference / self._unbroadcasted_cov_diag.double().sqrt()
        explained = torch.linalg.solve_triangular(
            tril, whitened.mT @ scaled.unsqueeze(-1), upper=False
        )
        mahalanobis = scaled.square().sum(-1) - explained.square().sum((-2, -1))
        constant = self.event_shape[0] * math.log(2 * math.pi) + log_det
        return (-(constant + mahalanobis) / 2).to(value.dtype)


def woodbury(cov_factor: Tensor, cov_diag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D^-1/2 W, the Cholesky factor of I + W^T D^-1 W, and log |W W^T + D|, all in float64."""
    diagonal = cov_diag.double()
    whitened = cov_factor.double() / diagonal.sqrt().unsqueeze(-1)
    identity = torch.eye(whitened.shape[-1], dtype=whitened.dtype, device=whitened.device)
    # Without the check for success, which would wait for the device: I + A^T A is positive definite.
    tril = torch.linalg.cholesky_ex(identity + whitened.mT @ whitened)[0]
    log_det = diagonal.log().sum(-1) + 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return whitened, tril, log_det
