"""Permutation tests of two samples of vectors: their means, and the spectra of their covariances.

The p-values are exact: under a true model the labels "real" and "generated" are exchangeable.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Real

from analysis.hypothesis_tests import p_text
from analysis.result import Result

# The number of permutations; p-values are multiples of 1 / 1000.
PERMUTATIONS = 999
# Of the covariance: the number of leading axes, the fewest data of the smaller sample per axis,
# and the most data of a sample.
_AXES = 50
_DATA_PER_AXIS = 4
_SPECTRUM_DATA = 2000
# The number of permutations that are held at a time.
_BLOCK = 100


@dataclass(frozen=True)
class ProfileComparison(Result):
    """The means of each element of a profile over real and over generated data.

    Args:
        name: A short key.
        label: What numbers the elements.
        real: The means over real data.
        generated: The means over generated data.
        real_deviation: The standard deviations over real data.
        generated_deviation: The standard deviations over generated data.
        t: The differences of means, generated minus real, in standard errors by the variance of
            all data; 0 where an element does not vary.
        p_value: The probability of a larger max_i |t_i| under a true model.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("label", "p_value")

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
        """The element with the largest difference in standard errors."""
        return int(np.abs(self.t).argmax())

    def extra(self) -> dict[str, Any]:
        """The element that differs most."""
        i = self.worst
        return {
            "elements": len(self.t),
            "worst_element": i,
            "worst_real_mean": self.real[i],
            "worst_generated_mean": self.generated[i],
            "worst_standard_errors": self.t[i],
            "largest_difference": np.abs(self.generated - self.real).max(),
        }

    def reading(self) -> str:
        """Which element's mean differs most, and whether that may be chance."""
        i = self.worst
        return (
            f"{self.name.replace('_', ' ')}: element {i} differs most, with mean "
            f"{self.generated[i]:.3g} in generated and {self.real[i]:.3g} in real data "
            f"({self.t[i]:+.1f} standard errors), {_chance_text(self.p_value)}."
        )


