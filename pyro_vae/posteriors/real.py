"""Posteriors on the real line: normal, heavy-tailed, spike and slab, and a point mass."""

import math
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import (
    DEGREES_OF_FREEDOM,
    TEMPERATURES,
    check_at_least,
    check_choice,
    check_positive,
    check_range,
)
from pyro_vae.networks import NetworkFactory, user_units
from pyro_vae.posteriors.posterior import Posterior, positive_scale

# The mean exists above 1, which float32 distinguishes from 1.001.
_DEGREES_OF_FREEDOM = (1.001, DEGREES_OF_FREEDOM[1])


class _Located(Posterior):
    """A posterior whose mean is the encoder's first output per coordinate. Abstract."""

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)


class DiagonalNormal(_Located):
    """q(z | x) = N(z | mu(x), diag(sigma(x)^2)), sigma = softplus of the encoder's output.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, raw_scale = self.encoder(x).unbind(-2)
        return dist.Normal(loc, positive_scale(raw_scale)).to_event(1)


class LowRankNormal(_Located):
    """q(z | x) = N(z | mu(x), S (I + U U^T) S), S = diag(sigma(x)), U(x) with a few columns.

    Between the diagonal normal, U = 0, and the full one: d (2 + rank) outputs of the encoder, and
    a density and a KL that cost d rank^2.

    Args:
        latent_dim: The dimension d of z.
        rank: The number of columns of U; more than d - 1 add nothing.

    Raises:
        ValueError: If `latent_dim` or `rank` is below 1.

    References:
        Gaussian Variational Approximation with a Factor Covariance Structure (Ong et al., 2018),
        https://arxiv.org/abs/1701.03208
    """

    def __init__(self, latent_dim: int, encoder: NetworkFactory, rank: int = 2) -> None:
        check_at_least(1, rank=rank)
        self.outputs_per_coordinate = 2 + rank
        super().__init__(latent_dim, encoder)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        outputs = self.encoder(x)
        loc, scale = outputs[..., 0, :], positive_scale(outputs[..., 1, :])
        # Relative to the scales, so that the matrix to invert, I + U^T U, does not depend on them.
        factor = (outputs[..., 2:, :] * scale.unsqueeze(-2)).mT
        return distributions.LowRankNormal(loc, factor, scale)


class FullNormal(_Located):
    """q(z | x) = N(z | mu(x), L(x) L(x)^T), L lower triangular with a positive diagonal.

    Args:
        latent_dim: The dimension d of z. The encoder has d + d^2 outputs, of which the
            d (d - 1) / 2 above the diagonal are not used.

    References:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1,
        https://arxiv.org/abs/1906.02691
    """

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(1 + d, d): the mean, then the rows of L."""
        return (1 + self.latent_dim, self.latent_dim)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        outputs = self.encoder(x)
        loc, raw = outputs[..., 0, :], outputs[..., 1:, :]
        diagonal = positive_scale(raw.diagonal(dim1=-2, dim2=-1))
        return dist.MultivariateNormal(loc, scale_tril=raw.tril(-1) + torch.diag_embed(diagonal))


class Laplace(_Located):
    """q(z | x) = prod_i Laplace(z_i | mu_i(x), b_i(x)), b = softplus of the encoder's output.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4,
        https://arxiv.org/abs/1312.6114
    """

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, raw_scale = self.encoder(x).unbind(-2)
        return dist.Laplace(loc, positive_scale(raw_scale)).to_event(1)


class StudentT(_Located):
    """q(z | x) = prod_i StudentT(z_i | df_i(x), mu_i(x), s_i(x)), s = softplus of an output.

    Args:
        df: The degrees of freedom; where the encoder predicts them, those at an output of 0. From
            1.001, so that the mean exists, to 1e8.
        learn_df: Whether the encoder predicts degrees of freedom per example and variable, above
            1.

    Raises:
        ValueError: If `latent_dim` is below 1, or `df` is out of its range.

    References:
        Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018),
        https://arxiv.org/abs/1805.08498; here the gradients are explicit, as
        `pyro_vae.distributions.StudentT` describes
    """

    def __init__(
        self, latent_dim: int, encoder: NetworkFactory, df: float = 5.0, learn_df: bool = False
    ) -> None:
        if not 1 < df < math.inf:
            raise ValueError(f"df must be above 1 and finite, got {df}.")
        check_range(_DEGREES_OF_FREEDOM, df=df)
        self.outputs_per_coordinate = 3 if learn_df else 2
        super().__init__(latent_dim, encoder)
        self.df = df
        self.learn_df = learn_df

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, raw_scale, *raw_df = self.encoder(x).unbind(-2)
        df = self.df
        if raw_df:
            # softplus^-1(df - 1), in a form that does not overflow.
            start = self.df - 1 + math.log(-math.expm1(1 - self.df))
            df = 1 + 1e-3 + F.softplus(raw_df[0] + start)
        return distributions.StudentT(df, loc, positive_scale(raw_scale)).to_event(1)


