"""Priors of independent variables on the real line: normal, heavy-tailed, spike and slab."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import DEGREES_OF_FREEDOM, PROBABILITIES, SCALES, check_positive, check_range
from pyro_vae.priors.prior import Prior


class StandardNormal(Prior):
    """p(z) = N(z | 0, I).

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "real"

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.zeros, self.full(1.0)).to_event(1)


class Laplace(Prior):
    """p(z) = prod_i Laplace(z_i | 0, b): many z_i near 0, some far.

    Args:
        scale: The scale b of each z_i, from 1e-8 to 1e8; 2^(-1/2) gives unit variance.

    Raises:
        ValueError: If `latent_dim` is below 1, or `scale` is out of its range.

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural
        images (Olshausen & Field, 1996), https://doi.org/10.1038/381607a0
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, scale: float = math.sqrt(0.5)) -> None:
        super().__init__(latent_dim)
        check_positive(SCALES, scale=scale)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.zeros, self.full(self.scale)).to_event(1)


class StudentT(Prior):
    """p(z) = prod_i StudentT(z_i | df, 0, s): Cauchy with df = 1, normal with df -> infinity.

    Args:
        df: The degrees of freedom, from 0.25 to 1e8; their initial value if they are learned.
        scale: The scale s of each z_i, from 1e-8 to 1e8.
        learn_df: Whether to learn degrees of freedom for each z_i.

    Raises:
        ValueError: If `latent_dim` is below 1, or `df` or `scale` is out of its range.

    References:
        Variational auto-encoders with Student's t-prior (Abiri & Ohlsson, 2019),
        https://arxiv.org/abs/2004.02581
    """

    support: ClassVar[str] = "real"
    fixed_df: Tensor

    def __init__(
        self, latent_dim: int, df: float = 5.0, scale: float = 1.0, learn_df: bool = False
    ) -> None:
        super().__init__(latent_dim)
        check_positive(SCALES, scale=scale)
        check_positive(DEGREES_OF_FREEDOM, df=df)
        self.scale = scale
        self.learn_df = learn_df
        start = self.full(df)
        if learn_df:
            # softplus^-1(df), in a form that does not overflow.
            self.raw_df = nn.Parameter(start + (-torch.expm1(-start)).log())
        else:
            self.register_buffer("fixed_df", start, persistent=False)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom of each z_i, `(latent_dim,)`."""
        # The floor is because softplus underflows to 0.
        return F.softplus(self.raw_df) + 1e-5 if self.learn_df else self.fixed_df

    def forward(self) -> dist.Distribution:
        return distributions.StudentT(self.df, self.zeros, self.full(self.scale)).to_event(1)


class Logistic(Prior):
    """p(z) = prod_i Logistic(z_i | 0, s): a Laplace's tails, a normal's round top.

    Args:
        scale: The scale s of each z_i, from 1e-8 to 1e8; sqrt(3) / pi gives unit variance.

    Raises:
        ValueError: If `latent_dim` is below 1, or `scale` is out of its range.

    References:
        NICE: Non-linear Independent Components Estimation (Dinh, Krueger & Bengio, 2015),
        section 3.4, https://arxiv.org/abs/1410.8516
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, scale: float = math.sqrt(3) / math.pi) -> None:
        super().__init__(latent_dim)
        check_positive(SCALES, scale=scale)
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return distributions.Logistic(self.zeros, self.full(self.scale)).to_event(1)


class SpikeAndSlab(Prior):
    """p(z) = prod_i [(1 - gamma) delta_0(z_i) + gamma N(z_i | 0, s^2)].

    Args:
        inclusion: gamma, the probability that a variable is not 0, from 1e-6 to 1 - 1e-6.
        scale: The standard deviation s of a variable that is not 0, from 1e-8 to 1e8.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "sparse"

    def __init__(self, latent_dim: int, inclusion: float = 0.2, scale: float = 1.0) -> None:
        super().__init__(latent_dim)
        if not 0 < inclusion < 1:
            raise ValueError(f"inclusion must be between 0 and 1, got {inclusion}.")
        check_range(PROBABILITIES, inclusion=inclusion)
        check_positive(SCALES, scale=scale)
        self.inclusion = inclusion
        self.scale = scale

    def forward(self) -> dist.Distribution:
        logits = self.full(math.log(self.inclusion) - math.log1p(-self.inclusion))
        return distributions.SpikeAndSlab(logits, self.zeros, self.full(self.scale)).to_event(1)
