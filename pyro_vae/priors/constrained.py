"""Priors of positive, unit, simplex, spherical and one-hot variables."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import CONCENTRATIONS, LARGEST_LOG, LOG_SCALES, RATES, check_positive
from pyro_vae.distributions import OneHots
from pyro_vae.networks import unit_vector
from pyro_vae.priors.prior import Prior


class LogNormal(Prior):
    """p(z) = prod_i LogNormal(z_i | m, s): log z_i ~ N(m, s^2).

    Args:
        loc: The mean m of log z_i; |m| + 6 s is at most 84.
        scale: The standard deviation s of log z_i, from 0.01 to 14.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"

    def __init__(self, latent_dim: int, loc: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(latent_dim)
        check_positive(LOG_SCALES, scale=scale)
        if not math.isfinite(loc):
            raise ValueError(f"loc must be finite, got {loc}.")
        if abs(loc) + 6 * scale > LARGEST_LOG:
            raise ValueError(
                f"|loc| + 6 scale must be at most {LARGEST_LOG:g}, got loc {loc} and scale "
                f"{scale}: float32 cannot represent the exponential of more."
            )
        self.loc = loc
        self.scale = scale

    def forward(self) -> dist.Distribution:
        return dist.LogNormal(self.full(self.loc), self.full(self.scale)).to_event(1)


class Gamma(Prior):
    """p(z) = prod_i Gamma(z_i | a, b).

    Args:
        concentration: The concentration a, from 1e-6 to 1e6; 1 is exponential, below 1 is sparse.
        rate: The rate b, from 1e-20 to 1e20; the mean is a / b.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "positive"

    def __init__(self, latent_dim: int, concentration: float = 1.0, rate: float = 1.0) -> None:
        super().__init__(latent_dim)
        check_positive(CONCENTRATIONS, concentration=concentration)
        check_positive(RATES, rate=rate)
        self.concentration = concentration
        self.rate = rate

    def forward(self) -> dist.Distribution:
        concentration, rate = self.full(self.concentration), self.full(self.rate)
        return distributions.InteriorGamma(concentration, rate).to_event(1)


class Beta(Prior):
    """p(z) = prod_i Beta(z_i | a, b).

    Args:
        concentration1: The concentration a at 1, from 1e-6 to 1e6; with a = b = 1, z is uniform.
        concentration0: The concentration b at 0, likewise.

    Raises:
        ValueError: If `latent_dim` is below 1, or an option is out of its range.
    """

    support: ClassVar[str] = "unit"

    def __init__(
        self, latent_dim: int, concentration1: float = 1.0, concentration0: float = 1.0
    ) -> None:
        super().__init__(latent_dim)
        check_positive(
            CONCENTRATIONS, concentration1=concentration1, concentration0=concentration0
        )
        self.concentration1 = concentration1
        self.concentration0 = concentration0

    def forward(self) -> dist.Distribution:
        a, b = self.full(self.concentration1), self.full(self.concentration0)
        return distributions.InteriorBeta(a, b).to_event(1)


class _Simplex(Prior):
    """A symmetric prior on the simplex with `latent_dim` corners. Abstract."""

    support: ClassVar[str] = "simplex"
    minimum_dim = 2

    def __init__(self, latent_dim: int, concentration: float = 1.0) -> None:
        super().__init__(latent_dim)
        check_positive(CONCENTRATIONS, concentration=concentration)
        self.concentration = concentration


class Dirichlet(_Simplex):
    """p(z) = Dirichlet(z | alpha, ..., alpha).

    Args:
        concentration: alpha, from 1e-6 to 1e6; 1 is uniform, below 1 is near the corners.

    Raises:
        ValueError: If `latent_dim` is below 2, or an option is out of its range.
    """

    def forward(self) -> dist.Distribution:
        return distributions.InteriorDirichlet(self.full(self.concentration))


class LogisticNormal(_Simplex):
    """p(z): z = softmax(eta), eta ~ N(0, I / alpha); approximates Dirichlet(alpha, ..., alpha).

    Softmax removes what all of eta have in common, so this is the exact Laplace approximation of
    the Dirichlet. Topic models often use only its diagonal (Srivastava & Sutton, 2017,
    https://arxiv.org/abs/1703.01488).

    Args:
        concentration: alpha, from 1e-6 to 1e6; eta has standard deviation alpha^(-1/2).

    Raises:
        ValueError: If `latent_dim` is below 2, or an option is out of its range.
    """

    def forward(self) -> dist.Distribution:
        return distributions.LogisticNormal(self.zeros, self.full(self.concentration**-0.5))


# A floor under every concentration: softplus underflows to 0 in float32 below about -104.
MINIMUM_CONCENTRATION = 1e-3


class SphericalUniform(Prior):
    """p(z) = Gamma(d/2) / (2 pi^(d/2)) on the unit sphere in R^d.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891
    """

    support: ClassVar[str] = "sphere"
    minimum_dim = 2

    def forward(self) -> dist.Distribution:
        return distributions.SphericalUniform(self.zeros)


class _Directional(Prior):
    """A prior with a learned mean direction and concentration. Abstract."""

    support: ClassVar[str] = "sphere"
    minimum_dim = 2

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.direction = nn.Parameter(torch.randn(latent_dim))
        # A concentration of 1: near the uniform distribution.
        self.raw_concentration = nn.Parameter(torch.tensor(math.log(math.e - 1)))

    def _direction_and_concentration(self) -> tuple[Tensor, Tensor]:
        concentration = F.softplus(self.raw_concentration) + MINIMUM_CONCENTRATION
        return unit_vector(self.direction), concentration


class PowerSpherical(_Directional):
    """p(z) = N_d(kappa) (1 + mu.z)^kappa on the unit sphere, mu and kappa learned.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """

    def forward(self) -> dist.Distribution:
        return distributions.PowerSpherical(*self._direction_and_concentration())


class VonMisesFisher(_Directional):
    """p(z) = C_d(kappa) exp(kappa mu.z) on the unit sphere, mu and kappa learned.

    Raises:
        ValueError: If `latent_dim` is below 2.

    References:
        Directional Statistics (Mardia & Jupp, 2000), section 9.3
    """

    def forward(self) -> dist.Distribution:
        return distributions.VonMisesFisher(*self._direction_and_concentration())


class OneHot(Prior):
    """p(z) = prod_v Categorical(z_v | pi_v), one-hot and flattened; pi_v uniform, or learned.

    Args:
        latent_dim: The length of z: variables times values.
        values: The number of values of a variable, which divides `latent_dim`; None for one
            variable of `latent_dim` values.
        learned: Whether pi is learned.

    Raises:
        ValueError: If `values` does not divide `latent_dim`, or an option is out of its range.
    """

    support: ClassVar[str] = "one_hot"
    logits: Tensor

    def __init__(self, latent_dim: int, values: int | None = None, learned: bool = False) -> None:
        super().__init__(latent_dim)
        self.values = latent_dim if values is None else values
        if self.values < 2 or latent_dim % self.values:
            raise ValueError(
                f"values must be at least 2 and divide latent_dim = {latent_dim}, got "
                f"{self.values}."
            )
        logits = torch.zeros(latent_dim // self.values, self.values)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self) -> dist.Distribution:
        return OneHots(self.logits)
