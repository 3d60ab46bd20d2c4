"""Several models by what their codes cost and how well they decode: rate, distortion and iso-ELBO lines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import rounding_error, standard_error

# A code that carries less than this, in nats per datum, is none: the decoder does the work alone.
COLLAPSED_RATE = 0.1


@dataclass(frozen=True)
class RateDistortion:
    """Rate E KL(q(z | x) || p(z)) and distortion -E log p(x | z) of one model, in nats per datum.

    ELBO = -(rate + distortion), with beta = 1 whatever trained the model. The distortion of a density
    may be negative.

    Args:
        name: The model's.
        rate: What the code costs: at least the mutual information of code and datum.
        distortion: What decoding misses.
        rate_se: The standard error of `rate` from the choice of data; None for one datum.
        distortion_se: Of `distortion`.
        elbo_se: Of the ELBO: smaller than the two together if data with a high rate have a low
            distortion, and larger if hard data have both high.

    References:
        Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
    """

    name: str
    rate: float
    distortion: float
    rate_se: float | None = None
    distortion_se: float | None = None
    elbo_se: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        reconstruction: Float[np.ndarray, " n"],
        kl: Float[np.ndarray, " n"],
    ) -> "RateDistortion":
        """The means of the ELBO's two terms, as `ImportanceWeighting` has them.

        Args:
            name: The model's.
            reconstruction: E_q log p(x | z) of each datum, in nats.
            kl: KL(q(z | x) || p(z)) of each datum, in nats.

        Raises:
            ValueError: If there are no data, or numbers of them differ, or one is not finite.
        """
        if not len(kl) or len(kl) != len(reconstruction):
            raise ValueError(
                f"reconstruction and kl must be of the same data, at least one, got "
                f"{len(reconstruction)} and {len(kl)}."
            )
        bad = ~np.isfinite(reconstruction + kl)
        if bad.any():
            raise ValueError(
                f"the ELBO's terms must be finite, and are not for {bad.sum():,} of {len(kl):,} data "
                f"of {name}."
            )
        return cls(
            name,
            rate=float(kl.mean()),
            distortion=-float(reconstruction.mean()),
            rate_se=standard_error(kl),
            distortion_se=standard_error(reconstruction),
            elbo_se=standard_error(reconstruction - kl),
        )

    @property
    def elbo(self) -> float:
        """-(rate + distortion), in nats per datum."""
        return -(self.rate + self.distortion)

    @property
    def collapsed(self) -> bool:
        """Whether the code carries next to nothing: the auto-decoding limit."""
        return self.rate < COLLAPSED_RATE


def rate_distortion_summary(points: Sequence[RateDistortion]) -> dict[str, Any]:
    """Rates, distortions and ELBOs, in nats per datum, with how to read them."""
    return {
        "models": [
            {
                "name": point.name,
                "rate": finite(point.rate),
                "rate_se": finite(point.rate_se),
                "distortion": finite(point.distortion),
                "distortion_se": finite(point.distortion_se),
                "elbo": finite(point.elbo),
                "elbo_se": finite(point.elbo_se),
                "collapsed": point.collapsed,
            }
            for point in points
        ],
        "reading": rate_distortion_reading(points),
    }


def rate_distortion_reading(points: Sequence[RateDistortion]) -> str:
    """Which model has the highest ELBO, which the best codes, and which none.

    Raises:
        ValueError: If there are no models, or names repeat.
    """
    check_names(points)
    best = max(points, key=lambda point: point.elbo)
    said = f"{best.name} has the ELBO {best.elbo:.2f} nats per {noun()}, by a code of {best.rate:.1f} nats"
    if len(points) > 1:
        said = f"{best.name} is on the best iso-ELBO line, {best.elbo:.2f} nats per {noun()}, by a code of {best.rate:.1f} nats"
        sharpest = min(points, key=lambda point: point.distortion)
        second = sorted(point.elbo for point in points)[-2]
        rounding = 2 * float(rounding_error(np.array(best.rate), np.array(best.distortion)))
        if best.elbo - second <= rounding:
            said = (
                f"The ELBOs of the best two are no further apart than rounding errors of about {rounding:.1g} "
                f"nats reach, {best.elbo:.2f} nats per {noun()} for {best.name}"
            )
        said += (
            ", and has the lowest distortion, too"
            if sharpest is best
            else f"; {sharpest.name} has the lowest distortion, {sharpest.distortion:.1f}, and pays "
            f"for it by a code of {sharpest.rate:.1f} nats"
        )
    parts = [f"{said}."]
    collapsed = [point.name for point in points if point.collapsed]
    if collapsed:
        parts.append(
            f"{', '.join(collapsed)}: collapsed, with a rate below {COLLAPSED_RATE} nats, so that the "
            f"code says nothing of the {noun()}."
        )
    parts.append(
        "Along a line of equal ELBO, models differ in use only: to the right codes tell more of the "
        f"{noun()}, to the left the decoder models more by itself."
    )
    return " ".join(parts)


def check_names(points: Sequence[RateDistortion]) -> None:
    """Refuse no models, and two of one name.

    Raises:
        ValueError: If there are no models, or names repeat.
    """
    if not points:
        raise ValueError("rate and distortion need at least one model, got none.")
    repeated = [name for name, count in Counter(p.name for p in points).items() if count > 1]
    if repeated:
        raise ValueError(f"names of models must differ, got {repeated[0]!r} more than once.")
