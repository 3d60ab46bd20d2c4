"""Posteriors q(z | x), the guides.

A posterior is an `nn.Module` that owns its encoder. `posterior(x)`, with x `(*batch, *event_shape)`,
returns a reparameterisable distribution with batch shape `(*batch,)` and event shape `(latent_dim,)`;
`posterior.embed(x)` is the deterministic code used as a representation. It has `latent_dim` and
declares its `support` as a word, which has to be the prior's.
"""

from torch import nn

from pyro_vae.posteriors.flow import CouplingFlowPosterior
from pyro_vae.posteriors.gaussian import DiagonalNormal, FullNormal

POSTERIORS: dict[str, type[nn.Module]] = {
    "diagonal_normal": DiagonalNormal,
    "full_normal": FullNormal,
    "coupling_flow": CouplingFlowPosterior,
}

__all__ = ["POSTERIORS", "CouplingFlowPosterior", "DiagonalNormal", "FullNormal"]
