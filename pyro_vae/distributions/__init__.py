"""Densities and Kullback-Leibler divergences that torch and Pyro lack.

Importing this package registers the divergences of :mod:`pyro_vae.distributions.kl`.
"""

from pyro_vae.distributions import kl as _kl
from pyro_vae.distributions.logistic import Logistic
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixture import DiagonalNormalMixture
from pyro_vae.distributions.student_t import StudentT

__all__ = ["DiagonalNormalMixture", "Logistic", "LowRankNormal", "StudentT"]

del _kl
