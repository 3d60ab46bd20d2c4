"""Whether a VAE's forecasts of binary elements come true, how sure they are, and where in the picture they fail.

The forecasts are `analysis.leave_one_out`'s. An image's elements are dependent, so that bands and tests
resample whole images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from analysis.calibration_figures import (
    plot_calibration_map,
    plot_element_pit,
    plot_isotonic,
    plot_reliability,
)
from analysis.element_pit import ElementMap, ElementPit, element_map, element_pit
from analysis.leave_one_out import same_image_probability
from analysis.sign_flips import NUM_FLIPS, bootstrap_interval, sign_flips
from pyro_vae.evidence.numbers import finite, standard_error

__all__ = [
    "Calibration",
    "ElementMap",
    "ElementPit",
    "calibration",
    "element_map",
    "element_pit",
    "plot_calibration_map",
    "plot_element_pit",
    "plot_isotonic",
    "plot_reliability",
    "same_image_probability",
]

# Narrow where most elements are: a background's are nearly certain.
EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)

# A bin, or an element of the map, with a smaller expected variance sum p (1 - p) has too few events.
LEAST_BIN_VARIANCE = 20.0
LEAST_ELEMENT_VARIANCE = 5.0

# p-values below this are a failure, and errors in doubtful elements above that one are worth a repair.
LEVEL = 0.05
LARGEST_ERROR = 0.02

# Keeps the logit of a forecast that is all but certain within +-4.6, so that no one event decides.
_FLOOR = 0.01


@dataclass(frozen=True)
class Calibration:
    """Forecasts p_i of binary elements against what came.

    Args:
        forecast: The mean forecast of each bin.
        observed: The share of ones in it.
        low: The lower end of the 95 % band of `observed`, by bootstrap over images.
        high: Its upper end.
        count: The elements in each bin.
        bin_t: The sum of x_i - p_i in each bin over its standard error.
        p_value: By sign flips of whole images, of the largest |t| of all bins, of bias and of sharpness.
        bias: The mean of x_i - p_i: above 0, the ones are more than was forecast.
        bias_se: Its standard error.
        sharpness_t: The sum of (x_i - p_i) logit p_i over its standard error. Above 0 outcomes are more
            extreme than the forecasts, which are too unsure; below 0 they are too sure.
        error: The mean over elements of |forecast - observed| of their bin.
        error_by_chance: What it is on average for forecasts without fault, by sign flips.
        doubtful_error: The same, each element weighted by p_i (1 - p_i): where something is to be forecast.
        doubtful_error_by_chance: And what that is by chance.
        brier: The mean of (x_i - p_i)^2.
        brier_se: Its standard error over images.
        reliability: The part of it that calibration would save, in bins.
        resolution: The part of `uncertainty` that the forecasts save, in bins.
        uncertainty: The Brier score of forecasting the overall share for each element.
        elements: Where it fails: x_i - p_i for each element, its mean over images.
        n: The number of images.
    """

    forecast: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    bin_t: Float[np.ndarray, " bins"]
    p_value: float | None
    bias: float
    bias_se: float | None
    sharpness_t: float
    error: float
    error_by_chance: float
    doubtful_error: float
    doubtful_error_by_chance: float
    brier: float
    brier_se: float | None
    reliability: float
    resolution: float
    uncertainty: float
    elements: ElementMap
    n: int

    def summary(self) -> dict[str, Any]:
        """Shares, counts and p-values; lists go by bin."""
        numbers = {
            name: finite(getattr(self, name))
            for name in (
                "p_value",
                "bias",
                "bias_se",
                "sharpness_t",
                "error",
                "error_by_chance",
                "doubtful_error",
                "doubtful_error_by_chance",
                "brier",
                "brier_se",
                "reliability",
                "resolution",
                "uncertainty",
            )
        }
        bins = {
            name: [finite(value) for value in getattr(self, name)]
            for name in ("forecast", "observed", "low", "high")
        }
        return {
            "n": self.n,
            **numbers,
            "bins": {**bins, "count": self.count.tolist()},
            "elements": self.elements.summary(),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the forecasts come true, what is wrong with them, and where."""
        if self.p_value is None:
            return "Nothing to judge: every element is certain."
        what = (
            f"In doubtful elements forecast and observed shares differ by {self.doubtful_error:.3f} "
            f"({self.doubtful_error_by_chance:.3f} by chance; at most {LARGEST_ERROR} is fine)"
        )
        if self.p_value >= LEVEL:
            return (
                f"Calibrated as far as {self.n} images show, p = {self.p_value:.2g}. {what}. "
                f"{self.elements.reading()}"
            )
        direction = "too sure" if self.sharpness_t < 0 else "too unsure"
        if abs(self.sharpness_t) < 3:
            direction = "neither too sure nor too unsure over all"
        small = "" if self.doubtful_error > LARGEST_ERROR else " Significant, and small."
        return (
            f"Not calibrated, p = {self.p_value:.2g}: the forecasts are {direction}. {what}.{small} "
            f"{self.elements.reading()}"
        )


