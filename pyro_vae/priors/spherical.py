"""Priors on the unit sphere in R^d. The sphere's own dimension, which tables quote, is d - 1."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.networks import unit_vector
from pyro_vae.priors.prior import Prior

# A floor under every concentration: softplus underflows to 0 in float32 below about -104.
MINIMUM_CONCENTRATION = 1e-3


class SphericalUniform(Prior):
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
    minimum_dim = 2

    def forward(self) -> dist.Distribution:
        return distributions.SphericalUniform(self.zeros)


class _Directional(Prior):
    """A prior with a learned mean direction and concentration. Abstract."""

    support: ClassVar[str] = "sphere"
    minimum_dim = 2

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.direction = nn.Parameter(torch.randn(latent_dim))
        # A concentration of 1: near the uniform distribution.
        self.raw_concentration = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    def _direction_and_concentration(self) -> tuple[Tensor, Tensor]:
        concentration = F.softplus(self.raw_concentration) + MINIMUM_CONCENTRATION
        return unit_vector(self.direction), concentration


class PowerSpherical(_Directional):
    """p(z) = N_d(kappa) (1 + mu.z)^kappa on the unit sphere, mu and kappa learned.

    Args:
        latent_dim: d, the length of z.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """

    def forward(self) -> dist.Distribution:
        return distributions.PowerSpherical(*self._direction_and_concentration())


class VonMisesFisher(_Directional):
    """p(z) = C_d(kappa) exp(kappa mu.z) on the unit sphere, mu and kappa learned.

    Args:
        latent_dim: d, the length of z.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        Directional Statistics (Mardia & Jupp, 2000), section 9.3
    """

    def forward(self) -> dist.Distribution:
        return distributions.VonMisesFisher(*self._direction_and_concentration())
