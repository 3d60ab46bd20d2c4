"""Whether forecasts of elements that are not binary come true: the histogram of their PIT, and a map of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from analysis.sign_flips import NUM_FLIPS, bootstrap_interval, sign_flips
from pyro_vae.evidence.numbers import finite

# Of the histogram. Forecasts from 200 draws have no finer structure.
BINS = 20

# p-values below this are a failure.
LEVEL = 0.05

# A mean PIT further than this from 1/2, or a spread further from 1, is worth a repair.
LARGEST_BIAS = 0.02
LARGEST_SPREAD = 0.1

# Beyond this many standard errors bias and spread have a direction.
_CLEAR = 3.0


@dataclass(frozen=True)
class ElementMap:
    """A mean over data for each element, and where it is not zero.

    Args:
        what: What it is the mean of.
        mean: The mean over data.
        t: The mean over its standard error; not a number where an element was left out.
        threshold: The |t| that the largest of all elements exceeds by chance in 5 % of cases.
        fails: The elements above it.
        p_value: Of the largest |t| of all, by sign flips of whole data; None if all were left out.
    """

    what: str
    mean: Float[np.ndarray, " *event"]
    t: Float[np.ndarray, " *event"]
    threshold: float | None
    fails: Bool[np.ndarray, " *event"]
    p_value: float | None

    @property
    def left_out(self) -> int:
        """The elements that vary too little to be judged."""
        return int(np.isnan(self.t).sum())

    def summary(self) -> dict[str, Any]:
        """Counts, the p-value and the element that is furthest off."""
        judged = self.t.size - self.left_out
        worst = int(np.nanargmax(np.abs(self.t))) if judged else None
        return {
            "judged": judged,
            "left_out": self.left_out,
            "failing": int(self.fails.sum()),
            "threshold": finite(self.threshold),
            "p_value": finite(self.p_value),
            "worst_element": None
            if worst is None
            else [int(i) for i in np.unravel_index(worst, self.t.shape)],
            "worst_mean": None if worst is None else finite(self.mean.reshape(-1)[worst]),
            "worst_t": None if worst is None else finite(self.t.reshape(-1)[worst]),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How many elements fail."""
        judged = self.t.size - self.left_out
        left = f" ({self.left_out} vary too little to be judged)" if self.left_out else ""
        if not judged:
            return "No element varies enough to be judged."
        if not self.fails.any():
            return f"None of {judged} elements fails by itself{left}."
        return f"{self.fails.sum()} of {judged} elements fail{left}: look where they lie in the picture."


def element_map(
    scores: Real[np.ndarray, " n *event"],
    what: str,
    *,
    seed: int,
    least_variance: Float[np.ndarray, " *event"] | None = None,
    keep: Bool[np.ndarray, " *event"] | None = None,
    num_flips: int = NUM_FLIPS,
) -> ElementMap:
    """mean_n s_n for each element, with a threshold that holds for all of them together.

    Args:
        scores: Contributions that have mean zero where all is well.
        what: What they are.
        seed: The seed of the signs.
        least_variance: See `sign_flips`.
        keep: The elements to judge.
        num_flips: The number of choices of signs.
    """
    n, event = len(scores), scores.shape[1:]
    flips = sign_flips(
        scores.reshape(n, -1),
        seed=seed,
        least_variance=None if least_variance is None else least_variance.reshape(-1),
        keep=None if keep is None else keep.reshape(-1),
        num_flips=num_flips,
    )
    return ElementMap(
        what=what,
        mean=scores.mean(0),
        t=flips.t.reshape(event),
        threshold=flips.threshold,
        fails=flips.fails.reshape(event),
        p_value=flips.p_value,
    )


