"""Closed-form divergences KL(q || p), in nats, between distributions of positive variables."""

import math

import torch
from torch import Tensor
from torch.distributions import Gamma, LogNormal, Weibull, kl_divergence, register_kl

from pyro_vae.distributions.interior import InteriorGamma

EULER = 0.57721566490153286


def _cross_entropy(p: Gamma, mean: Tensor, mean_log: Tensor) -> Tensor:
    """-E_q[log Gamma(z | a, b)], of E_q[z] and E_q[log z], in float64: at large a it cancels."""
    a, b = p.concentration.double(), p.rate.double()
    return a.lgamma() - a * b.log() - (a - 1) * mean_log + b * mean


@register_kl(InteriorGamma, InteriorGamma)
def kl_gammas(q: InteriorGamma, p: InteriorGamma) -> Tensor:
    """torch's, in float64: float32 is some 1e-2 nats off at concentrations of 1e4."""
    kl = kl_divergence(
        Gamma(q.concentration.double(), q.rate.double(), validate_args=False),
        Gamma(p.concentration.double(), p.rate.double(), validate_args=False),
    )
    return kl.to(q.concentration.dtype)


@register_kl(LogNormal, Gamma)
def kl_log_normal_gamma(q: LogNormal, p: Gamma) -> Tensor:
    """KL: E[log z] = m, E[z] = exp(m + s^2/2), and the entropy is m + 1/2 log(2 pi e s^2)."""
    entropy = q.loc + q.scale.log() + (1 + math.log(2 * math.pi)) / 2
    mean = (q.loc.double() + q.scale.double().square() / 2).exp()
    return (_cross_entropy(p, mean, q.loc.double()) - entropy).to(q.loc.dtype)


@register_kl(Weibull, Gamma)
def kl_weibull_gamma(q: Weibull, p: Gamma) -> Tensor:
    """KL: E[log z] = log l - g / k, E[z] = l Gamma(1 + 1/k), g being Euler's constant.

    References:
        WHAI: Weibull Hybrid Autoencoding Inference (Zhang et al., 2018), https://arxiv.org/abs/1803.01328
    """
    k, scale = q.concentration.double(), q.scale.double()
    entropy = EULER * (1 - 1 / k) + (scale / k).log() + 1
    mean = scale * (1 + 1 / k).lgamma().exp()
    kl = _cross_entropy(p, mean, scale.log() - EULER / k) - entropy
    return kl.to(q.scale.dtype)


@register_kl(Gamma, LogNormal)
def kl_gamma_log_normal(q: Gamma, p: LogNormal) -> Tensor:
    """KL: E[log z] = psi(a) - log b, and Var[log z] = psi'(a)."""
    a, rate = q.concentration.double(), q.rate.double()
    loc, scale = p.loc.double(), p.scale.double()
    mean_log = a.digamma() - rate.log()
    second = torch.polygamma(1, a) + (mean_log - loc).square()
    cross = mean_log + scale.log() + math.log(2 * math.pi) / 2 + second / (2 * scale.square())
    entropy = a - rate.log() + a.lgamma() + (1 - a) * a.digamma()
    return (cross - entropy).to(q.concentration.dtype)
