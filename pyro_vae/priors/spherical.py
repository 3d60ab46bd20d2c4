"""Priors on the unit sphere in R^d. The sphere's own dimension, which tables quote, is d - 1."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import PowerSpherical as PowerSphericalDistribution
from pyro_vae.distributions import SphericalUniform as SphericalUniformDistribution
from pyro_vae.distributions import VonMisesFisher as VonMisesFisherDistribution
from pyro_vae.networks import unit_vector

# A floor under every concentration: softplus underflows to 0 in float32 below about -104.
MINIMUM_CONCENTRATION = 1e-3


def _check(latent_dim: int) -> None:
    if latent_dim < 2:
        raise ValueError(
            f"latent_dim must be at least 2, for a sphere lies in R^latent_dim, got {latent_dim}."
        )


class SphericalUniform(nn.Module):
    """p(z) = Gamma(d/2) / (2 pi^(d/2)) on the unit sphere in R^d.

    Args:
        latent_dim: d, the length of z.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891
    """

    support: ClassVar[str] = "sphere"
    like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        _check(latent_dim)
        self.latent_dim = latent_dim
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("like", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return SphericalUniformDistribution(self.like)


class PowerSpherical(nn.Module):
    """p(z) = N_d(kappa) (1 + mu.z)^kappa on the unit sphere, mu and kappa learned.

    Args:
        latent_dim: d, the length of z.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """

    support: ClassVar[str] = "sphere"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        _check(latent_dim)
        self.latent_dim = latent_dim
        self.direction = nn.Parameter(torch.randn(latent_dim))
        # A concentration of 1: near the uniform distribution.
        self.raw_concentration = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    def forward(self) -> dist.Distribution:
        concentration = F.softplus(self.raw_concentration) + MINIMUM_CONCENTRATION
        return PowerSphericalDistribution(unit_vector(self.direction), concentration)


class VonMisesFisher(nn.Module):
    """p(z) = C_d(kappa) exp(kappa mu.z) on the unit sphere, mu and kappa learned.

    Args:
        latent_dim: d, the length of z.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        Directional Statistics (Mardia & Jupp, 2000), section 9.3
    """

    support: ClassVar[str] = "sphere"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        _check(latent_dim)
        self.latent_dim = latent_dim
        self.direction = nn.Parameter(torch.randn(latent_dim))
        # A concentration of 1: near the uniform distribution.
        self.raw_concentration = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    def forward(self) -> dist.Distribution:
        concentration = F.softplus(self.raw_concentration) + MINIMUM_CONCENTRATION
        return VonMisesFisherDistribution(unit_vector(self.direction), concentration)
