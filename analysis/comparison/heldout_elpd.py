"""Held-out log p(x) of one model for each example, and as the `ELPDData` of ArviZ."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pyro_vae.statistics import (
    khat_threshold,
    rounding_error,
    share_above_threshold,
    standard_error,
    withheld,
)

# A model's log p(x) is too low as a whole if more than this share of examples has a k-hat above
# the threshold.
MOST_KHATS_ABOVE = 0.1


@dataclass(frozen=True)
class HeldOut:
    """log p(x) of one model for each of n held-out examples.

    Args:
        name: The model's name.
        log_evidence: log p(x) of each example, in nats, in the same order for all models.
        khat: The tail shape of each example's importance weights; None where there is none, as for
            annealing, or for fewer than 25 draws.
        num_samples: The number of draws, or of chains, per example.
        rounding: The approximate rounding error of each log p(x), as
            `ImportanceWeighting.rounding`; None to estimate it from its size in float32.
    """

    name: str
    log_evidence: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def rounding_errors(self) -> Float[np.ndarray, " n"]:
        """The approximate rounding error of each log p(x), in nats."""
        return rounding_error(self.log_evidence) if self.rounding is None else self.rounding

    @property
    def khat_share_above(self) -> float | None:
        """The share of examples with a k-hat above the threshold, whose log p(x) is too low.

        None where there is no k-hat, or rounding errors exceed the differences of the weights.
        """
        if withheld(self.rounding_errors, self.log_evidence):
            return None
        return share_above_threshold(self.khat, self.num_samples)

    @property
    def too_low(self) -> bool:
        """Whether that share is above 10 %: the mean is then too low by an unknown amount."""
        return (self.khat_share_above or 0.0) > MOST_KHATS_ABOVE

    def take(self, rows: Bool[np.ndarray, " n"]) -> "HeldOut":
        """Select examples."""
        khat = None if self.khat is None else self.khat[rows]
        rounding = None if self.rounding is None else self.rounding[rows]
        return HeldOut(self.name, self.log_evidence[rows], khat, self.num_samples, rounding)


def elpd_data(held_out: HeldOut) -> Any:
    """sum_i log p(x_i) as the `ELPDData` that `arviz_stats.compare` takes.

    It holds the sum, its standard error, and log p(x) and k-hat of each example. `warning` is set
    where more than 10 % of k-hats are above `good_k`, so that the sum is too low. The effective
    number of parameters, `p`, is NaN, as nothing is fitted to held-out data.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari
        et al., 2017), https://arxiv.org/abs/1507.04544
    """
    import xarray
    from arviz_stats.utils import ELPDData

    n = len(held_out.log_evidence)
    # From ArviZ 1 on the class itself states the kind.
    has_kind = "kind" in inspect.signature(ELPDData).parameters
    kind: dict[str, Any] = {"kind": "held_out"} if has_kind else {}
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
