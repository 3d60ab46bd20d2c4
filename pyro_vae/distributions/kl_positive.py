"""Closed-form divergences KL(q || p), in nats, between distributions of positive variables."""

import math

import torch
from torch import Tensor
from torch.distributions import Gamma, LogNormal, Weibull, register_kl

EULER = 0.57721566490153286


def _cross_entropy(p: Gamma, mean: Tensor, mean_log: Tensor) -> Tensor:
    """-E_q[log Gamma(z | a, b)], of E_q[z] and E_q[log z]."""
    a, b = p.concentration, p.rate
    return a.lgamma() - a * b.log() - (a - 1) * mean_log + b * mean


@register_kl(LogNormal, Gamma)
def kl_log_normal_gamma(q: LogNormal, p: Gamma) -> Tensor:
    """KL: E[log z] = m, E[z] = exp(m + s^2/2), and the entropy is m + 1/2 log(2 pi e s^2)."""
    entropy = q.loc + q.scale.log() + (1 + math.log(2 * math.pi)) / 2
    return _cross_entropy(p, q.mean, q.loc) - entropy


@register_kl(Weibull, Gamma)
def kl_weibull_gamma(q: Weibull, p: Gamma) -> Tensor:
    """KL: E[log z] = log l - g / k, E[z] = l Gamma(1 + 1/k), g being Euler's constant.

    References:
        WHAI: Weibull Hybrid Autoencoding Inference (Zhang et al., 2018), https://arxiv.org/abs/1803.01328
    """
    k = q.concentration
    entropy = EULER * (1 - 1 / k) + (q.scale / k).log() + 1
    mean = q.scale * (1 + 1 / k).lgamma().exp()
    return _cross_entropy(p, mean, q.scale.log() - EULER / k) - entropy


@register_kl(Gamma, LogNormal)
def kl_gamma_log_normal(q: Gamma, p: LogNormal) -> Tensor:
    """KL: E[log z] = psi(a) - log b, and Var[log z] = psi'(a)."""
    a = q.concentration
    mean_log = a.digamma() - q.rate.log()
    second = torch.polygamma(1, a) + (mean_log - p.loc).square()
    cross = mean_log + p.scale.log() + math.log(2 * math.pi) / 2 + second / (2 * p.scale.square())
    return cross - q.entropy()
