"""Likelihoods of continuous data, on the unit interval and on the real line."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import CONCENTRATIONS, check_at_least, check_choice, check_positive
from pyro_vae.data import Units
from pyro_vae.likelihoods.likelihood import Likelihood, LocationScale, ScaleKind
from pyro_vae.networks import NetworkFactory

Precision = Literal["learned", "element", "decoded"]
Factor = Literal["learned", "decoded"]
# A floor under both concentrations of a Beta, whose log Gamma is infinite at 0.
_MINIMUM_CONCENTRATION = 1e-2
# Degrees of freedom are between 2, below which there is no variance, and 100, nearly a normal.
_DEGREES = (2.0, 100.0)


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_i C(l_i) l_i^x_i (1 - l_i)^(1 - x_i), l = sigmoid(f(z)), for x in [0, 1].

    The Bernoulli's formula with the constant C that makes it a density on [0, 1].

    References:
        The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019),
        https://arxiv.org/abs/1907.06845
    """

    support: ClassVar[str] = "unit"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return distributions.ContinuousBernoulli(logits).to_event(self.event_dim)


class Beta(Likelihood):
    """p(x | z) = prod_i Beta(x_i | m_i n_i, (1 - m_i) n_i), m = sigmoid(f(z)), for x in [0, 1].

    m is the mean, and m (1 - m) / (1 + n) the variance, except for a floor of 0.01 under the two
    concentrations. A Beta has density 0 or infinity at 0 and 1: values within 1e-6 of an end get
    the density there. If many values are exactly 0 or 1, this rewards a mean at the end without
    limit: dequantise such data.

    Args:
        precision: What n is: one number "learned" for all elements; one learned number per
            "element"; or "decoded", a second output of the decoder.
        initial_precision: n at initialisation.

    Raises:
        ValueError: If `precision` is unknown, or `initial_precision` not above 0 and finite.

    References:
        Beta Regression for Modelling Rates and Proportions (Ferrari & Cribari-Neto, 2004),
        https://doi.org/10.1080/0266476042000214501
    """

    support: ClassVar[str] = "unit"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        precision: Precision = "learned",
        initial_precision: float = 5.0,
    ) -> None:
        check_choice(Precision, precision=precision)
        check_positive(CONCENTRATIONS, initial_precision=initial_precision)
        # Before the decoder is built, which needs the number.
        self.outputs_per_element = 1 + (precision == "decoded")
        super().__init__(event_shape, decoder)
        shape = self.event_shape if precision == "element" else ()
        # softplus^-1.
        raw = initial_precision + math.log(-math.expm1(-initial_precision))
        self.raw_precision = nn.Parameter(torch.full(shape, raw))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        logits, *rest = self.outputs(z)
        precision = F.softplus(self.raw_precision + rest[0] if rest else self.raw_precision)
        return distributions.Beta(
            precision * torch.sigmoid(logits) + _MINIMUM_CONCENTRATION,
            precision * torch.sigmoid(-logits) + _MINIMUM_CONCENTRATION,
        ).to_event(self.event_dim)


class LogitNormal(LocationScale):
    """p(x | z): logit x_i ~ N(f_i(z), sigma_i^2), for x in [0, 1].

    Values within 1e-6 of 0 and 1, where the logit is infinite, get the density at that distance.

    Args:
        scale: What sigma is: "fixed" at `initial_scale`; one number "learned" for all elements;
            one learned number per "element"; or "decoded", a second output of the decoder.
        initial_scale: sigma at initialisation, in units of logits.
        minimum_scale: A floor under a sigma that is not fixed.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.

    References:
        Logistic-normal distributions: some properties and uses (Atchison & Shen, 1980),
        https://doi.org/10.1093/biomet/67.2.261
    """

    support: ClassVar[str] = "unit"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: ScaleKind = "learned",
        initial_scale: float = 1.0,
        minimum_scale: float = 1e-2,
    ) -> None:
        super().__init__(event_shape, decoder, scale, initial_scale, minimum_scale)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, _ = self.loc_and_scale(z)
        return distributions.LogitNormal(loc, scale).to_event(self.event_dim)


