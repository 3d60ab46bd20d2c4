"""Closed-form divergences KL(q || p) on spheres and on the circle, in nats."""

import torch
from torch import Tensor
from torch.distributions import VonMises, register_kl

from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.spherical_uniform import SphericalUniform, log_surface_area
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher


@register_kl(VonMisesFisher, SphericalUniform)
def kl_von_mises_fisher_uniform(q: VonMisesFisher, p: SphericalUniform) -> Tensor:
    """log area - H(q), whatever the mean direction.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), appendix B,
        https://arxiv.org/abs/1804.00891
    """
    area = log_surface_area(q.event_shape[0])
    depth = 2 * q.concentration.double() * q.polar_angle.mean_depth
    kl = area - (depth + q.log_scaled_normalizer)
    return kl.to(q.loc.dtype).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(VonMisesFisher, VonMisesFisher)
def kl_von_mises_fisher(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    """log C(kappa_q) / C(kappa_p) + A(kappa_q) (kappa_q - kappa_p mu_q.mu_p).

    Written with 1 - A and |mu_q - mu_p|^2 / 2 = 1 - mu_q.mu_p, so that nothing large cancels.
    """
    kappa_q, kappa_p = q.concentration.double(), p.concentration.double()
    depth = 2 * q.polar_angle.mean_depth
    apart = (q.loc.double() - p.loc.double()).square().sum(-1) / 2
    kl = (
        p.log_scaled_normalizer
        - q.log_scaled_normalizer
        + (kappa_p - kappa_q) * depth
        + kappa_p * (1 - depth) * apart
    )
    return kl.to(q.loc.dtype)


@register_kl(PowerSpherical, SphericalUniform)
def kl_power_spherical_uniform(q: PowerSpherical, p: SphericalUniform) -> Tensor:
    """log area - H(q), whatever the mean direction.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """
    kl = log_surface_area(q.event_shape[0]) - q.entropy_in_float64()
    return kl.to(q.loc.dtype).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(VonMises, VonMises)
def kl_von_mises(q: VonMises, p: VonMises) -> Tensor:
    """log I_0(kappa_p) / I_0(kappa_q) + A(kappa_q) (kappa_q - kappa_p cos(mu_q - mu_p)).

    A = I_1 / I_0. In the scaled functions exp(-kappa) I(kappa), which do not overflow.
    """
    kappa_q, kappa_p = q.concentration.double(), p.concentration.double()
    scaled = torch.special.i0e(kappa_q)
    length = torch.special.i1e(kappa_q) / scaled
    apart = 2 * ((q.loc.double() - p.loc.double()) / 2).sin().square()
    kl = (
        torch.special.i0e(kappa_p).log()
        - scaled.log()
        + (kappa_p - kappa_q) * (1 - length)
        + kappa_p * length * apart
    )
    return kl.to(q.concentration.dtype)
