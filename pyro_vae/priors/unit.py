"""Priors of variables in the unit interval."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import InteriorBeta
from pyro_vae.distributions.ranges import CONCENTRATIONS, check_positive


class Beta(nn.Module):
    """p(z) = prod_i Beta(z_i | a, b).

    Args:
        latent_dim: The dimension of z.
        concentration1: The concentration a at 1, from 1e-6 to 1e6; with a = b = 1, z is uniform.
        concentration0: The concentration b at 0, likewise.

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
        check_positive("concentration1", concentration1, CONCENTRATIONS)
        check_positive("concentration0", concentration0, CONCENTRATIONS)
        self.latent_dim = latent_dim
        self.concentration1 = concentration1
        self.concentration0 = concentration0
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return InteriorBeta(
            self.concentration1 * self.ones, self.concentration0 * self.ones
        ).to_event(1)
