"""Normal posteriors."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.networks import NetworkFactory

# A floor under every scale: softplus underflows to 0 in float32 below about -104.
MINIMUM_SCALE = 1e-5


class DiagonalNormal(nn.Module):
    """q(z | x) = N(z | mu(x), diag(sigma(x)^2)), sigma = softplus of the encoder's output.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, raw_scale = self.encoder(x).unbind(-2)
        return dist.Normal(loc, F.softplus(raw_scale) + MINIMUM_SCALE).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)


class FullNormal(nn.Module):
    """q(z | x) = N(z | mu(x), L(x) L(x)^T), L lower triangular with a positive diagonal.

    Args:
        latent_dim: The dimension d of z. The encoder gives d + d^2 outputs, of which the
            d (d - 1) / 2 above the diagonal are not used.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.

    References:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1,
        https://arxiv.org/abs/1906.02691
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((1 + latent_dim, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        outputs = self.encoder(x)
        loc, raw = outputs[..., 0, :], outputs[..., 1:, :]
        diagonal = F.softplus(raw.diagonal(dim1=-2, dim2=-1)) + MINIMUM_SCALE
        return dist.MultivariateNormal(loc, scale_tril=raw.tril(-1) + torch.diag_embed(diagonal))

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)
