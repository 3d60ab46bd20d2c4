"""Posteriors with heavier tails than a normal's."""

import math
from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import StudentT as StudentTDistribution
from pyro_vae.distributions.ranges import DEGREES_OF_FREEDOM, check_range
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE

# The mean exists above 1, and float32 tells 1.001 from it.
_DEGREES_OF_FREEDOM = (1.001, DEGREES_OF_FREEDOM[1])


class Laplace(nn.Module):
    """q(z | x) = prod_i Laplace(z_i | mu_i(x), b_i(x)), b = softplus of the encoder's output.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4,
        https://arxiv.org/abs/1312.6114
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
        return dist.Laplace(loc, F.softplus(raw_scale) + MINIMUM_SCALE).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)


class StudentT(nn.Module):
    """q(z | x) = prod_i StudentT(z_i | df_i(x), mu_i(x), s_i(x)), s = softplus of the encoder's output.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        df: The degrees of freedom; where the encoder gives them, those at an output of 0. From
            1.001, so that the mean exists, to 1e8.
        learn_df: Whether the encoder gives degrees of freedom for each datum and variable, above 1.

    Raises:
        ValueError: If `latent_dim` is below 1, or `df` is out of its range.

    References:
        Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018),
        https://arxiv.org/abs/1805.08498; here the gradients are explicit:
        `pyro_vae.distributions.StudentT` says how
    """

    support: ClassVar[str] = "real"

    def __init__(
        self, latent_dim: int, encoder: NetworkFactory, df: float = 5.0, learn_df: bool = False
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if not 1 < df < math.inf:
            raise ValueError(f"df must be above 1 and finite, got {df}.")
        check_range("df", df, _DEGREES_OF_FREEDOM)
        self.latent_dim = latent_dim
        self.df = df
        self.learn_df = learn_df
        self.encoder = encoder((3 if learn_df else 2, latent_dim))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, raw_scale, *raw_df = self.encoder(x).unbind(-2)
        scale = F.softplus(raw_scale) + MINIMUM_SCALE
        if not raw_df:
            return StudentTDistribution(self.df, loc, scale).to_event(1)
        # softplus^-1(df - 1), written so that it overflows for no df.
        start = self.df - 1 + math.log(-math.expm1(1 - self.df))
        df = 1 + 1e-3 + F.softplus(raw_df[0] + start)
        return StudentTDistribution(df, loc, scale).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)
