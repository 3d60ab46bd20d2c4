"""Hypothesis tests: sign flips of whole examples, a classifier of two samples, Holm's method.

Elements of an example depend on one another in unknown ways, and examples do not. So whole
examples are resampled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

# The number of sign flips; the smallest p-value is 1 / (NUM_FLIPS + 1).
NUM_FLIPS = 1999
# The family-wise level at which the largest |t| counts as a failure.
LEVEL = 0.05
# The most numbers of sign flips that are held at a time.
_HELD = 10_000_000
# With fewer draws in a sample of the classifier test, its halves are too small.
MIN_DRAWS = 20


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """P-values adjusted by Holm's method, to compare with the family-wise level.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.5]))
    array([0.04, 0.09, 0.09, 0.5 ])

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def p_text(p_value: float) -> str:
    """The text after "p".

    >>> p_text(0.00004), p_text(0.25)
    ('< 0.001', '= 0.250')
    """
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


@dataclass(frozen=True)
class SignFlips:
    """Sums over examples in units of their standard errors, compared with random sign flips.

    Args:
        t: The sum of each column of scores over its standard error; NaN where it was left out.
        p_value: P(max |t| of flipped scores >= max |t|), over all columns; None if all were left
            out.
        threshold: The |t| that the largest of all columns exceeds by chance in 5 % of cases.
        fails: The columns whose |t| is above it.
    """

    t: Float[np.ndarray, " columns"]
    p_value: float | None
    threshold: float | None
    fails: Bool[np.ndarray, " columns"]


def sign_flips(
    scores: Real[np.ndarray, "n columns"],
    *,
    seed: int,
    least_variance: Real[np.ndarray, " columns"] | None = None,
    keep: Bool[np.ndarray, " columns"] | None = None,
    num_flips: int = NUM_FLIPS,
) -> SignFlips:
    """t_k = sum_n s_nk / sqrt(sum_n s_nk^2), and the largest |t_k| against random signs of s_n.

    A p-value below 0.05 says that the mean of some column is not zero. All columns are flipped
    together, so that their dependence is kept, and the p-value is corrected for their number.

    Args:
        scores: One row of contributions per example.
        seed: The seed of the signs.
        least_variance: The variance of each column's sum under the null hypothesis, if known.
            Where a sum has few and rare contributions the observed one may be far smaller; the
            larger is used.
        keep: The columns to test. Columns of zeros are left out in any case.
        num_flips: The number of sign flips.

    Raises:
        ValueError: If there are fewer than two examples.

    References:
        Bootstrap and wild bootstrap for high dimensional linear models (Mammen, 1993),
        https://doi.org/10.1214/aos/1176349025; Resampling-based multiple testing (Westfall &
        Young, 1993)
    """
    scores = np.asarray(scores, np.float64)
    if len(scores) < 2:
        raise ValueError(f"sign flips need at least two data, got {len(scores)}.")
    variance = np.einsum("nk,nk->k", scores, scores)
    if least_variance is not None:
        variance = np.maximum(variance, least_variance)
    tested = variance > 0 if keep is None else keep & (variance > 0)
    t = np.full(scores.shape[1], np.nan)
    if not tested.any():
        return SignFlips(t, None, None, tested)
    scaled = scores[:, tested] / np.sqrt(variance[tested])
    t[tested] = scaled.sum(0)
    largest = largest_flipped_statistic(scaled, seed=seed, num_flips=num_flips)
    top = np.abs(t[tested]).max()
    # Sums that differ by rounding only count as equal.
    p_value = (1 + (largest >= top * (1 - 1e-9)).sum()) / (1 + num_flips)
    threshold = float(np.quantile(largest, 1 - LEVEL))
    fails = tested.copy()
    fails[tested] = np.abs(t[tested]) > threshold
    return SignFlips(t, float(p_value), threshold, fails)


