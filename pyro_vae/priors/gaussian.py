"""Normal priors."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """p(z) = N(z | 0, I).

    Args:
        latent_dim: The dimension of z.

    Raises:
        ValueError: If `latent_dim` is below 1.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "real"
    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        self.latent_dim = latent_dim
        # Buffers, so that .to(device) carries them along.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
