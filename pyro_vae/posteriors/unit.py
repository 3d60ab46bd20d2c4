"""Posteriors of variables in the unit interval."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.distributions import InteriorBeta
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.bounds import concentration


class Beta(nn.Module):
    """q(z | x) = prod_i Beta(z_i | a_i(x), b_i(x)), both above 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "unit"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        first, second = self.encoder(x).unbind(-2)
        return InteriorBeta(concentration(first), concentration(second)).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean."""
        return self(x).mean
