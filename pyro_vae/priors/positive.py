"""Priors of positive variables."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import InteriorGamma
from pyro_vae.distributions.ranges import (
    CONCENTRATIONS,
    LARGEST_LOG,
    LOG_SCALES,
    RATES,
    check_positive,
)


class LogNormal(nn.Module):
    """p(z) = prod_i LogNormal(z_i | m, s): log z_i ~ N(m, s^2).

    Args:
        latent_dim: The dimension of z.
        loc: The mean m of log z_i; |m| + 6 s is at most 84.
        scale: The standard deviation s of log z_i, from 0.01 to 14.

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"
    ones: Tensor

    def __init__(self, latent_dim: int, loc: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        check_positive("scale", scale, LOG_SCALES)
        if not math.isfinite(loc):
            raise ValueError(f"loc must be finite, got {loc}.")
        if abs(loc) + 6 * scale > LARGEST_LOG:
            raise ValueError(
                f"|loc| + 6 scale must be at most {LARGEST_LOG:g}, got loc {loc} and scale {scale}: "
                "float32 cannot hold the exponential of more."
            )
        self.latent_dim = latent_dim
        self.loc = loc
        self.scale = scale
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.LogNormal(self.loc * self.ones, self.scale * self.ones).to_event(1)


class Gamma(nn.Module):
    """p(z) = prod_i Gamma(z_i | a, b).

    Args:
        latent_dim: The dimension of z.
        concentration: The concentration a, from 1e-6 to 1e6; 1 is exponential, below 1 is sparse.
        rate: The rate b, from 1e-20 to 1e20; the mean is a / b.

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"
    ones: Tensor

    def __init__(self, latent_dim: int, concentration: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        check_positive("concentration", concentration, CONCENTRATIONS)
        check_positive("rate", rate, RATES)
        self.latent_dim = latent_dim
        self.concentration = concentration
        self.rate = rate
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return InteriorGamma(self.concentration * self.ones, self.rate * self.ones).to_event(1)
