"""Closed-form divergences KL(q || p) of normals that torch does not register."""

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from pyro_vae.distributions.low_rank_normal import LowRankNormal


def _base(normal: Independent) -> Normal:
    """The normals of a diagonal normal, `Normal(loc, scale).to_event(1)`."""
    base = normal.base_dist
    if not isinstance(base, Normal) or len(normal.event_shape) != 1:
        # torch's dispatch then says that no closed form exists, which is so.
        raise NotImplementedError(
            f"no closed-form KL for an Independent of {type(base).__name__}."
        )
    return base


def _own(normal: LowRankMultivariateNormal) -> LowRankNormal:
    """torch's low-rank normal as our own."""
    scale = normal._unbroadcasted_cov_diag.sqrt()
    return LowRankNormal(normal.loc, normal._unbroadcasted_cov_factor, scale, validate_args=False)


def _torchs(normal: LowRankNormal) -> LowRankMultivariateNormal:
    """Our low-rank normal of vectors as torch's."""
    if len(normal.event_shape) != 1:
        raise NotImplementedError("closed-form KLs are of vectors.")
    return LowRankMultivariateNormal(
        normal.loc, normal.factor, normal.scale.square(), validate_args=False
    )


def _as_multivariate(normal: Independent) -> MultivariateNormal:
    """Write a diagonal normal, `Normal(loc, scale).to_event(1)`, with its Cholesky factor."""
    base = _base(normal)
    return MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))


@register_kl(MultivariateNormal, Independent)
def kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    r"""KL(N(m, L L^T) || N(mu, diag(s^2))), in nats.

    With a diagonal p no triangular system has to be solved:
    1/2 sum_i [ (sum_j L_ij^2 + (m_i - mu_i)^2) / s_i^2 - 1 + 2 log s_i ] - sum_i log L_ii.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), equation A.23.
    """
    base = _base(p)
    scale_tril = q.scale_tril
    second_moment = scale_tril.square().sum(-1) + (q.loc - base.loc).square()
    half = (second_moment / base.scale.square() - 1) / 2 + base.scale.log()
    return half.sum(-1) - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(Independent, MultivariateNormal)
def kl_diagonal_full(q: Independent, p: MultivariateNormal) -> Tensor:
    """KL(N(m, diag(s^2)) || N(mu, L L^T)), in nats, through the Cholesky factors."""
    return kl_divergence(_as_multivariate(q), p)


@register_kl(LowRankNormal, Independent)
def kl_low_rank_diagonal(q: LowRankNormal, p: Independent) -> Tensor:
    r"""KL(N(m, W W^T + D) || N(mu, diag(s^2))), in nats; no d x d matrix is made.

    1/2 sum_i [ (D_i + sum_k W_ik^2 + (m_i - mu_i)^2) / s_i^2 - 1 + 2 log s_i ] - 1/2 log |W W^T + D|.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), equations A.10 and A.23.
    """
    base = _base(p)
    loc, scale = base.loc.double(), base.scale.double()
    *_, log_det = q.woodbury
    variance = q.scale.double().square() + q.factor.double().square().sum(-1)
    second_moment = variance + (q.loc.double() - loc).square()
    half = (second_moment / scale.square() - 1) / 2 + scale.log()
    return (half.sum(-1) - log_det / 2).to(q.loc.dtype)


@register_kl(Independent, LowRankNormal)
def kl_diagonal_low_rank(q: Independent, p: LowRankNormal) -> Tensor:
    r"""KL(N(m, diag(s^2)) || N(mu, W W^T + D)), in nats; no d x d matrix is made.

    With V = D^-1/2 W and L L^T = I + V^T V, Woodbury's identity takes |L^-1 V^T D^-1/2 v|^2 from
    |D^-1/2 v|^2, for v = m - mu and for each column v of diag(s).

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), equations A.9 and A.23.
    """
    base = _base(q)
    standard, cholesky, log_det = p.woodbury
    scale = base.scale.double() / p.scale.double()
    difference = (base.loc.double() - p.loc.double()) / p.scale.double()
    explained = torch.linalg.solve_triangular(
        cholesky, standard.mT @ difference.unsqueeze(-1), upper=False
    )
    shrunk = torch.linalg.solve_triangular(cholesky, standard.mT, upper=False)
    # Of a column of diag(s) the part that is left is 1 - |column of L^-1 V^T|^2.
    trace = (scale.square() * (1 - shrunk.square().sum(-2))).sum(-1)
    mahalanobis = difference.square().sum(-1) - explained.square().sum((-2, -1))
    log_scale = base.scale.double().log().sum(-1)
    kl = (trace + mahalanobis - p.event_shape[0] + log_det) / 2 - log_scale
    return kl.to(base.loc.dtype)


@register_kl(LowRankMultivariateNormal, Independent)
def kl_torch_low_rank_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    """As that of our own low-rank normal."""
    return kl_low_rank_diagonal(_own(q), p)


@register_kl(Independent, LowRankMultivariateNormal)
def kl_diagonal_torch_low_rank(q: Independent, p: LowRankMultivariateNormal) -> Tensor:
    """As that of our own low-rank normal."""
    return kl_diagonal_low_rank(q, _own(p))


@register_kl(LowRankNormal, LowRankNormal)
def kl_low_rank_low_rank(q: LowRankNormal, p: LowRankNormal) -> Tensor:
    """torch's, through capacitance matrices."""
    return kl_divergence(_torchs(q), _torchs(p))


@register_kl(LowRankNormal, MultivariateNormal)
def kl_low_rank_full(q: LowRankNormal, p: MultivariateNormal) -> Tensor:
    """torch's."""
    return kl_divergence(_torchs(q), p)


@register_kl(MultivariateNormal, LowRankNormal)
def kl_full_low_rank(q: MultivariateNormal, p: LowRankNormal) -> Tensor:
    """torch's."""
    return kl_divergence(q, _torchs(p))