def calibration(
    probability: Float[np.ndarray, " n *event"],
    outcome: Real[np.ndarray, " n *event"],
    *,
    seed: int = 0,
    num_flips: int = NUM_FLIPS,
) -> Calibration:
    """E[g(p_i) (x_i - p_i)] = 0 for every g, if p_i = p(x_i = 1 | x_-i) is true: bins, bias, sharpness, map.

    With g the indicator of a bin this is the reliability diagram; with g = 1 the bias; with g the logit
    the sharpness. Contributions are summed by image, and the largest |t| of all is held against random
    signs of whole images, so that dependence within an image does no harm.

    Args:
        probability: The forecasts, such as `leave_one_element_out(...).probability`.
        outcome: What came, 0 or 1.
        seed: The seed of bootstrap and signs.
        num_flips: The number of choices of signs.

    Returns:
        A p-value below 0.05 says that the forecasts are wrong, or that the guide they were made with is;
        `doubtful_error` above 0.02, that they are so by more than a little.

    Raises:
        ValueError: If the shapes differ, there are fewer than two images, or these are no probabilities
            and binary outcomes.

    References:
        Increasing the Reliability of Reliability Diagrams (Broecker & Smith, 2007),
        https://doi.org/10.1175/WAF993.1; A New Vector Partition of the Probability Score (Murphy, 1973)
    """
    if probability.shape != outcome.shape:
        raise ValueError(
            f"outcome must have the shape {probability.shape} of probability, got {outcome.shape}."
        )
    n = len(probability)
    if n < 2:
        raise ValueError(f"calibration needs at least two images, got {n}.")
    p = probability.reshape(n, -1).astype(np.float64)
    x = outcome.reshape(n, -1).astype(np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probability must lie between 0 and 1.")
    if not ((x == 0) | (x == 1)).all():
        raise ValueError("outcome must be 0 or 1.")
    residual, variance = x - p, p * (1 - p)

    index = _bins(p, variance)
    bins = int(index.max()) + 1

    def by_image(values: np.ndarray) -> Float[np.ndarray, "n bins"]:
        place = index + bins * np.arange(n)[:, None]
        return np.bincount(place.ravel(), values.ravel(), n * bins).reshape(n, bins)

    count, off, doubt = by_image(np.ones_like(p)), by_image(residual), by_image(variance)
    size = count.sum(0)
    forecast = by_image(p).sum(0) / size
    gap = off.sum(0) / size
    sharpness = (residual * np.log((p + _FLOOR) / (1 - p + _FLOOR))).sum(1)
    scores = np.column_stack([off, residual.sum(1), sharpness])
    flips = sign_flips(scores, seed=seed, num_flips=num_flips)
    band = forecast + bootstrap_interval(off, count, seed=seed)
    # E|sum of centred contributions|, as for a normal sum.
    chance = np.sqrt(2 / np.pi * n * off.var(0))
    per_image = residual.mean(1)
    brier = np.square(residual).mean(1)
    share = float(x.mean())
    return Calibration(
        forecast=forecast,
        observed=forecast + gap,
        low=np.clip(band[0], 0, 1),
        high=np.clip(band[1], 0, 1),
        count=size.astype(np.int64),
        bin_t=flips.t[:bins],
        p_value=flips.p_value,
        bias=float(per_image.mean()),
        bias_se=standard_error(per_image),
        sharpness_t=float(np.nan_to_num(flips.t[-1])),
        error=float(np.average(np.abs(gap), weights=size)),
        error_by_chance=float(np.average(chance / size, weights=size)),
        doubtful_error=_weighted(np.abs(gap), doubt.sum(0)),
        doubtful_error_by_chance=_weighted(chance / size, doubt.sum(0)),
        brier=float(brier.mean()),
        brier_se=standard_error(brier),
        reliability=float(np.average(gap**2, weights=size)),
        resolution=float(np.average((forecast + gap - share) ** 2, weights=size)),
        uncertainty=share * (1 - share),
        elements=element_map(
            residual.reshape(probability.shape),
            "observed - forecast share",
            seed=seed,
            least_variance=variance.sum(0).reshape(probability.shape[1:]),
            keep=(variance.sum(0) >= LEAST_ELEMENT_VARIANCE).reshape(probability.shape[1:]),
            num_flips=num_flips,
        ),
        n=n,
    )


def _bins(
    p: Float[np.ndarray, "n elements"], variance: Float[np.ndarray, "n elements"]
) -> Int[np.ndarray, "n elements"]:
    """The bin of each forecast. One without enough expected events joins its neighbour nearer to 1/2."""
    index = np.digitize(p, EDGES[1:-1])
    doubt = np.bincount(index.ravel(), variance.ravel(), len(EDGES) - 1)
    middle = len(doubt) // 2
    joined = np.arange(len(doubt))
    for start, step in ((0, 1), (len(doubt) - 1, -1)):
        held, first = 0.0, start
        for k in range(start, middle, step):
            held += doubt[k]
            joined[first : k + step : step] = k
            if held >= LEAST_BIN_VARIANCE:
                held, first = 0.0, k + step
            else:
                # What is gathered so far moves on with the next bin.
                joined[first : k + 2 * step : step] = k + step
    return np.unique(joined[index], return_inverse=True)[1].reshape(p.shape)


def _weighted(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean; 0 where there is no weight."""
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else 0.0