class SpikeAndSlab(Posterior):
    """q(z | x) = prod_i [(1 - gamma_i) delta_0(z_i) + gamma_i N(z_i | m_i, s_i^2)], all of x.

    The gradient of gamma is a biased straight-through one: see its distribution.

    Args:
        temperature: The temperature of the relaxed gate from which gamma has its gradient, from
            1e-3 to 1e3.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "sparse"
    outputs_per_coordinate = 3

    def __init__(self, latent_dim: int, encoder: NetworkFactory, temperature: float = 0.5) -> None:
        super().__init__(latent_dim, encoder)
        check_positive(TEMPERATURES, temperature=temperature)
        self.temperature = temperature

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        logits, loc, raw_scale = self.encoder(x).unbind(-2)
        scale = positive_scale(raw_scale)
        return distributions.SpikeAndSlab(logits, loc, scale, self.temperature).to_event(1)


Corruption = Literal["none", "masking", "gaussian", "salt_and_pepper"]


class Point(Posterior):
    """q(z | x) = delta(z - f(x)): all mass at one code, which makes the pair a plain autoencoder.

    It has no density: neither an ELBO nor log p(x) is defined, and the objective is
    `reconstruction`, which neither uses nor trains the prior.

    With a corruption it is a denoising autoencoder: in training f reads c(x), redrawn at each
    visit, while the likelihood still sees x. In evaluation mode f reads x itself, as `embed`
    always does.

    Args:
        corruption: "masking" sets each element of x to 0 with probability `strength`; "gaussian"
            adds `strength` N(0, 1), times levels - 1 for integers; "salt_and_pepper" sets each
            element with probability `strength` to the lowest or the highest value, with equal
            probability.
        strength: The amount of corruption; 0 changes nothing.
        data_support: What x is: binary, unit, real, integers or counts. Binary and unit data have
            the extremes 0 and 1, integers 0 and levels - 1.
        levels: The number of levels of integers.

    Raises:
        ValueError: If `latent_dim` is below 1, `corruption` is unknown, `strength` is out of its
            range ([0, 1], or at least 0 for "gaussian"), or undefined for data of this support.

    References:
        Stacked Denoising Autoencoders (Vincent et al., 2010), section 3.3,
        https://www.jmlr.org/papers/v11/vincent10a.html
    """

    has_density: ClassVar[bool] = False

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        corruption: Corruption = "none",
        strength: float = 0.25,
        data_support: str = "unit",
        levels: int | None = None,
    ) -> None:
        check_choice(Corruption, corruption=corruption)
        if corruption == "gaussian" and not 0 <= strength < math.inf:
            raise ValueError(f"strength must be at least 0 and finite, got {strength}.")
        if corruption != "gaussian" and not 0 <= strength <= 1:
            raise ValueError(f"strength must be a share from 0 to 1, got {strength}.")
        if corruption == "salt_and_pepper" and data_support in ("real", "counts"):
            raise ValueError(
                "salt_and_pepper needs data with a lowest and a highest value, got "
                f"{data_support} data: use masking."
            )
        if corruption != "none" and data_support == "integers" and levels is None:
            raise ValueError("a corruption of integers needs their number of levels, got None.")
        super().__init__(latent_dim, encoder)
        self.corruption: Corruption = corruption
        self.strength = strength
        self.highest = levels - 1 if data_support == "integers" and levels is not None else 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(latent_dim,)."""
        return (self.latent_dim,)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        if self.training:
            x = self.corrupt(x)
        return dist.Delta(self.encoder(x)).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The code f(x) of the uncorrupted x, also in training."""
        return self.encoder(x)

    def corrupt(self, x: Real[Tensor, "*batch_event"]) -> Real[Tensor, "*batch_event"]:
        """c(x), with noise from the global random stream."""
        if self.corruption == "none" or self.strength == 0:
            return x
        units = user_units(self.encoder)
        if self.corruption == "gaussian":
            noise = torch.randn(x.shape, device=x.device)
            spread = self.highest if units is None else units.spread
            return x + self.strength * spread * noise
        u = torch.rand(x.shape, device=x.device)
        if self.corruption == "masking":
            middle = x.new_zeros(()) if units is None else units.center.to(x.dtype)
            return torch.where(u < self.strength, middle, x)
        pepper, salt = u < self.strength / 2, (u >= self.strength / 2) & (u < self.strength)
        return x.masked_fill(pepper, 0).masked_fill(salt, self.highest)