def largest_flipped_statistic(
    scores: Float[np.ndarray, "n columns"], *, seed: int, num_flips: int = NUM_FLIPS
) -> Float[np.ndarray, " flips"]:
    """max_k |sum_n e_n s_nk| for each draw of signs e."""
    generator = np.random.default_rng(seed)
    n, columns = scores.shape
    size = max(1, _HELD // max(n, columns))
    parts = []
    for start in range(0, num_flips, size):
        signs = 2.0 * generator.integers(0, 2, (min(size, num_flips - start), n)) - 1
        parts.append(np.abs(signs @ scores).max(1))
    return np.concatenate(parts)


def bootstrap_interval(
    numerator: Real[np.ndarray, "n columns"],
    denominator: Real[np.ndarray, "n columns"],
    *,
    seed: int,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Float[np.ndarray, "2 columns"]:
    """The percentile interval of sum_n a_nk / sum_n b_nk, of nominal coverage `level`.

    Resamples in which the denominator, at least 0, sums to zero do not count.
    """
    generator = np.random.default_rng(seed)
    n = len(numerator)
    times = generator.multinomial(n, np.full(n, 1 / n), num_resamples).astype(np.float64)
    total = times @ denominator
    ratio = np.full(total.shape, np.nan)
    np.divide(times @ numerator, total, out=ratio, where=total > 0)
    tail = (1 - level) / 2
    return np.nanquantile(ratio, [tail, 1 - tail], axis=0)


@dataclass(frozen=True)
class TwoSampleTest:
    """How well two classifiers separate held-out halves of two samples.

    Args:
        auroc: By classifier, "quadratic" and "trees": the share of pairs, one of each sample, in
            which the first scores higher. 0.5 is chance.
        p_value: The smaller of both after Holm's correction: the probability of a larger area by
            chance.
        num_held_out: The number of scored draws of both samples.
    """

    auroc: dict[str, float]
    p_value: float
    num_held_out: int

    @property
    def best(self) -> float:
        """The larger of both areas."""
        return max(self.auroc.values())


def two_sample_test(
    first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m others"], *, seed: int = 0
) -> TwoSampleTest:
    """P(s(first) > s(second)) for a score s, fitted on one half and evaluated on the other.

    On the held-out half the rank sum of the scores has a known distribution if both samples have
    the same one: the p-value is valid for any classifier. Cross-validated folds depend on each
    other and have no such p-value.

    The classifiers are a linear one on coordinates and their products, which detects shifts,
    scales and correlations, and boosted trees with the distance from the centre, which detect
    lumps and holes.

    Args:
        first: Independent draws.
        second: Independent draws.
        seed: The seed of the halves and of the classifiers.

    Raises:
        ValueError: If either sample has fewer than 20 draws, or they differ in dimension.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017),
        https://arxiv.org/abs/1610.06545
    """
    from scipy.stats import mannwhitneyu

    if min(len(first), len(second)) < MIN_DRAWS or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"both samples must have at least {MIN_DRAWS} draws of one dimension, got shapes "
            f"{first.shape} and {second.shape}."
        )
    rng = np.random.default_rng(seed)
    halves = []
    for sample in (first, second):
        order = rng.permutation(len(sample))
        halves.append((sample[order[::2]], sample[order[1::2]]))
    train = np.concatenate([half[0] for half in halves])
    is_first = np.arange(len(train)) < len(halves[0][0])
    held_out = np.concatenate([half[1] for half in halves])
    split = len(halves[0][1])
    auroc, p_values = {}, []
    for name, classifier in _classifiers(seed).items():
        score = classifier.fit(train, is_first).decision_function(held_out)
        # The trees' scores tie within a leaf.
        statistic, p_value = np.asarray(
            mannwhitneyu(score[:split], score[split:], alternative="greater", method="asymptotic")
        )
        auroc[name] = float(statistic) / (split * (len(score) - split))
        p_values.append(float(p_value))
    return TwoSampleTest(auroc, float(holm(np.array(p_values)).min()), len(held_out))


def _classifiers(seed: int) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

    return {
        "quadratic": make_pipeline(
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            # Strong regularisation: there may be more products than draws.
            LogisticRegression(C=0.01, max_iter=300),
        ),
        "trees": make_pipeline(
            FunctionTransformer(_with_distance),
            HistGradientBoostingClassifier(
                max_iter=60, learning_rate=0.1, max_leaf_nodes=15, random_state=seed
            ),
        ),
    }


def _with_distance(z: np.ndarray) -> np.ndarray:
    """Append the squared distance from 0, the centre of most priors."""
    return np.column_stack([z, (z**2).sum(1)])
