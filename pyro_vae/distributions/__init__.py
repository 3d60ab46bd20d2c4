"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of :mod:`pyro_vae.distributions.kl`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions.coupling import CouplingFlow
from pyro_vae.distributions.flow import NormalFlow
from pyro_vae.distributions.mixture import DiagonalNormalMixture

__all__ = ["CouplingFlow", "DiagonalNormalMixture", "NormalFlow"]

del _kl
