"""Posteriors of positive variables."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import InteriorGamma
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.bounds import LARGEST_LOG, LARGEST_SCALE, bounded, concentration
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE


class LogNormal(nn.Module):
    """q(z | x) = prod_i LogNormal(z_i | m_i(x), s_i(x)); |m| < 20 and s < 5, by smooth bounds.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        first, second = self.encoder(x).unbind(-2)
        scale = bounded(F.softplus(second) + MINIMUM_SCALE, LARGEST_SCALE)
        return dist.LogNormal(bounded(first, LARGEST_LOG), scale).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean."""
        return self(x).mean


class Gamma(nn.Module):
    """q(z | x) = prod_i Gamma(z_i | a_i(x), a_i(x) / mean_i(x)); |log mean| < 20 and a > 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        first, second = self.encoder(x).unbind(-2)
        shape = concentration(first)
        mean = bounded(second, LARGEST_LOG).exp()
        return InteriorGamma(shape, shape / mean).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean."""
        return self(x).mean
