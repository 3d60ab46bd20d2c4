"""The rate taken apart: what the code says of the datum, and how its distribution misses the prior."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pyro_vae.data.nouns import noun, nouns
from pyro_vae.evidence.numbers import finite
from pyro_vae.mutual_information import SATURATION
from pyro_vae.statistics import ACTIVE_VARIANCE, rounding_error, withheld

# Below so many nats all is called collapsed; it is what free bits or rounding leave.
COLLAPSED = 0.1


@dataclass(frozen=True)
class Spectrum:
    """The latent dimensions one by one, in nats: E[KL(q(z_d | x) || p(z_d))] = I_d + KL_d.

    Args:
        mutual_information: I_d = E[log q(z_d | x) - log q(z_d)], what z_d alone says of x.
        mutual_information_se: Its standard error.
        marginal_kl: KL_d = KL(q(z_d) || p(z_d)); None under a prior of coordinates that depend on
            one another, or whose own densities are not at hand.
        rate: E[KL(q(z_d | x) || p(z_d))], in closed form, over the data drawn for; None where
            `marginal_kl` is, or where it has no closed form.
    """

    mutual_information: Float[np.ndarray, " latent"]
    mutual_information_se: Float[np.ndarray, " latent"]
    marginal_kl: Float[np.ndarray, " latent"] | None
    rate: Float[np.ndarray, " latent"] | None


@dataclass(frozen=True)
class RateDecomposition:
    """rate = I(x; z) + TC(z) + DWKL(z) = I(x; z) + KL(q(z) || p(z)), in nats per datum.

    The three are means over the same draws z ~ q(z | x), and add up exactly. Standard errors are
    over draws, for these N data.

    Args:
        num_data: N, over all of which q(z) is the mixture of q(z | x).
        num_draws: How many z were drawn.
        mutual_information: I(x; z) = E[log q(z | x) - log q(z)], at most log N.
        mutual_information_se: Its standard error.
        total_correlation: TC = E[log q(z) - sum_d log q(z_d)]; None for a guide without marginals.
        total_correlation_se: Its standard error.
        dimension_wise_kl: DWKL = E[sum_d log q(z_d) - log p(z)]: sum_d KL(q(z_d) || p(z_d)) under a
            prior of independent coordinates, and under others no KL, which may be negative; None as
            before.
        dimension_wise_kl_se: Its standard error.
        marginal_kl: KL(q(z) || p(z)) = TC + DWKL.
        marginal_kl_se: Its standard error.
        rate: E[log q(z | x) - log p(z)], the ELBO's KL.
        rate_se: Its standard error.
        by_dimension: The latent dimensions one by one; None as before.
        activity: The variance over data of each dimension of the embedded code.
        interpolation_error: The largest error of a log q(z_d) where it was summed directly, for
            random draws, in nats; None where all were.
        undefined: Why there is no total correlation; None if there is one.
    """

    num_data: int
    num_draws: int
    mutual_information: float
    mutual_information_se: float
    total_correlation: float | None
    total_correlation_se: float | None
    dimension_wise_kl: float | None
    dimension_wise_kl_se: float | None
    marginal_kl: float
    marginal_kl_se: float
    rate: float
    rate_se: float
    by_dimension: Spectrum | None
    activity: Float[np.ndarray, " latent"]
    interpolation_error: float | None
    undefined: str | None

    @property
    def log_n(self) -> float:
        """log N, in nats: the most that a code can say of which of the N data it belongs to."""
        return math.log(self.num_data)

    @property
    def dimension_wise_is_kl(self) -> bool:
        """Whether DWKL is sum_d KL(q(z_d) || p(z_d)), so that it is not negative.

        It is not under a prior whose dimensions depend on one another, such as a mixture: there DWKL
        falls by the prior's own correlation, as far as the codes follow it.
        """
        return self.by_dimension is not None and self.by_dimension.marginal_kl is not None

    @property
    def saturated(self) -> bool:
        """Whether I(x; z) is above log N - 2: it may be larger, and TC smaller by as much."""
        return self.mutual_information > self.log_n - SATURATION

    @property
    def saturated_dimensions(self) -> Bool[np.ndarray, " latent"] | None:
        """Whether I_d is above log N - 2: q(z_d) is spikes, one a datum, and KL_d too large."""
        if self.by_dimension is None:
            return None
        return self.by_dimension.mutual_information > self.log_n - SATURATION

    @property
    def active(self) -> Bool[np.ndarray, " latent"]:
        """Whether each dimension's code varies over data by more than 0.01."""
        return self.activity > ACTIVE_VARIANCE

    def summary(self) -> dict[str, Any]:
        """The terms in nats per datum with their standard errors, and lists by dimension."""
        names = (
            "mutual_information",
            "total_correlation",
            "dimension_wise_kl",
            "marginal_kl",
            "rate",
        )
        terms = {key: finite(getattr(self, key)) for name in names for key in (name, f"{name}_se")}
        return {
            "n_train": self.num_data,
            "num_draws": self.num_draws,
            **terms,
            "log_n": self.log_n,
            "saturated": self.saturated,
            "dimension_wise_is_kl": self.dimension_wise_is_kl,
            "active_units": int(self.active.sum()),
            "by_dimension": self._listed(),
            "interpolation_error": finite(self.interpolation_error),
            "undefined": self.undefined,
            "reading": self.reading(),
        }

    def _listed(self) -> dict[str, list[Any] | None]:
        spectrum, saturated = self.by_dimension, self.saturated_dimensions
        columns: dict[str, np.ndarray | None] = {"activity": self.activity}
        if spectrum is not None:
            columns |= {
                "mutual_information": spectrum.mutual_information,
                "mutual_information_se": spectrum.mutual_information_se,
                "marginal_kl": spectrum.marginal_kl,
                "rate": spectrum.rate,
            }
        listed = {
            name: None if values is None else [finite(value) for value in values]
            for name, values in columns.items()
        }
        return listed | {"saturated": None if saturated is None else saturated.tolist()}

    def reading(self) -> str:
        """How to read the terms, and what to do about the largest fault."""
        if not math.isfinite(self.rate):
            return "Not to be read: the guide or the prior has densities that are not finite."
        size = np.array([self.rate])
        if reason := withheld(rounding_error(size), size):
            return reason
        if self.rate < COLLAPSED:
            return (
                f"The code says nothing: the rate is {self.rate:.3f} nats over {self.num_data:,} training "
                "data, so the posterior is collapsed onto the prior; the warning in train.log names "
                "what helps."
            )
        parts = f"The marginal KL is not taken further apart: {self.undefined}"
        if self.total_correlation is not None and self.dimension_wise_kl is not None:
            rest = (
                f"{self.dimension_wise_kl:.2f} the dimensions' own shapes."
                if self.dimension_wise_is_kl
                else f"{self.dimension_wise_kl:.2f} the rest, which is no KL and may be negative, as "
                "the prior's dimensions depend on one another: read the sum."
            )
            parts = (
                f"Of these, {self.total_correlation:.2f} are dependence between dimensions (total "
                f"correlation) and {rest}"
            )
        if self.saturated:
            rest = "marginal KL" if self.total_correlation is None else "total correlation"
            return (
                f"Saturated: of the rate of {self.rate:.2f} nats over the training {nouns()}, "
                f"{self.mutual_information:.2f} or more say which {noun()} it is, as {self.num_data:,} of them "
                f"cannot show more than log N = {self.log_n:.2f}. Any excess is in the other {self.marginal_kl:.2f} nats, the "
                f"marginal KL, whose {rest} is therefore an upper bound. {parts}"
            )
        advice = ""
        error = math.hypot(self.marginal_kl_se, self.mutual_information_se)
        if self.marginal_kl - self.mutual_information > 2 * error:
            advice = " More is lost than said: a richer prior would help."
        return (
            f"Of the rate of {self.rate:.2f} nats over {self.num_data:,} training {nouns()}, "
            f"{self.mutual_information:.2f} say which {noun()} it is; the other {self.marginal_kl:.2f} are lost because the codes of all data are not "
            f"distributed as the prior, and are best near 0.{advice} {parts}"
        )
