"""Posteriors on the simplex."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import InteriorDirichlet
from pyro_vae.distributions import LogisticNormal as _LogisticNormal
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.bounds import LARGEST_LOG, LARGEST_SCALE, bounded, concentration
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE


class LogisticNormal(nn.Module):
    """q(z | x): z = softmax(eta), eta ~ N(m(x), diag(s(x)^2)); |m| < 20 and s < 5.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 2, or an option is out of its range.
    """

    support: ClassVar[str] = "simplex"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"latent_dim must be at least 2, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        first, second = self.encoder(x).unbind(-2)
        scale = bounded(F.softplus(second) + MINIMUM_SCALE, LARGEST_SCALE)
        return _LogisticNormal(bounded(first, LARGEST_LOG), scale)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """softmax(m(x)); the mean has no closed form."""
        return bounded(self.encoder(x).select(-2, 0), LARGEST_LOG).softmax(-1)


class Dirichlet(nn.Module):
    """q(z | x) = Dirichlet(z | alpha(x)), alpha above 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 2, or an option is out of its range.
    """

    support: ClassVar[str] = "simplex"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"latent_dim must be at least 2, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((1, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return InteriorDirichlet(concentration(self.encoder(x).squeeze(-2)))

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean."""
        return self(x).mean
