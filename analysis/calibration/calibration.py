"""Whether a VAE's forecasts of binary elements come true, how sure they are, and where in the picture they fail.

The forecasts are `analysis.calibration.leave_one_out`'s. An image's elements are dependent, so that bands and tests
resample whole images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.calibration.calibration_figures import (
    plot_calibration_map,
    plot_element_pit,
    plot_isotonic,
    plot_reliability,
)
from analysis.calibration.leave_one_out import same_image_probability
from analysis.comparison.resampling_tests import NUM_FLIPS, bootstrap_interval, sign_flips
from analysis.predictive.element_pit import (
    ElementMap,
    ElementPit,
    element_map,
    element_pit,
)
from analysis.verdicts import LARGEST_ERROR, Verdict, forecasts
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
# Unless so many times as much came: where five events at most are expected, twenty are no chance.
MANY_EVENTS = 4.0

# Beyond this many standard errors sharpness has a direction.
_CLEAR = 3.0

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
        p_value: By sign flips of whole images, of the largest |t| of all bins, of bias and of sharpness. It
            judges model and guide together.
        p_value_against_model: The same for the difference between these data and data that the model made,
            forecast in the same way: what the guide does to both is gone. None without such data.
        sharpness_t_against_model: `sharpness_t` of that difference.
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
        elements: Where it fails: x_i - p_i for each element, its mean over images; or its difference from
            data that the model made, where there are such.
        trusted: Whether the guide's weights are to be believed; None if nobody said.
        n: The number of images.
    """

    forecast: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    bin_t: Float[np.ndarray, " bins"]
    p_value: float | None
    p_value_against_model: float | None
    sharpness_t_against_model: float | None
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
    trusted: bool | None
    n: int

    def summary(self) -> dict[str, Any]:
        """Shares, counts and p-values; lists go by bin."""
        numbers = {
            name: finite(getattr(self, name))
            for name in (
                "p_value",
                "p_value_against_model",
                "sharpness_t_against_model",
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
            "trusted": None if self.trusted is None else int(self.trusted),
            **numbers,
            "bins": {**bins, "count": self.count.tolist()},
            "elements": self.elements.summary(),
            "verdicts": [] if (verdict := self.verdict()) is None else [verdict.summary()],
            "reading": self.reading(),
        }

    def verdict(self) -> Verdict | None:
        """Whether the forecasts come true; None where every element is certain."""
        if self.p_value is None:
            return None
        effect = (
            f"in doubtful elements forecast and observed shares differ by {self.doubtful_error:.3f} "
            f"({self.doubtful_error_by_chance:.3f} by chance, at most {LARGEST_ERROR} is fine)"
        )
        # What is forecast as all but certain has no weight among the doubtful, and may be wrong.
        if self.error > max(self.doubtful_error, LARGEST_ERROR):
            effect += f" and over all elements, the certain ones among them, by {self.error:.3f}"
        against = self.sharpness_t_against_model
        return forecasts(
            effect,
            small=max(self.doubtful_error, self.error) <= LARGEST_ERROR,
            direction=_direction(self.sharpness_t if against is None else against),
            p=self.p_value,
            against=self.p_value_against_model,
            trusted=self.trusted,
        )

    def reading(self) -> str:
        """Whether the forecasts come true, what is wrong with them, and where."""
        verdict = self.verdict()
        if verdict is None:
            return "Nothing to judge: every element is certain."
        return f"{verdict} {self.elements.reading()}"


def _direction(t: float) -> str:
    """In words, where it is clear."""
    if abs(t) < _CLEAR:
        return ""
    return f"the forecasts are too {'sure' if t < 0 else 'unsure'}"


def calibration(
    probability: Float[np.ndarray, " n *event"],
    outcome: Real[np.ndarray, " n *event"],
    *,
    simulated: tuple[Float[np.ndarray, " m *event"], Real[np.ndarray, " m *event"]] | None = None,
    trusted: bool | None = None,
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
        simulated: Forecasts and outcomes of as many data that the model made, with the same guide and
            number of draws. A poor guide's weights are biased, and make forecasts fail where the model
            is true; a pair's difference, one datum of each, changes its sign with even odds all the same.
        trusted: `LeaveOneOut.trusted`, for the reading.
        seed: The seed of bootstrap and signs.
        num_flips: The number of choices of signs.

    Returns:
        Read `doubtful_error` first: up to 0.02 is fine. `p_value_against_model` below 0.05 says that the
        model errs; `p_value` below 0.05, that the model or the guide does.

    Raises:
        ValueError: If the shapes differ, there are fewer than two images, or these are no probabilities
            and binary outcomes.

    References:
        Increasing the Reliability of Reliability Diagrams (Broecker & Smith, 2007),
        https://doi.org/10.1175/WAF993.1; A New Vector Partition of the Probability Score (Murphy, 1973)
    """
    p, x = _checked(probability, outcome)
    n = len(p)
    residual, variance = x - p, p * (1 - p)

    edges = _edges(p, variance)
    bins = len(edges) + 1
    index = np.digitize(p, edges)
    count, doubt = (_by_image(index, values, bins) for values in (np.ones_like(p), variance))
    off = _by_image(index, residual, bins)
    size = count.sum(0)
    forecast = _by_image(index, p, bins).sum(0) / size
    gap = off.sum(0) / size
    scores = _scores(p, x, edges)
    against = None
    field, expected, suffix = residual, variance.sum(0), ""
    if simulated is not None:
        own_p, own_x = _checked(*simulated)
        if simulated[0].shape[1:] != probability.shape[1:]:
            raise ValueError(
                f"simulated must have events of shape {probability.shape[1:]}, "
                f"got {simulated[0].shape[1:]}."
            )
        pairs = min(n, len(own_p))
        own_p, own_x = own_p[:pairs], own_x[:pairs]
        difference = scores[:pairs] - _scores(own_p, own_x, edges)
        against = sign_flips(difference, seed=seed, num_flips=num_flips)
        field = residual[:pairs] - (own_x - own_p)
        expected = (variance[:pairs] + own_p * (1 - own_p)).sum(0)
        suffix = ",\ndata less the model's own"
    many = np.square(field).sum(0) >= MANY_EVENTS * LEAST_ELEMENT_VARIANCE
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
        p_value_against_model=None if against is None else against.p_value,
        sharpness_t_against_model=None if against is None else finite(against.t[-1]),
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
            field.reshape(-1, *probability.shape[1:]),
            f"observed - forecast share{suffix}",
            seed=seed,
            least_variance=expected.reshape(probability.shape[1:]),
            keep=(many | (expected >= LEAST_ELEMENT_VARIANCE)).reshape(probability.shape[1:]),
            num_flips=num_flips,
        ),
        trusted=trusted,
        n=n,
    )


def _checked(
    probability: Float[np.ndarray, " n *event"], outcome: Real[np.ndarray, " n *event"]
) -> tuple[Float[np.ndarray, "n elements"], Float[np.ndarray, "n elements"]]:
    """Both as rows of float64, if they can be forecasts and what came."""
    if probability.shape != outcome.shape:
        raise ValueError(
            f"outcome must have the shape {probability.shape} of probability, got {outcome.shape}."
        )
    if len(probability) < 2:
        raise ValueError(f"calibration needs at least two data, got {len(probability)}.")
    p, x = (a.reshape(len(a), -1).astype(np.float64) for a in (probability, outcome))
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probability must lie from 0 to 1, got {p.min():.3g} to {p.max():.3g}.")
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(f"outcome must be 0 or 1, got {x.min():.3g} to {x.max():.3g}.")
    return p, x


def _scores(
    p: Float[np.ndarray, "n elements"], x: Float[np.ndarray, "n elements"], edges: np.ndarray
) -> Float[np.ndarray, "n scores"]:
    """Each image's sum of x - p in each bin, over all, and weighted with the logit of p."""
    off = _by_image(np.digitize(p, edges), x - p, len(edges) + 1)
    sharpness = ((x - p) * np.log((p + _FLOOR) / (1 - p + _FLOOR))).sum(1)
    return np.column_stack([off, off.sum(1), sharpness])


def _by_image(
    index: Int[np.ndarray, "n elements"], values: Float[np.ndarray, "n elements"], bins: int
) -> Float[np.ndarray, "n bins"]:
    """The sum of an image's values in each bin."""
    n = len(index)
    place = index + bins * np.arange(n)[:, None]
    return np.bincount(place.ravel(), values.ravel(), n * bins).reshape(n, bins)


def _edges(
    p: Float[np.ndarray, "n elements"], variance: Float[np.ndarray, "n elements"]
) -> Float[np.ndarray, " edges"]:
    """What parts the bins. One without enough expected events joins its neighbour nearer to 1/2."""
    inner = np.array(EDGES[1:-1])
    doubt = np.bincount(np.digitize(p, inner).ravel(), variance.ravel(), len(inner) + 1)
    middle = int(np.argmax(doubt))
    kept = []
    # From either end to the bin with most doubt; what is gathered moves on until it is enough.
    for bins, inwards in ((range(middle), 0), (range(len(inner), middle, -1), -1)):
        held = 0.0
        for k in bins:
            held += doubt[k]
            if held >= LEAST_BIN_VARIANCE:
                kept.append(inner[k + inwards])
                held = 0.0
    return np.sort(kept)


def _weighted(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean; 0 where there is no weight."""
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else 0.0
