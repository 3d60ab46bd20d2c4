"""Priors on the simplex, of as many corners as the latent dimension."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import InteriorDirichlet
from pyro_vae.distributions import LogisticNormal as _LogisticNormal
from pyro_vae.distributions.ranges import CONCENTRATIONS, check_positive


class Dirichlet(nn.Module):
    """p(z) = Dirichlet(z | alpha, ..., alpha).

    Args:
        latent_dim: The dimension of z.
        concentration: alpha, from 1e-6 to 1e6; 1 is uniform, below 1 is near the corners.

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "simplex"
    ones: Tensor

    def __init__(self, latent_dim: int, concentration: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"latent_dim must be at least 2, got {latent_dim}.")
        check_positive("concentration", concentration, CONCENTRATIONS)
        self.latent_dim = latent_dim
        self.concentration = concentration
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return InteriorDirichlet(self.concentration * self.ones)


class LogisticNormal(nn.Module):
    """p(z): z = softmax(eta), eta ~ N(0, I / alpha), the Laplace approximation of Dirichlet(alpha, ..., alpha).

    Softmax integrates out what all of eta have in common, so this is the whole approximation, of which
    topic models often take the diagonal (Srivastava & Sutton, 2017, https://arxiv.org/abs/1703.01488).

    Args:
        latent_dim: The dimension of z.
        concentration: alpha, from 1e-6 to 1e6; eta has standard deviation alpha^(-1/2).

    Raises:
        ValueError: If `latent_dim` is too small, or an option is out of its range.
    """

    support: ClassVar[str] = "simplex"
    ones: Tensor

    def __init__(self, latent_dim: int, concentration: float = 1.0) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(f"latent_dim must be at least 2, got {latent_dim}.")
        check_positive("concentration", concentration, CONCENTRATIONS)
        self.latent_dim = latent_dim
        self.concentration = concentration
        # A buffer, so that .to(device) carries it along.
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return _LogisticNormal(0 * self.ones, self.concentration**-0.5 * self.ones)
