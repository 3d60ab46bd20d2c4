"""Divergences KL(q || p), in nats, between distributions of variables in the unit interval."""

import torch
from torch import Tensor
from torch.distributions import Beta, Kumaraswamy, kl_divergence, register_kl
from torch.nn import functional as F

from pyro_vae.distributions.interior import InteriorBeta

EULER = 0.57721566490153286
STEP = 0.08


def mean_log_complement(a: Tensor, b: Tensor) -> Tensor:
    """E[log(1 - x)] of Kumaraswamy(a, b), in float64.

    The series -sum_m B(1 + m/a, b) b / m has terms that fall as m^(-1 - b): cut at M of them it is
    wrong by some M^-b / b. By parts it is -int_0^1 (1 - x^a)^b / (1 - x) dx, and with x = sigmoid(y) and
    y = sinh(t), the trapezoid rule converges exponentially. Tests hold it to 1e-4, relative to the
    value, for a and b from 0.05 to 30.
    """
    a, b = a.double()[..., None], b.double()[..., None]
    t = torch.arange(-5.0, 9.5, STEP, dtype=torch.float64, device=a.device)
    y = t.sinh()
    log_x = F.logsigmoid(y)
    log_survival = b * (-torch.expm1(a * log_x)).log()
    return -((log_x + log_survival).exp() * t.cosh()).sum(-1) * STEP


@register_kl(InteriorBeta, InteriorBeta)
def kl_betas(q: InteriorBeta, p: InteriorBeta) -> Tensor:
    """torch's, in float64: float32 is some 1e-2 nats off at concentrations of 1e4."""
    kl = kl_divergence(
        Beta(q.concentration1.double(), q.concentration0.double(), validate_args=False),
        Beta(p.concentration1.double(), p.concentration0.double(), validate_args=False),
    )
    return kl.to(q.concentration1.dtype)


@register_kl(Kumaraswamy, Beta)
def kl_kumaraswamy_beta(q: Kumaraswamy, p: Beta) -> Tensor:
    """KL(Kumaraswamy(a, b) || Beta(c, d)), in closed form but for E[log(1 - x)], a quadrature.

    References:
        Stick-Breaking Variational Autoencoders (Nalisnick & Smyth, 2017), https://arxiv.org/abs/1605.06197
    """
    a, b = q.concentration1.double(), q.concentration0.double()
    c, d = p.concentration1.double(), p.concentration0.double()
    mean_log = -(EULER + b.digamma() + 1 / b) / a
    negative_entropy = (a * b).log() + (a - 1) * mean_log - (b - 1) / b
    normaliser = c.lgamma() + d.lgamma() - (c + d).lgamma()
    cross = normaliser - (c - 1) * mean_log - (d - 1) * mean_log_complement(a, b)
    return (negative_entropy + cross).to(q.concentration1.dtype)
