"""Priors of variables in the unit interval."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import InteriorBeta


class Beta(nn.Module):
    """p(z) = prod_i Beta(z_i | a, b).

    Args:
        latent_dim: The dimension of z.
        concentration1: The concentration a at 1; with a = b = 1, z is uniform.
        concentration0: The concentration b at 0.

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "unit"
    ones: Tensor

    def __init__(
        self, latent_dim: int, concentration1: float = 1.0, concentration0: float = 1.0
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if not 0 < concentration1 < math.inf:
            raise ValueError(f"concentration1 must be above 0 and finite, got {concentration1}.")
        if not 0 < concentration0 < math.inf:
            raise ValueError(f"concentration0 must be above 0 and finite, got {concentration0}.")
        self.latent_dim = latent_dim
        self.concentration1 = concentration1
        self.concentration0 = concentration0
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return InteriorBeta(
            self.concentration1 * self.ones, self.concentration0 * self.ones
        ).to_event(1)
