"""Posteriors of positive variables, of variables in the unit interval, and on the simplex."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.posteriors.posterior import (
    LARGEST_LOG,
    Posterior,
    bounded,
    bounded_loc_and_scale,
    concentration,
)


class LogNormal(Posterior):
    """q(z | x) = prod_i LogNormal(z_i | m_i(x), s_i(x)); |m| < 20 and s < 5, by smooth bounds.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    support: ClassVar[str] = "positive"

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, scale = bounded_loc_and_scale(*self.encoder(x).unbind(-2))
        return dist.LogNormal(loc, scale).to_event(1)


class Gamma(Posterior):
    """q(z | x) = prod_i Gamma(z_i | a_i(x), a_i(x) / mean_i(x)); |log mean| < 20 and a > 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    support: ClassVar[str] = "positive"

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        raw, raw_log_mean = self.encoder(x).unbind(-2)
        shape = concentration(raw)
        mean = bounded(raw_log_mean, LARGEST_LOG).exp()
        return distributions.InteriorGamma(shape, shape / mean).to_event(1)


class Beta(Posterior):
    """q(z | x) = prod_i Beta(z_i | a_i(x), b_i(x)), both above 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 1.
    """

    support: ClassVar[str] = "unit"

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        a, b = map(concentration, self.encoder(x).unbind(-2))
        return distributions.InteriorBeta(a, b).to_event(1)


class LogisticNormal(Posterior):
    """q(z | x): z = softmax(eta), eta ~ N(m(x), diag(s(x)^2)); |m| < 20 and s < 5.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 2.
    """

    support: ClassVar[str] = "simplex"
    minimum_dim = 2

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return distributions.LogisticNormal(*bounded_loc_and_scale(*self.encoder(x).unbind(-2)))

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """softmax(m(x)); the mean has no closed form."""
        return bounded(self.encoder(x).select(-2, 0), LARGEST_LOG).softmax(-1)


class Dirichlet(Posterior):
    """q(z | x) = Dirichlet(z | alpha(x)), alpha above 0.05.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below 2.
    """

    support: ClassVar[str] = "simplex"
    minimum_dim = 2
    outputs_per_coordinate = 1

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return distributions.InteriorDirichlet(concentration(self.encoder(x).squeeze(-2)))
