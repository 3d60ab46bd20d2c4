"""Priors of variables that are often exactly 0."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import SpikeAndSlab as _SpikeAndSlab
from pyro_vae.distributions.ranges import PROBABILITIES, SCALES, check_positive, check_range


class SpikeAndSlab(nn.Module):
    """p(z) = prod_i [(1 - gamma) delta_0(z_i) + gamma N(z_i | 0, s^2)].

    Args:
        latent_dim: The dimension of z.
        inclusion: gamma, the probability that a variable is not 0, from 1e-6 to 1 - 1e-6.
        scale: The standard deviation s of one that is not, from 1e-8 to 1e8.

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "sparse"
    ones: Tensor

    def __init__(self, latent_dim: int, inclusion: float = 0.2, scale: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if not 0 < inclusion < 1:
            raise ValueError(f"inclusion must be between 0 and 1, got {inclusion}.")
        check_range("inclusion", inclusion, PROBABILITIES)
        check_positive("scale", scale, SCALES)
        self.latent_dim = latent_dim
        self.inclusion = inclusion
        self.scale = scale
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return _SpikeAndSlab(
            (math.log(self.inclusion) - math.log1p(-self.inclusion)) * self.ones,
            0 * self.ones,
            self.scale * self.ones,
        ).to_event(1)
