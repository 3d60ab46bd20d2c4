"""Priors with heavier tails than a normal's."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import Logistic as LogisticDistribution
from pyro_vae.distributions import StudentT as StudentTDistribution
from pyro_vae.distributions.ranges import DEGREES_OF_FREEDOM, SCALES, check_positive


def _check(latent_dim: int, scale: float) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    check_positive("scale", scale, SCALES)


class Laplace(nn.Module):
    """p(z) = prod_i Laplace(z_i | 0, b): many z_i near 0, some far.

    Args:
        latent_dim: The dimension of z.
        scale: The scale b of each z_i, from 1e-8 to 1e8; 2^(-1/2) gives unit variance.

    Raises:
        ValueError: If `latent_dim` is below 1, or `scale` is out of its range.

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural
        images (Olshausen & Field, 1996), https://doi.org/10.1038/381607a0
    """

    support: ClassVar[str] = "real"
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, scale: float = math.sqrt(0.5)) -> None:
        super().__init__()
        _check(latent_dim, scale)
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.full((latent_dim,), float(scale)), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(nn.Module):
    """p(z) = prod_i StudentT(z_i | df, 0, s): with df = 1 Cauchy variables, with df -> infinity normal.

    Args:
        latent_dim: The dimension of z.
        df: The degrees of freedom, from 0.25 to 1e8; where they are learned, those at the start.
        scale: The scale s of each z_i, from 1e-8 to 1e8.
        learn_df: Whether each z_i has degrees of freedom of its own that are learned.

    Raises:
        ValueError: If `latent_dim` is below 1, or `df` or `scale` is out of its range.

    References:
        Variational auto-encoders with Student's t-prior (Abiri & Ohlsson, 2019),
        https://arxiv.org/abs/2004.02581
    """

    support: ClassVar[str] = "real"
    loc: Tensor
    scale: Tensor
    fixed_df: Tensor

    def __init__(
        self, latent_dim: int, df: float = 5.0, scale: float = 1.0, learn_df: bool = False
    ) -> None:
        super().__init__()
        _check(latent_dim, scale)
        check_positive("df", df, DEGREES_OF_FREEDOM)
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.full((latent_dim,), float(scale)), persistent=False)
        start = torch.full((latent_dim,), float(df))
        self.learn_df = learn_df
        if learn_df:
            # softplus^-1(df), written so that it overflows for no df.
            self.raw_df = nn.Parameter(start + (-torch.expm1(-start)).log())
        else:
            self.register_buffer("fixed_df", start, persistent=False)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom of each z_i, `(latent_dim,)`."""
        # A floor, as softplus underflows to 0.
        return F.softplus(self.raw_df) + 1e-5 if self.learn_df else self.fixed_df

    def forward(self) -> dist.Distribution:
        return StudentTDistribution(self.df, self.loc, self.scale).to_event(1)


class Logistic(nn.Module):
    """p(z) = prod_i Logistic(z_i | 0, s): a Laplace's tails, a normal's round top.

    Args:
        latent_dim: The dimension of z.
        scale: The scale s of each z_i, from 1e-8 to 1e8; sqrt(3) / pi gives unit variance.

    Raises:
        ValueError: If `latent_dim` is below 1, or `scale` is out of its range.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh, Krueger & Bengio, 2015),
        section 3.4, https://arxiv.org/abs/1410.8516
    """

    support: ClassVar[str] = "real"
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, scale: float = math.sqrt(3) / math.pi) -> None:
        super().__init__()
        _check(latent_dim, scale)
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.full((latent_dim,), float(scale)), persistent=False)

    def forward(self) -> dist.Distribution:
        return LogisticDistribution(self.loc, self.scale).to_event(1)
