"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of its files `kl*.py`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions import kl_discrete as _kl_discrete
from pyro_vae.distributions import kl_positive as _kl_positive
from pyro_vae.distributions import kl_simplex as _kl_simplex
from pyro_vae.distributions import kl_sphere as _kl_sphere
from pyro_vae.distributions import kl_unit as _kl_unit
from pyro_vae.distributions.autoregressive_bernoulli import AutoregressiveBernoulli
from pyro_vae.distributions.categorical_levels import CategoricalLevels
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, LogisticMixture
from pyro_vae.distributions.flow import Bijection, NormalFlow
from pyro_vae.distributions.interior import InteriorBeta, InteriorDirichlet, InteriorGamma
from pyro_vae.distributions.logistic import Logistic
from pyro_vae.distributions.logistic_normal import LogisticNormal
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.multinomial import Multinomial
from pyro_vae.distributions.negative_binomial import NegativeBinomial
from pyro_vae.distributions.one_hot import OneHots
from pyro_vae.distributions.poisson import Poisson
from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.spike_and_slab import SpikeAndSlab
from pyro_vae.distributions.student_t import StudentT
from pyro_vae.distributions.unit_interval import Beta, ContinuousBernoulli, LogitNormal
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher

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
    "Multinomial",
    "NegativeBinomial",
    "NormalFlow",
    "OneHots",
    "Poisson",
    "PowerSpherical",
    "SphericalUniform",
    "SpikeAndSlab",
    "StudentT",
    "VonMisesFisher",
]

del _kl, _kl_discrete, _kl_positive, _kl_simplex, _kl_sphere, _kl_unit
