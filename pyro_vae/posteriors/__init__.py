"""Posteriors q(z | x), the guides.

A posterior is an `nn.Module` that owns its encoder. `posterior(x)`, with x `(*batch, *event_shape)`,
returns a reparameterisable distribution with batch shape `(*batch,)` and event shape `(latent_dim,)`;
`posterior.embed(x)` is the deterministic code used as a representation. It has `latent_dim` and
declares its `support` as a word, which has to be the prior's. One whose `has_density` is False
has all its mass at a point, and serves no objective but `reconstruction`.
"""

from torch import nn

from pyro_vae.posteriors.committed import BatchNormalised, CommittedRate
from pyro_vae.posteriors.discrete import OneHot
from pyro_vae.posteriors.flow import CouplingFlowPosterior, InverseAutoregressivePosterior
from pyro_vae.posteriors.gaussian import DiagonalNormal, FullNormal, LowRankNormal
from pyro_vae.posteriors.heavy_tailed import Laplace, StudentT
from pyro_vae.posteriors.point import Point
from pyro_vae.posteriors.positive import Gamma, LogNormal
from pyro_vae.posteriors.simplex import Dirichlet, LogisticNormal
from pyro_vae.posteriors.sparse import SpikeAndSlab
from pyro_vae.posteriors.spherical import PowerSpherical, VonMisesFisher
from pyro_vae.posteriors.unit import Beta

POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal_normal": DiagonalNormal,
    "low_rank_normal": LowRankNormal,
    "full_normal": FullNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "batch_normalised": BatchNormalised,
    "committed_rate": CommittedRate,
    "coupling_flow": CouplingFlowPosterior,
    "inverse_autoregressive": InverseAutoregressivePosterior,
    "log_normal": LogNormal,
    "gamma": Gamma,
    "beta": Beta,
    "logistic_normal": LogisticNormal,
    "dirichlet": Dirichlet,
    "von_mises_fisher": VonMisesFisher,
    "power_spherical": PowerSpherical,
    "one_hot": OneHot,
    "spike_and_slab": SpikeAndSlab,
    "point": Point,
}

# Those that an ELBO, or anything else with log q(z | x) in it, is defined for.
WITH_DENSITY: dict[str, type[nn.Module]] = {
    name: part for name, part in POSTERIORS.items() if getattr(part, "has_density", True)
}

__all__ = [
    "POSTERIORS",
    "WITH_DENSITY",
    "BatchNormalised",
    "Beta",
    "CommittedRate",
    "CouplingFlowPosterior",
    "DiagonalNormal",
    "Dirichlet",
    "FullNormal",
    "Gamma",
    "InverseAutoregressivePosterior",
    "Laplace",
    "LogNormal",
    "LogisticNormal",
    "LowRankNormal",
    "OneHot",
    "Point",
    "PowerSpherical",
    "SpikeAndSlab",
    "StudentT",
    "VonMisesFisher",
]