class Normal(LocationScale):
    """p(x | z) = prod_i N(x_i | f_i(z), sigma_i^2), for real x.

    Args:
        scale: What sigma is: "fixed" at `initial_scale`; one number "learned" for all elements;
            one learned number per "element"; "decoded", a second output of the decoder; or "auto",
            which is "element" for data of one axis and "learned" for images and series.
        initial_scale: sigma at initialisation, in units of the data's spread (see `Units`).
        minimum_scale: A floor under a sigma that is not fixed. Without one the density of an
            element that never varies (the corner of an image) grows without bound. The data's
            resolution is added.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.2 ("decoded"),
        https://arxiv.org/abs/1312.6114; Simple and Effective VAE Training with Calibrated Decoders
        (Rybkin et al., 2021), https://arxiv.org/abs/2006.13202 ("learned")
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: ScaleKind = "auto",
        initial_scale: float = 0.3,
        minimum_scale: float = 1e-2,
        units: Units | None = None,
    ) -> None:
        super().__init__(event_shape, decoder, scale, initial_scale, minimum_scale, units)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, _ = self.loc_and_scale(z)
        return dist.Normal(loc, scale).to_event(self.event_dim)


class Laplace(LocationScale):
    """p(x | z) = prod_i Laplace(x_i | f_i(z), b_i), for real x: absolute errors, not squared.

    Args:
        scale: What b is: "fixed" at `initial_scale`; one number "learned" for all elements; one
            learned number per "element"; "decoded", a second output of the decoder; or "auto",
            which is "element" for data of one axis and "learned" for images and series.
        initial_scale: b at initialisation, in units of the data's spread (see `Units`).
        minimum_scale: A floor under a b that is not fixed.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.
    """

    support: ClassVar[str] = "real"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, _ = self.loc_and_scale(z)
        return dist.Laplace(loc, scale).to_event(self.event_dim)


class StudentT(LocationScale):
    """p(x | z) = prod_i StudentT(x_i | f_i(z), s_i, nu), for real x: outliers pull little.

    The degrees of freedom nu are one learned number, between 2 and 100.

    Args:
        scale: What s is: "fixed" at `initial_scale`; one number "learned" for all elements; one
            learned number per "element"; "decoded", a second output of the decoder; or "auto",
            which is "element" for data of one axis and "learned" for images and series.
        initial_scale: s at initialisation, in units of the data's spread (see `Units`).
        minimum_scale: A floor under an s that is not fixed.
        initial_df: nu at initialisation.

    Raises:
        ValueError: If `scale` is unknown, `initial_scale` is not above `minimum_scale` > 0, or
            `initial_df` is out of range.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation (Takahashi et al., 2018),
        https://doi.org/10.24963/ijcai.2018/374
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: ScaleKind = "auto",
        initial_scale: float = 0.2,
        minimum_scale: float = 1e-2,
        initial_df: float = 5.0,
        units: Units | None = None,
    ) -> None:
        super().__init__(event_shape, decoder, scale, initial_scale, minimum_scale, units)
        low, high = _DEGREES
        if not low < initial_df < high:
            raise ValueError(f"initial_df must be between {low:g} and {high:g}, got {initial_df}.")
        share = (initial_df - low) / (high - low)
        self.raw_df = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, _ = self.loc_and_scale(z)
        low, high = _DEGREES
        df = low + (high - low) * torch.sigmoid(self.raw_df)
        # Large offsets are added in float64, and the variance needs one type.
        return dist.StudentT(df.to(loc.dtype), loc, scale).to_event(self.event_dim)


class LowRankNormal(LocationScale):
    """p(x | z) = N(x | f(z), W W^T + diag(sigma^2)), for real x with correlated elements.

    Errors of neighbouring pixels are correlated, so a draw looks like an image with smooth errors
    instead of white noise.

    Args:
        rank: The number of columns of W.
        factor: What W is: "learned", one matrix for all z, or "decoded", `rank` further outputs of
            the decoder per element, each bounded by 10 in units of the spread.
        scale: What sigma is: "fixed" at `initial_scale`; one number "learned" for all elements;
            one learned number per "element"; "decoded", a second output of the decoder; or "auto",
            which is "element" for data of one axis and "learned" for images and series.
        initial_scale: sigma at initialisation, in units of the data's spread (see `Units`).
        minimum_scale: A floor under a sigma that is not fixed.

    Raises:
        ValueError: If `rank` is below 1, `factor` or `scale` is unknown, or `initial_scale` is not
            above `minimum_scale` > 0.

    References:
        Structured Uncertainty Prediction Networks (Dorta et al., 2018),
        https://arxiv.org/abs/1802.07079, which has a sparse precision; Stochastic Segmentation
        Networks (Monteiro et al., 2020), https://arxiv.org/abs/2006.06015, which has the low rank
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        rank: int = 5,
        factor: Factor = "learned",
        scale: ScaleKind = "auto",
        initial_scale: float = 0.3,
        minimum_scale: float = 1e-2,
        units: Units | None = None,
    ) -> None:
        check_at_least(1, rank=rank)
        check_choice(Factor, factor=factor)
        # Before the decoder is built, which needs the number.
        self.further_outputs = rank if factor == "decoded" else 0
        super().__init__(event_shape, decoder, scale, initial_scale, minimum_scale, units)
        if factor == "learned":
            # Small but not 0, where all directions would have the same gradient.
            elements = math.prod(self.event_shape)
            start = initial_scale / math.sqrt(rank) * torch.randn(elements, rank)
            self.factor = nn.Parameter(0.1 * start)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, further = self.loc_and_scale(z)
        assert self.units is not None
        spread = self.units.spread.expand(self.event_shape)
        if further:
            factor = spread[..., None] * 10 * torch.tanh(torch.stack(further, -1) / 10)
            factor = factor.flatten(-1 - self.event_dim, -2)
        else:
            factor = spread.flatten()[:, None] * self.factor
            if self.decoded:
                factor = factor.expand(*loc.shape[: loc.dim() - self.event_dim], *factor.shape)
            else:
                # Neither depends on z: one factorisation for the whole batch.
                scale = F.softplus(self.raw_scale) + self.minimum_scale
                scale = self.scale_in_user_units(scale).expand(self.event_shape)
        return distributions.LowRankNormal(loc, factor, scale, self.event_dim)
