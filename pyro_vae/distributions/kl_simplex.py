"""Closed-form divergences KL(q || p), in nats, between distributions on the simplex."""

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence, register_kl

from pyro_vae.distributions.interior import InteriorDirichlet
from pyro_vae.distributions.logistic_normal import LogisticNormal, centred


def _expected(p: LogisticNormal, mean: Tensor, variance: Tensor) -> Tensor:
    """-E[log p(z)] - E[sum_i log z_i], where the log z_i are independent but for a common term."""
    scale = p.scale.double()
    quadratic, log_normaliser = centred(mean - p.loc.double(), scale)
    weight = scale**-2
    share = weight / weight.sum(-1, keepdim=True)
    return log_normaliser + (quadratic + (weight * variance * (1 - share)).sum(-1)) / 2


@register_kl(InteriorDirichlet, InteriorDirichlet)
def kl_dirichlets(q: InteriorDirichlet, p: InteriorDirichlet) -> Tensor:
    """torch's, in float64: float32 is some 1e-1 nats off at concentrations of 1e4."""
    kl = kl_divergence(
        Dirichlet(q.concentration.double(), validate_args=False),
        Dirichlet(p.concentration.double(), validate_args=False),
    )
    return kl.to(q.concentration.dtype)


@register_kl(LogisticNormal, LogisticNormal)
def kl_logistic_normals(q: LogisticNormal, p: LogisticNormal) -> Tensor:
    """KL of the normals of log z, what is common to all coordinates integrated out.

    At most that of the normals of eta, which also differ in what softmax forgets.
    """
    loc, scale = q.loc.double(), q.scale.double()
    _, log_normaliser = centred(loc, scale)
    entropy = log_normaliser + (loc.shape[-1] - 1) / 2
    return (_expected(p, loc, scale.square()) - entropy).to(q.loc.dtype)


@register_kl(Dirichlet, LogisticNormal)
def kl_dirichlet_logistic_normal(q: Dirichlet, p: LogisticNormal) -> Tensor:
    """KL: log z_i has mean psi(alpha_i) and variance psi'(alpha_i), a common term apart."""
    alpha = q.concentration.double()
    total = alpha.sum(-1, keepdim=True)
    mean_log = alpha.digamma() - total.digamma()
    log_prob = (alpha - 1) * mean_log - alpha.lgamma()
    negative_entropy = log_prob.sum(-1) + total.squeeze(-1).lgamma()
    cross = _expected(p, alpha.digamma(), torch.polygamma(1, alpha)) + mean_log.sum(-1)
    return (negative_entropy + cross).to(q.concentration.dtype)