@dataclass(frozen=True)
class ElementPit:
    """The PIT of each element against a uniform distribution.

    Args:
        edges: Of the histogram's bins.
        density: Of the PIT in each: 1 if all is well.
        low: The lower end of its 95 % band, by bootstrap over data.
        high: The upper end.
        p_value: By sign flips of whole data, of the largest |t| of all bins, of bias and of spread.
        bias: The mean PIT - 1/2: above 0 the data are larger than was forecast.
        bias_t: In standard errors.
        spread: The variance of the PIT around 1/2 over that of a uniform one: above 1 the forecasts are
            too narrow, below 1 too wide.
        spread_t: spread - 1 in standard errors.
        location: The map of PIT - 1/2.
        width: The map of 12 (PIT - 1/2)^2 - 1.
        n: The number of data.
    """

    edges: Float[np.ndarray, " edges"]
    density: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    p_value: float | None
    bias: float
    bias_t: float
    spread: float
    spread_t: float
    location: ElementMap
    width: ElementMap
    n: int

    def summary(self) -> dict[str, Any]:
        """Shares, counts and p-values; lists go by bin."""
        return {
            "n": self.n,
            "p_value": finite(self.p_value),
            "bias": finite(self.bias),
            "bias_t": finite(self.bias_t),
            "spread": finite(self.spread),
            "spread_t": finite(self.spread_t),
            "bins": {
                name: [finite(value) for value in getattr(self, name)]
                for name in ("density", "low", "high")
            },
            "location": self.location.summary(),
            "width": self.width.summary(),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the forecasts come true, and how they err."""
        fails = f"{self.location.fails.sum()} elements fail in location, {self.width.fails.sum()} in width."
        if self.p_value is not None and self.p_value >= LEVEL:
            return (
                f"The PIT is uniform as far as {self.n} data show, p = {self.p_value:.2g}. {fails}"
            )
        errors = []
        if abs(self.bias_t) > _CLEAR:
            errors.append("too low" if self.bias > 0 else "too high")
        if abs(self.spread_t) > _CLEAR:
            errors.append("too narrow" if self.spread > 1 else "too wide")
        how = (
            f"the forecasts are {' and '.join(errors)}"
            if errors
            else "no clear bias or width, but another shape"
        )
        small = abs(self.bias) <= LARGEST_BIAS and abs(self.spread - 1) <= LARGEST_SPREAD
        p = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        return (
            f"The PIT is not uniform{p}: {how}. Its mean is {0.5 + self.bias:.3f} where 0.5 is right "
            f"(within {LARGEST_BIAS} is fine), its variance {self.spread:.2f} times a uniform one's "
            f"(within {LARGEST_SPREAD} of 1 is fine)."
            f"{' Significant, and small on average.' if small else ''} {fails}"
        )


def element_pit(
    pit: Float[np.ndarray, " n *event"], *, seed: int = 0, num_flips: int = NUM_FLIPS
) -> ElementPit:
    """F(x_i | x_-i) is uniform for every element, if the model is true: histogram, bias, spread and maps.

    The share of a datum's PITs in each bin, their mean and their squared distance from 1/2 are known
    under a true model; what a datum's differ by has mean zero. The largest |t| of all is held against
    random signs of whole data, so that dependence within a datum does no harm.

    Args:
        pit: Such as `leave_one_element_out(...).pit`.
        seed: The seed of bootstrap and signs.
        num_flips: The number of choices of signs.

    Returns:
        A p-value below 0.05 says that the forecasts are wrong, or that the guide they were made with is;
        `bias` and `spread` say how.

    Raises:
        ValueError: If there are fewer than two data, or a PIT lies outside 0 and 1.

    References:
        Probabilistic forecasts, calibration and sharpness (Gneiting, Balabdaoui & Raftery, 2007),
        https://doi.org/10.1111/j.1467-9868.2007.00587.x
    """
    n = len(pit)
    if n < 2:
        raise ValueError(f"element_pit needs at least two data, got {n}.")
    flat = pit.reshape(n, -1).astype(np.float64)
    if not ((flat >= 0) & (flat <= 1)).all():
        raise ValueError("pit must lie between 0 and 1.")
    edges = np.linspace(0, 1, BINS + 1)
    index = np.minimum((flat * BINS).astype(np.int64), BINS - 1)
    place = (index + BINS * np.arange(n)[:, None]).ravel()
    share = np.bincount(place, minlength=n * BINS).reshape(n, BINS) * (BINS / flat.shape[1])
    location, width = flat - 0.5, 12 * (flat - 0.5) ** 2 - 1
    scores = np.column_stack([share - 1, location.mean(1), width.mean(1)])
    flips = sign_flips(scores, seed=seed, num_flips=num_flips)
    low, high = bootstrap_interval(share, np.ones_like(share), seed=seed)
    maps = [
        element_map(values.reshape(pit.shape), what, seed=seed, num_flips=num_flips)
        for values, what in (
            (location, "mean PIT - 1/2"),
            (width, "variance of the PIT over 1/12, - 1"),
        )
    ]
    return ElementPit(
        edges=edges,
        density=share.mean(0),
        low=low,
        high=high,
        p_value=flips.p_value,
        bias=float(location.mean()),
        bias_t=float(np.nan_to_num(flips.t[-2])),
        spread=float(1 + width.mean()),
        spread_t=float(np.nan_to_num(flips.t[-1])),
        location=maps[0],
        width=maps[1],
        n=n,
    )
