"""Posteriors q(z | x), the guides.

A posterior is an `nn.Module` that owns its encoder. `posterior(x)`, with x `(*batch,
*event_shape)`, returns a reparameterisable distribution with batch shape `(*batch,)` and event
shape `(latent_dim,)`; `posterior.embed(x)` is the deterministic code used as a representation. It
has `latent_dim` and declares its `support` as a word, which must be the prior's. A posterior whose
`has_density` is False is a point mass, and only the objective `reconstruction` is defined.
"""

from torch import nn

from pyro_vae.posteriors.collapse_free import BatchNormalised, CommittedRate
from pyro_vae.posteriors.constrained import (
    Beta,
    Dirichlet,
    Gamma,
    LogisticNormal,
    LogNormal,
    OneHot,
    PowerSpherical,
    VonMisesFisher,
)
from pyro_vae.posteriors.flows import CouplingFlowPosterior, InverseAutoregressivePosterior
from pyro_vae.posteriors.posterior import MINIMUM_SCALE as MINIMUM_SCALE
from pyro_vae.posteriors.posterior import Posterior as Posterior
from pyro_vae.posteriors.real import (
    DiagonalNormal,
    FullNormal,
    Laplace,
    LowRankNormal,
    Point,
    SpikeAndSlab,
    StudentT,
)

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

# Posteriors for which log q(z | x) is defined, and so an ELBO.
WITH_DENSITY: dict[str, type[nn.Module]] = {
    name: part for name, part in POSTERIORS.items() if getattr(part, "has_density", True)
}
