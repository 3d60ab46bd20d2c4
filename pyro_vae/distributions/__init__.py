"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of its files `kl*.py`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions import kl_sphere as _kl_sphere
from pyro_vae.distributions.autoregressive_bernoulli import AutoregressiveBernoulli
from pyro_vae.distributions.categorical_levels import CategoricalLevels
from pyro_vae.distributions.coupling import CouplingFlow
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, LogisticMixture
from pyro_vae.distributions.flow import NormalFlow
from pyro_vae.distributions.logistic import Logistic
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.multinomial import Multinomial
from pyro_vae.distributions.negative_binomial import NegativeBinomial
from pyro_vae.distributions.power_spherical import PowerSpherical
from pyro_vae.distributions.spherical_uniform import SphericalUniform
from pyro_vae.distributions.student_t import StudentT
from pyro_vae.distributions.unit_interval import Beta, ContinuousBernoulli, LogitNormal
from pyro_vae.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "AutoregressiveBernoulli",
    "Beta",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "CouplingFlow",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "Logistic",
    "LogisticMixture",
    "LogitNormal",
    "LowRankNormal",
    "Multinomial",
    "NegativeBinomial",
    "NormalFlow",
    "PowerSpherical",
    "SphericalUniform",
    "StudentT",
    "VonMisesFisher",
]

del _kl, _kl_sphere
