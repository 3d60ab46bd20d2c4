"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of :mod:`pyro_vae.distributions.kl`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.multinomial import Multinomial
from pyro_vae.distributions.negative_binomial import NegativeBinomial

__all__ = ["DiagonalNormalMixture", "Multinomial", "NegativeBinomial"]

del _kl
