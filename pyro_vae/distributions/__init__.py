"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of :mod:`pyro_vae.distributions.kl` and
:mod:`pyro_vae.distributions.kl_sphere`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions import kl_sphere as _kl_sphere
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher

__all__ = ["DiagonalNormalMixture", "PowerSpherical", "SphericalUniform", "VonMisesFisher"]

del _kl, _kl_sphere