@dataclass(frozen=True)
class SpectrumComparison(Result):
    """The sorted eigenvalues of the covariance over real and over generated data.

    Args:
        real: For real data on the leading axes of all data, largest first.
        generated: For generated data on the same axes.
        low: The 2.5 % quantile of log(generated / real) under permutation, by rank.
        high: The 97.5 % quantile.
        p_value: The probability of a larger root mean square log-ratio under a true model.
        explained: The share of the variance of all data that lies on the axes.
        num_data: The numbers of real and of generated data.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("explained", "p_value")

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

    @property
    def rms_log_ratio(self) -> float:
        """The root mean square of `log_ratio`."""
        return float(np.sqrt((self.log_ratio**2).mean()))

    def extra(self) -> dict[str, Any]:
        """Numbers of axes and data, and the deviations of the spectra."""
        outside = (self.log_ratio < self.low) | (self.log_ratio > self.high)
        return {
            "axes": len(self.real),
            "n_real": self.num_data[0],
            "n_generated": self.num_data[1],
            "rms_log_ratio": self.rms_log_ratio,
            "total_variance_ratio": self.total_ratio,
            "share_outside_band": outside.mean(),
        }

    def reading(self) -> str:
        """How the variances compare, and whether that may be chance."""
        return (
            f"spectrum: along {len(self.real)} axes generated data have {self.total_ratio:.2f} "
            "times the variance of real data, with eigenvalues typically off by a factor of "
            f"{np.exp(self.rms_log_ratio):.2f}, {_chance_text(self.p_value)}."
        )


def compare_profiles(
    name: str,
    real: Real[np.ndarray, "n elements"],
    generated: Real[np.ndarray, "m others"],
    *,
    label: str = "",
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> ProfileComparison:
    """max_i |t_i| over the elements of a profile, with an exact p-value by permutation.

    The p-value is a multiple of 1 / (`permutations` + 1). `label` is what numbers the elements.

    Raises:
        ValueError: If a sample is empty, the numbers of elements differ, or one is not finite.
    """
    _check_samples(name, real, generated)
    n, m = len(real), len(generated)
    pooled = np.concatenate([real, generated]).astype(np.float64)
    # Relative to each element's size: units may differ by a factor of a billion.
    size = np.abs(pooled).max(0)
    pooled -= pooled.mean(0)
    # The variance of all data does not change under a permutation.
    error = pooled.std(0) * np.sqrt(1 / n + 1 / m)
    weights = np.divide(1.0, error, out=np.zeros_like(error), where=error > 1e-14 * size)
    largest, observed = [], None
    for labels in _permuted_labels(n, m, permutations, seed):
        # For centred data the sum over generated ones is minus that over real ones.
        t = -(labels @ pooled) * (1 / n + 1 / m) * weights
        observed = t[0] if observed is None else observed
        largest.append(np.abs(t).max(1))
    assert observed is not None
    return ProfileComparison(
        name,
        label or name,
        real.mean(0, dtype=np.float64),
        generated.mean(0, dtype=np.float64),
        real.std(0, dtype=np.float64),
        generated.std(0, dtype=np.float64),
        observed,
        _permutation_p_value(np.concatenate(largest)),
    )


def compare_spectra(
    real: Real[np.ndarray, "n elements"],
    generated: Real[np.ndarray, "m others"],
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> SpectrumComparison | None:
    """sqrt(mean_k log^2(generated_k / real_k)) of sorted eigenvalues of both covariances.

    Both are computed along the leading principal axes of all data. As these do not depend on the
    labels, they stay the same under permutations, and the p-value is exact.

    Args:
        real: The elements of each real example. At most 2000 are used, chosen at random.
        generated: The elements of each generated example.
        seed: The seed of the choice, the axes and the permutations.
        permutations: Their number B: p is a multiple of 1 / (B + 1).
        transform: Applied to the elements first, such as `numpy.log1p` for counts.

    Returns:
        The comparison; None if nothing varies, or there are fewer than 8 data of either kind.

    Raises:
        ValueError: If a sample is empty, the numbers of elements differ, or one is not finite.
    """
    from sklearn.utils.extmath import randomized_svd

    _check_samples("spectrum", real, generated)
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
    # Not transposed: the random start must belong to the elements, not to the order of the data.
    options: dict[str, Any] = {"n_iter": 4, "transpose": False, "random_state": seed}
    left, scale, _ = randomized_svd(pooled, axes, **options)
    positive = scale > 1e-6 * scale[0]
    y = left[:, positive] * scale[positive]
    y -= y.mean(0)
    # With the products of each example's coordinates a permutation is a row of a matrix product.
    lower = np.tril_indices(y.shape[1])
    products = y[:, lower[0]] * y[:, lower[1]]
    total_products = products.sum(0)
    spectra = []
    for labels in _permuted_labels(n, m, permutations, seed + 1):
        sums, first = labels @ y, labels @ products
        outer = sums[:, lower[0]] * sums[:, lower[1]]
        both = np.stack([first / n - outer / n**2, (total_products - first) / m - outer / m**2])
        covariances = np.zeros((*both.shape[:2], y.shape[1], y.shape[1]))
        covariances[..., lower[0], lower[1]] = both
        # Only the lower triangle is read.
        spectra.append(np.linalg.eigvalsh(covariances)[..., ::-1])
    # An eigenvalue of a sample without variance is 0 up to rounding.
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


def _check_samples(name: str, real: np.ndarray, generated: np.ndarray) -> None:
    if not len(real) or not len(generated) or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"{name} needs samples of equally many elements, got shapes {real.shape} of real and "
            f"{generated.shape} of generated data."
        )
    # NaN compares with nothing, so that the p-value would be 0.
    bad = [int((~np.isfinite(data)).any(1).sum()) for data in (real, generated)]
    if any(bad):
        raise ValueError(
            f"{name} needs finite elements, got others in {bad[0]} real and {bad[1]} generated "
            "data."
        )


def _permuted_labels(n: int, m: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of labellings of n + m data, 1 for "real"; the first is the true one."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n + m) < n
    for start in range(0, permutations + 1, _BLOCK):
        size = min(_BLOCK, permutations + 1 - start)
        labels = rng.permuted(np.tile(truth, (size, 1)), axis=1)
        if start == 0:
            labels[0] = truth
        yield labels.astype(np.float64)


def _permutation_p_value(statistics: np.ndarray) -> float:
    """The share of labellings whose statistic is at least that of the true one, the first."""
    # Sums in another order differ in the last digits.
    return float((statistics >= statistics[0] - 1e-9 * abs(statistics[0])).mean())


def _chance_text(p_value: float) -> str:
    return f"{'more than' if p_value < 0.05 else 'within'} chance (p {p_text(p_value)})"
