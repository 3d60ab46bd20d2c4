"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of :mod:`pyro_vae.distributions.kl`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions.autoregressive_bernoulli import AutoregressiveBernoulli
from pyro_vae.distributions.categorical_levels import CategoricalLevels
from pyro_vae.distributions.discretized_logistic import DiscretizedLogistic, LogisticMixture
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.multinomial import Multinomial
from pyro_vae.distributions.negative_binomial import NegativeBinomial
from pyro_vae.distributions.unit_interval import Beta, ContinuousBernoulli, LogitNormal

__all__ = [
    "AutoregressiveBernoulli",
    "Beta",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "LogisticMixture",
    "LogitNormal",
    "LowRankNormal",
    "Multinomial",
    "NegativeBinomial",
]

del _kl
