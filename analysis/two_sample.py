"""Are two samples draws from one distribution? Of a score, of a profile, of a covariance's spectrum.

The first sample is of real data that did not train the model, the second of data that it generated,
z ~ p(z), x ~ p(x | z). Under a true model each p-value is uniform on (0, 1), or above where the test
is a permutation with ties. With enough data every wrong model is found: read the effect first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from pyro_vae.evidence.numbers import finite, standard_error

# A Kolmogorov-Smirnov distance up to here is small: of 100 real and 100 generated data one cannot
# tell it from none, and no threshold on the score tells the two apart in more than 55 % of cases.
SMALL_DISTANCE = 0.1

# The p-values of permutations are multiples of 1 / 1000.
PERMUTATIONS = 999

# Below so many pairs the exact distribution of the distance is counted out; above, the asymptotic
# one is as good and quick.
_EXACT_PAIRS = 250_000

# Of the covariance: so many leading axes, an axis for every so many data of the smaller sample at
# most, and so many data of a sample.
_AXES = 50
_DATA_PER_AXIS = 4
_SPECTRUM_DATA = 2000

# Labels or eigenvalue problems of so many permutations are held at once.
_BLOCK = 100


@dataclass(frozen=True)
class Comparison:
    """A score of n real and m generated data, and how far apart their distributions are.

    Args:
        name: A short key.
        label: What was measured, for an axis.
        real: The score of each real datum.
        generated: The score of each generated datum.
        ks_distance: sup_t |F_real(t) - F_generated(t)|, the Kolmogorov-Smirnov distance, from 0 to
            1: the best threshold tells a real from a generated datum with chance (1 + it) / 2.
        p_value: The chance of a larger distance under a true model, ties broken at random; 1 where
            the score is one constant.
    """

    name: str
    label: str
    real: Float[np.ndarray, " n"]
    generated: Float[np.ndarray, " m"]
    ks_distance: float
    p_value: float

    @property
    def title(self) -> str:
        """What the label says before its colon."""
        return self.label.partition(":")[0]

    @cached_property
    def difference(self) -> float | None:
        """Mean of the generated less mean of the real scores; None if there are no finite ones."""
        real, generated = _finite(self.real), _finite(self.generated)
        return finite(generated.mean() - real.mean()) if len(real) and len(generated) else None

    @cached_property
    def difference_se(self) -> float | None:
        """The standard error of `difference`; None for one datum."""
        errors = [
            standard_error(v) if len(v) else None
            for v in (_finite(self.real), _finite(self.generated))
        ]
        return None if None in errors else float(np.hypot(*errors))

    @property
    def standard_errors(self) -> float | None:
        """`difference` in its standard errors, about N(0, 1) under a true model; None if neither varies.

        It grows with the number of data: it says whether there is a difference, not how large it is.
        """
        if self.difference is None or not self.difference_se:
            return None
        return self.difference / self.difference_se

    @property
    def deviations(self) -> float | None:
        """`difference` in standard deviations of the real score: an effect size; None if constant."""
        spread = float(_finite(self.real).std()) if self.difference is not None else 0.0
        return self.difference / spread if self.difference is not None and spread > 0 else None

    @property
    def non_finite(self) -> tuple[int, int]:
        """How many scores of real and of generated data are infinite or not numbers."""
        return int((~np.isfinite(self.real)).sum()), int((~np.isfinite(self.generated)).sum())

    def direction(self) -> str:
        """Where the generated data lie: "a mean higher by ...", or with the same mean the spread."""
        if not self.difference:
            return "the same mean"
        word = "higher" if self.difference > 0 else "lower"
        if self.deviations is None:
            return f"a mean {word} by {abs(self.difference):.3g}, where real data do not vary"
        spread = _finite(self.generated).std() / _finite(self.real).std()
        spread_text = f"{spread:.2f} times the spread"
        if abs(self.deviations) < 0.05:
            return f"about the same mean and {spread_text}"
        return f"a mean {word} by {abs(self.deviations):.2f} standard deviations and {spread_text}"

    def summary(self) -> dict[str, Any]:
        """Means, their difference with its standard error, effect sizes, p-value, counts and reading."""
        real, generated = _finite(self.real), _finite(self.generated)
        bad_real, bad_generated = self.non_finite
        return {
            "label": self.label,
            "n_real": len(self.real),
            "n_generated": len(self.generated),
            "non_finite_real": bad_real,
            "non_finite_generated": bad_generated,
            "real_mean": finite(real.mean()) if len(real) else None,
            "real_mean_se": finite(standard_error(real)) if len(real) else None,
            "generated_mean": finite(generated.mean()) if len(generated) else None,
            "generated_mean_se": finite(standard_error(generated)) if len(generated) else None,
            "difference": self.difference,
            "difference_se": finite(self.difference_se),
            "standard_errors": finite(self.standard_errors),
            "deviations": finite(self.deviations),
            "ks_distance": finite(self.ks_distance),
            "p_value": finite(self.p_value),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How far generated data are off in this score, and whether that could be chance."""
        chance = (
            "more than chance explains"
            if self.p_value < 0.05
            else "no more than chance explains with so many data"
        )
        text = (
            f"{self.title}: the distance of the two distributions is {distance_text(self.ks_distance)}; "
            f"generated data have {self.direction()}; {chance} (p {p_text(self.p_value)})."
        )
        bad_real, bad_generated = self.non_finite
        if bad_real or bad_generated:
            text += (
                f" Scores that are not finite, {bad_real} of real and {bad_generated} of generated "
                "data, count in the distance by their rank (no number lowest) and in no mean."
            )
        return text


