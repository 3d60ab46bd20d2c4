"""Closed-form divergences KL(q || p) between normals that torch does not register."""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence, register_kl


def _as_multivariate(normal: Independent) -> MultivariateNormal:
    """Write a diagonal normal, `Normal(loc, scale).to_event(1)`, with its Cholesky factor."""
    base = normal.base_dist
    if not isinstance(base, Normal) or len(normal.event_shape) != 1:
        # torch's dispatch then says that no closed form exists, which is so.
        raise NotImplementedError(
            f"no closed-form KL for an Independent of {type(base).__name__}."
        )
    return MultivariateNormal(base.loc, scale_tril=torch.diag_embed(base.scale))


@register_kl(MultivariateNormal, Independent)
def kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    r"""KL(N(m, L L^T) || N(mu, diag(s^2))), in nats.

    With a diagonal p no triangular system has to be solved:
    1/2 sum_i [ (sum_j L_ij^2 + (m_i - mu_i)^2) / s_i^2 - 1 + 2 log s_i ] - sum_i log L_ii.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), equation A.23.
    """
    base = p.base_dist
    if not isinstance(base, Normal) or len(p.event_shape) != 1:
        raise NotImplementedError(
            f"no closed-form KL for an Independent of {type(base).__name__}."
        )
    scale_tril = q.scale_tril
    second_moment = scale_tril.square().sum(-1) + (q.loc - base.loc).square()
    half = (second_moment / base.scale.square() - 1) / 2 + base.scale.log()
    return half.sum(-1) - scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(Independent, MultivariateNormal)
def kl_diagonal_full(q: Independent, p: MultivariateNormal) -> Tensor:
    """KL(N(m, diag(s^2)) || N(mu, L L^T)), in nats, through the Cholesky factors."""
    return kl_divergence(_as_multivariate(q), p)
