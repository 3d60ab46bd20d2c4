"""Normal posteriors."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import LowRankNormal as LowRankNormalDistribution
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


class LowRankNormal(nn.Module):
    """q(z | x) = N(z | mu(x), S (I + U U^T) S), S = diag(sigma(x)), U(x) with a few columns.

    Between the diagonal normal, U = 0, and the full one: d (2 + rank) outputs of the encoder, and a
    density and a KL that cost d rank^2.

    Args:
        latent_dim: The dimension d of z.
        encoder: Output shape -> network that reads x.
        rank: The number of columns of U; more than d - 1 add nothing.

    Raises:
        ValueError: If `latent_dim` or `rank` is below 1.

    References:
        Gaussian Variational Approximation with a Factor Covariance Structure (Ong et al., 2018),
        https://arxiv.org/abs/1701.03208
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, encoder: NetworkFactory, rank: int = 2) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}.")
        self.latent_dim = latent_dim
        self.encoder = encoder((2 + rank, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        outputs = self.encoder(x)
        loc, raw_scale, columns = outputs[..., 0, :], outputs[..., 1, :], outputs[..., 2:, :]
        scale = F.softplus(raw_scale) + MINIMUM_SCALE
        # Relative to the scales, so that I + U^T U is what has to be inverted, whatever they are.
        factor = (columns * scale.unsqueeze(-2)).mT
        return LowRankNormalDistribution(loc, factor, scale)

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
