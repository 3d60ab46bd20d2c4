"""Are two samples of vectors alike? Of a profile's means and of a covariance's spectrum, by permutation.

The first sample is of real data that did not train the model, the second of data that it generated.
Under a true model the labels could be exchanged: the p-value is exact, uniform but for its steps of
1 / (B + 1), and above where labellings tie.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from analysis.comparison.p_values import p_text
from pyro_vae.evidence.numbers import finite

# The p-values of permutations are multiples of 1 / 1000.
PERMUTATIONS = 999

# Of the covariance: so many leading axes, an axis for every so many data of the smaller sample at
# most, and so many data of a sample.
_AXES = 50
_DATA_PER_AXIS = 4
_SPECTRUM_DATA = 2000

# Labels or eigenvalue problems of so many permutations are held at once.
_BLOCK = 100


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

    Args:
        name: A short key.
        real: The profile of each real datum.
        generated: The profile of each generated datum.
        label: What the elements are numbered by; the name, if not given.
        seed: The seed of the permutations.
        permutations: Their number B: p is a multiple of 1 / (B + 1).

    Raises:
        ValueError: If either sample is empty, they differ in the number of elements, or one is not finite.
    """
    _check(name, real, generated)
    n, m = len(real), len(generated)
    pooled = np.concatenate([real, generated]).astype(np.float64)
    # Each element by its own size: one may be in units a billion times another's.
    size = np.abs(pooled).max(0)
    pooled -= pooled.mean(0)
    # The variance of all data does not change under a permutation.
    error = pooled.std(0) * np.sqrt(1 / n + 1 / m)
    varies = error > 1e-14 * size
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
    generated: Real[np.ndarray, "m others"],
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
        ValueError: If either sample is empty, they differ in the number of elements, or one is not finite.
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
    options: dict[str, Any] = {"n_iter": 4, "transpose": False, "random_state": seed}
    left, scale, _ = randomized_svd(pooled, axes, **options)
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


def _check(name: str, real: np.ndarray, generated: np.ndarray) -> None:
    if not len(real) or not len(generated) or real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"{name} must have data of both, of as many elements, got shapes {real.shape} of real "
            f"and {generated.shape} of generated data."
        )
    # A sum that is no number is neither above nor below another: the p-value would be 0.
    bad = [int((~np.isfinite(data)).any(1).sum()) for data in (real, generated)]
    if any(bad):
        raise ValueError(
            f"{name} must have finite elements, got others in {bad[0]} real and {bad[1]} generated data."
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
