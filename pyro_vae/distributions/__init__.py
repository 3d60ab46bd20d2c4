"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of its `kl` files.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions import kl_discrete as _kl_discrete
from pyro_vae.distributions import kl_positive as _kl_positive
from pyro_vae.distributions import kl_simplex as _kl_simplex
from pyro_vae.distributions import kl_unit as _kl_unit
from pyro_vae.distributions.interior import InteriorBeta, InteriorDirichlet, InteriorGamma
from pyro_vae.distributions.logistic_normal import LogisticNormal
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.one_hot import OneHots
from pyro_vae.distributions.spike_and_slab import SpikeAndSlab

__all__ = [
    "DiagonalNormalMixture",
    "InteriorBeta",
    "InteriorDirichlet",
    "InteriorGamma",
    "LogisticNormal",
    "OneHots",
    "SpikeAndSlab",
]

del _kl, _kl_discrete, _kl_positive, _kl_simplex, _kl_unit
