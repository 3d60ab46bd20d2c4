"""log p(x) of one model for each of some held-out data, and as ArviZ takes it."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pyro_vae.statistics import (
    khat_threshold,
    rounding_error,
    share_above_threshold,
    standard_error,
    withheld,
)

# The share of data with a k-hat above the threshold from which a model's log p(x) is too low as a whole.
MOST_KHATS_ABOVE = 0.1


@dataclass(frozen=True)
class HeldOut:
    """log p(x) of one model for each of n held-out data.

    Args:
        name: The model's.
        log_evidence: log p(x) of each datum, in nats, in the same order for all models.
        khat: The tail shape of each datum's importance weights; None where there is none, as of
            annealing, or of fewer than 25 draws.
        num_samples: The number of draws, or of chains, for each datum.
        rounding: About the rounding error of each log p(x), as `ImportanceWeighting.rounding`; None to
            take it from its size in float32.
    """

    name: str
    log_evidence: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def rounding_errors(self) -> Float[np.ndarray, " n"]:
        """About the rounding error of each log p(x), in nats."""
        return rounding_error(self.log_evidence) if self.rounding is None else self.rounding

    @property
    def khat_share_above(self) -> float | None:
        """The share of data with a k-hat above the threshold, whose log p(x) is too low; or None.

        None, too, where rounding errors swallow the weights.
        """
        if withheld(self.rounding_errors, self.log_evidence):
            return None
        return share_above_threshold(self.khat, self.num_samples)

    @property
    def too_low(self) -> bool:
        """Whether that share is above 10 %: the mean is then too low by an unknown amount."""
        return (self.khat_share_above or 0.0) > MOST_KHATS_ABOVE

    def rows(self, kept: np.ndarray) -> "HeldOut":
        """The same on some of the data."""
        khat = None if self.khat is None else self.khat[kept]
        rounding = None if self.rounding is None else self.rounding[kept]
        return HeldOut(self.name, self.log_evidence[kept], khat, self.num_samples, rounding)


def elpd_data(held_out: HeldOut) -> Any:
    """sum_i log p(x_i) as the `ELPDData` that `arviz_stats.compare` takes.

    The sum, its standard error, each datum's log p(x) and k-hat are there. `warning` is set where more
    than 10 % of k-hats are above `good_k`, and the sum is then too low. The effective number of
    parameters, `p`, is NaN: nothing is fitted to held-out data.

    Args:
        held_out: log p(x) of a model on data that did not train it.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et
        al., 2017), https://arxiv.org/abs/1507.04544
    """
    import xarray
    from arviz_stats.utils import ELPDData

    n = len(held_out.log_evidence)
    # Since ArviZ 1, the class itself says the kind, and the bare one has none.
    older = "kind" in inspect.signature(ELPDData).parameters
    kind: dict[str, Any] = {"kind": "held_out"} if older else {}
    khat = held_out.khat
    # It may be None, whatever its annotation says.
    shape: Any = None if khat is None else xarray.DataArray(khat, dims="datum", name="pareto_k")
    return ELPDData(
        **kind,
        elpd=float(held_out.log_evidence.sum()),
        se=n * (standard_error(held_out.log_evidence) or math.nan),
        p=math.nan,
        n_samples=held_out.num_samples,
        n_data_points=n,
        scale="log",
        warning=held_out.too_low,
        good_k=math.nan if khat is None else khat_threshold(held_out.num_samples),
        elpd_i=xarray.DataArray(held_out.log_evidence, dims="datum", name="elpd_i"),
        pareto_k=shape,
    )
