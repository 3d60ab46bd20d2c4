"""Posteriors of variables that are often exactly 0."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import SpikeAndSlab as _SpikeAndSlab
from pyro_vae.distributions.ranges import TEMPERATURES, check_positive
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE


class SpikeAndSlab(nn.Module):
    """q(z | x) = prod_i [(1 - gamma_i) delta_0(z_i) + gamma_i N(z_i | m_i, s_i^2)], all functions of x.

    The gradient of gamma is a straight-through one and biased: its distribution says why.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        temperature: The temperature of the relaxed gate that gives gamma its gradient, from 1e-3 to
            1e3.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "sparse"

    def __init__(self, latent_dim: int, encoder: NetworkFactory, temperature: float = 0.5) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        check_positive("temperature", temperature, TEMPERATURES)
        self.latent_dim = latent_dim
        self.temperature = temperature
        self.encoder = encoder((3, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        logits, loc, raw_scale = self.encoder(x).unbind(-2)
        scale = F.softplus(raw_scale) + MINIMUM_SCALE
        return _SpikeAndSlab(logits, loc, scale, self.temperature).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean gamma m."""
        return self(x).mean
