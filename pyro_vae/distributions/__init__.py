"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of `kl.py`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions.constrained import (
    InteriorBeta,
    InteriorDirichlet,
    InteriorGamma,
    LogisticNormal,
)
from pyro_vae.distributions.counts import Multinomial, NegativeBinomial, Poisson
from pyro_vae.distributions.discrete import AutoregressiveBernoulli, OneHots, SpikeAndSlab
from pyro_vae.distributions.levels import CategoricalLevels, DiscretizedLogistic, LogisticMixture
from pyro_vae.distributions.markov import MarkovNormal, TwoLevels
from pyro_vae.distributions.real import (
    Bijection,
    DiagonalNormalMixture,
    Logistic,
    LowRankNormal,
    NormalFlow,
    StudentT,
)
from pyro_vae.distributions.spherical import PowerSpherical, SphericalUniform, VonMisesFisher
from pyro_vae.distributions.unit_interval import Beta, ContinuousBernoulli, LogitNormal

__all__ = [
    "AutoregressiveBernoulli",
    "Beta",
    "Bijection",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "InteriorBeta",
    "InteriorDirichlet",
    "InteriorGamma",
    "Logistic",
    "LogisticMixture",
    "LogisticNormal",
    "LogitNormal",
    "LowRankNormal",
    "MarkovNormal",
    "Multinomial",
    "NegativeBinomial",
    "NormalFlow",
    "OneHots",
    "Poisson",
    "PowerSpherical",
    "SphericalUniform",
    "SpikeAndSlab",
    "StudentT",
    "TwoLevels",
    "VonMisesFisher",
]

del _kl