@dataclass(frozen=True)
class ProfileComparison:
    """The means of each element of a profile over real and over generated data.

    Args:
        name: A short key.
        label: What the elements are numbered by.
        real: The means over real data.
        generated: The means over generated data.
        real_deviation: The standard deviations over real data.
        generated_deviation: The standard deviations over generated data.
        t: The differences of means, generated less real, in standard errors by the variance of all
            data; 0 where an element does not vary.
        p_value: The chance of a larger max_i |t_i| under a true model, by permuting who is real.
    """

    name: str
    label: str
    real: Float[np.ndarray, " elements"]
    generated: Float[np.ndarray, " elements"]
    real_deviation: Float[np.ndarray, " elements"]
    generated_deviation: Float[np.ndarray, " elements"]
    t: Float[np.ndarray, " elements"]
    p_value: float

    @property
    def worst(self) -> int:
        """The element that is furthest off in standard errors."""
        return int(np.abs(self.t).argmax())

    def summary(self) -> dict[str, Any]:
        """The element furthest off, with its means, the p-value and a reading."""
        i = self.worst
        return {
            "label": self.label,
            "elements": len(self.t),
            "worst_element": i,
            "worst_real_mean": finite(self.real[i]),
            "worst_generated_mean": finite(self.generated[i]),
            "worst_standard_errors": finite(self.t[i]),
            "largest_difference": finite(np.abs(self.generated - self.real).max()),
            "p_value": finite(self.p_value),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Which element's mean is furthest off, and whether that could be chance."""
        i = self.worst
        return (
            f"{self.name.replace('_', ' ')}: element {i} is furthest off, mean {self.generated[i]:.3g} of generated "
            f"against {self.real[i]:.3g} of real data, {self.t[i]:+.1f} standard errors; as the largest "
            f"of {len(self.t)} that is {'more than' if self.p_value < 0.05 else 'within'} chance "
            f"(p {p_text(self.p_value)})."
        )


@dataclass(frozen=True)
class SpectrumComparison:
    """The eigenvalues of the covariance over real and over generated data, sorted.

    Args:
        real: Of real data on the leading axes of both together, the largest first.
        generated: Of generated data on the same axes.
        low: The 2.5 % quantile of log(generated / real) under permutation, by rank.
        high: The 97.5 % quantile.
        p_value: The chance of a larger root mean square log-ratio under a true model, by permuting
            who is real.
        explained: The share of the variance of all data that lies on the axes.
        num_data: How many real and how many generated data were used.
    """

    real: Float[np.ndarray, " axes"]
    generated: Float[np.ndarray, " axes"]
    low: Float[np.ndarray, " axes"]
    high: Float[np.ndarray, " axes"]
    p_value: float
    explained: float
    num_data: tuple[int, int]

    @property
    def log_ratio(self) -> Float[np.ndarray, " axes"]:
        """log of the generated over the real eigenvalue, by rank: 0 is right."""
        return np.log(self.generated / self.real)

    @property
    def total_ratio(self) -> float:
        """The variance of generated data on the axes over that of real data: 1 is right."""
        return float(self.generated.sum() / self.real.sum())

    def summary(self) -> dict[str, Any]:
        """The root mean square log-ratio, the ratio of total variances, the p-value and a reading."""
        return {
            "axes": len(self.real),
            "explained": finite(self.explained),
            "n_real": self.num_data[0],
            "n_generated": self.num_data[1],
            "rms_log_ratio": finite(np.sqrt((self.log_ratio**2).mean())),
            "total_variance_ratio": finite(self.total_ratio),
            "share_outside_band": finite(self._outside().mean()),
            "p_value": finite(self.p_value),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How the variance of generated data compares, and whether that could be chance."""
        typical = np.exp(np.sqrt((self.log_ratio**2).mean()))
        return (
            f"spectrum: along {len(self.real)} axes generated data have {self.total_ratio:.2f} times "
            f"the variance of real data, and an eigenvalue is typically off by a factor of "
            f"{typical:.2f} (1 is right); that is {'more than' if self.p_value < 0.05 else 'within'} "
            f"chance (p {p_text(self.p_value)})."
        )

    def _outside(self) -> Bool[np.ndarray, " axes"]:
        return (self.log_ratio < self.low) | (self.log_ratio > self.high)


def compare_scores(
    name: str,
    real: Real[np.ndarray, " n"],
    generated: Real[np.ndarray, " m"],
    *,
    label: str = "",
    seed: int = 0,
) -> Comparison:
    """sup_t |F_real(t) - F_generated(t)|: is a score distributed alike over real and generated data?

    Any score will do that is computed alike for both: a statistic, an ELBO, log p(x), an error. It
    may depend on the model and its training data, not on the data that are compared. Ties are broken
    at random, or counts would give p-values too large.

    Args:
        name: A short key.
        real: The score of each real datum; not finite ones keep a rank, NaN below all.
        generated: The score of each generated datum.
        label: What it is, with its unit, for an axis; the name, if not given.
        seed: The seed of the ties.

    Raises:
        ValueError: If either sample is empty.
    """
    from scipy.stats import ks_2samp

    if not len(real) or not len(generated):
        raise ValueError(
            f"{name} must have scores of both, got {len(real)} of real and {len(generated)} of "
            "generated data."
        )
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    # NaN compares with nothing; as the lowest it neither vanishes nor moves the other ranks.
    ordered = np.concatenate([real, generated])
    missing = np.isnan(ordered)
    _, ranks = np.unique(ordered, return_inverse=True)
    ranks = np.where(missing, -1, ranks)
    distance = ks_2samp(ranks[: len(real)], ranks[len(real) :], method="asymp")[0]
    p_value = 1.0
    if ranks.min() < ranks.max():
        untied = np.empty(len(ranks))
        chance = np.random.default_rng(seed).random(len(ranks))
        untied[np.lexsort((chance, ranks))] = np.arange(len(ranks))
        method = "exact" if len(real) * len(generated) <= _EXACT_PAIRS else "asymp"
        p_value = ks_2samp(untied[: len(real)], untied[len(real) :], method=method)[1]
    return Comparison(name, label or name, real, generated, float(distance), float(p_value))


def compare_profiles(
    name: str,
    real: Real[np.ndarray, "n elements"],
    generated: Real[np.ndarray, "m elements"],
    *,
    label: str = "",
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> ProfileComparison:
    """max_i |t_i| over the elements of a profile, with an exact p-value by permutation.

    Args:
        name: A short key.
        real: The profile of each real datum.
        generated: The profile of each generated datum.
        label: What the elements are numbered by; the name, if not given.
        seed: The seed of the permutations.
        permutations: Their number B: p is a multiple of 1 / (B + 1).

    Raises:
        ValueError: If either sample is empty, or they differ in the number of elements.
    """
    _check(name, real, generated)
    n, m = len(real), len(generated)
    pooled = np.concatenate([real, generated]).astype(np.float64)
    pooled -= pooled.mean(0)
    # The variance of all data does not change under a permutation.
    error = pooled.std(0) * np.sqrt(1 / n + 1 / m)
    varies = error > 1e-9 * max(1e-300, float(np.abs(pooled).max()))
    weights = np.divide(1.0, error, out=np.zeros_like(error), where=varies)

    largest, observed = np.empty(permutations + 1), np.zeros(len(weights))
    done = 0
    for chosen in _labels(n, m, permutations, seed):
        # Of centred data the generated ones' sum is minus the real ones'.
        t = -(chosen @ pooled) * (1 / n + 1 / m) * weights
        if not done:
            observed = t[0]
        largest[done : done + len(t)] = np.abs(t).max(1)
        done += len(t)
    return ProfileComparison(
        name,
        label or name,
        real.mean(0, dtype=np.float64),
        generated.mean(0, dtype=np.float64),
        real.std(0, dtype=np.float64),
        generated.std(0, dtype=np.float64),
        observed,
        _permutation_p_value(largest),
    )


def compare_spectra(
    real: Real[np.ndarray, "n elements"],
    generated: Real[np.ndarray, "m elements"],
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> SpectrumComparison | None:
    """sqrt(mean_k log^2(generated_k / real_k)) of sorted eigenvalues of both covariances.

    Both are taken along the leading principal axes of all data together. As those do not know who is
    real, a permutation keeps them, and the p-value is exact.

    Args:
        real: The elements of each real datum. At most 2000 are used, chosen at random.
        generated: The elements of each generated datum.
        seed: The seed of the choice, the axes and the permutations.
        permutations: Their number B: p is a multiple of 1 / (B + 1).
        transform: What is done to the elements first, such as `numpy.log1p` of counts.

    Returns:
        The comparison; None if nothing varies, or there are fewer than 8 data of either kind.

    Raises:
        ValueError: If either sample is empty, or they differ in the number of elements.
    """
    from sklearn.utils.extmath import randomized_svd

    _check("spectrum", real, generated)
    rng = np.random.default_rng(seed)
    real, generated = (
        v if len(v) <= _SPECTRUM_DATA else v[rng.choice(len(v), _SPECTRUM_DATA, replace=False)]
        for v in (real, generated)
    )
    n, m = len(real), len(generated)
    axes = min(_AXES, real.shape[1], min(n, m) // _DATA_PER_AXIS)
    if axes < min(2, real.shape[1]):
        return None
    pooled = np.concatenate([real, generated]).astype(np.float64)
    if transform is not None:
        pooled = transform(pooled)
    pooled -= pooled.mean(0)
    total = float((pooled**2).sum())
    if total == 0:
        return None
    # Not transposed: the random start must belong to the elements, not to the data's order.
    left, scale, _ = randomized_svd(pooled, axes, n_iter=4, transpose=False, random_state=seed)
    kept = scale > 1e-6 * scale[0]
    y = left[:, kept] * scale[kept]
    y -= y.mean(0)
    # With the products of each datum's coordinates a permutation is a row of a matrix product.
    lower = np.tril_indices(y.shape[1])
    products = y[:, lower[0]] * y[:, lower[1]]
    total_products = products.sum(0)
    spectra = []
    for chosen in _labels(n, m, permutations, seed + 1):
        sums, first = chosen @ y, chosen @ products
        outer = sums[:, lower[0]] * sums[:, lower[1]]
        both = np.stack([first / n - outer / n**2, (total_products - first) / m - outer / m**2])
        covariances = np.zeros((*both.shape[:2], y.shape[1], y.shape[1]))
        covariances[..., lower[0], lower[1]] = both
        # The lower triangle is all that is read.
        spectra.append(np.linalg.eigvalsh(covariances)[..., ::-1])
    # An eigenvalue of a sample that does not vary is 0 but for rounding.
    eigenvalues = np.concatenate(spectra, axis=1).clip(1e-12 * (y**2).mean(0).max())
    log_ratios = np.log(eigenvalues[1] / eigenvalues[0])
    low, high = np.quantile(log_ratios[1:], [0.025, 0.975], axis=0)
    return SpectrumComparison(
        *eigenvalues[:, 0],
        low,
        high,
        _permutation_p_value((log_ratios**2).mean(1)),
        float((y**2).sum() / total),
        (n, m),
    )


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The p-values adjusted for their number: below a, the hypothesis is rejected at family-wise a.

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733
    """
    order: Int[np.ndarray, " n"] = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def p_text(p_value: float) -> str:
    """As it is written after "p".

    >>> p_text(0.00004), p_text(0.25)
    ('< 0.001', '= 0.250')
    """
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def distance_text(distance: float) -> str:
    """A Kolmogorov-Smirnov distance with what it means.

    >>> distance_text(0.04)
    '0.04, small (0 is equal, up to 0.1 small, 1 apart)'
    """
    size = "small" if distance <= SMALL_DISTANCE else "not small"
    return f"{distance:.2f}, {size} (0 is equal, up to {SMALL_DISTANCE} small, 1 apart)"


def _check(name: str, real: np.ndarray, generated: np.ndarray) -> None:
    if not len(real) or not len(generated) or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"{name} must have data of both, of as many elements, got shapes {real.shape} of real "
            f"and {generated.shape} of generated data."
        )


def _labels(
    n: int, m: int, permutations: int, seed: int
) -> Iterator[Float[np.ndarray, "block data"]]:
    """Blocks of labellings of n + m data, 1 for those that are called real; the first is the true one."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n + m) < n
    for start in range(0, permutations + 1, _BLOCK):
        size = min(_BLOCK, permutations + 1 - start)
        labels = rng.permuted(np.tile(truth, (size, 1)), axis=1)
        if start == 0:
            labels[0] = truth
        yield labels.astype(np.float64)


def _permutation_p_value(statistics: Float[np.ndarray, " permutations"]) -> float:
    """The share of labellings, the true one among them, whose statistic is as large as the true one's."""
    # Sums in another order differ in the last digits.
    return float((statistics >= statistics[0] - 1e-9 * abs(statistics[0])).mean())


def _finite(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " _"]:
    return values[np.isfinite(values)]
