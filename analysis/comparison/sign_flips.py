"""Sign flips of whole images: a test that contributions, dependent within an image, have mean zero.

Elements of one image depend on one another in ways nobody knows, and images do not. So an image is
what is resampled. If every contribution has mean zero, one image's contributions with the opposite sign
are about as likely, and a thousand random choices of signs show how far sums go by chance.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Real

# How many choices of signs. The smallest p-value is one over one more.
NUM_FLIPS = 1999

# Of the largest |t|: what goes beyond is called a failure, once in twenty true models.
LEVEL = 0.05

# Numbers held at a time.
_HELD = 10_000_000


@dataclass(frozen=True)
class SignFlips:
    """Sums over images in units of their standard errors, held against flips of the images' signs.

    Args:
        t: The sum of each column of scores over its standard error; not a number where it was left out.
        p_value: P(max |t| of flipped scores >= max |t|), over all columns; None if all were left out.
        threshold: The |t| that the largest of all columns exceeds by chance in 5 % of cases.
        fails: The columns whose |t| is above it: one or more of them by chance in 5 % of cases.
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
    """t_k = sum_n s_nk / sqrt(sum_n s_nk^2), and max_k |t_k| against max_k |sum_n e_n s_nk| / sqrt(...), e_n = +-1.

    A p-value below 0.05 says that some column's mean is not zero. All columns are flipped together, so
    that their dependence is kept and the largest of many is compared with the largest of as many.

    Args:
        scores: A row of contributions for each image.
        seed: The seed of the signs.
        least_variance: A variance of each column's sum that is known to hold if all is well. Where few
            and rare events make a sum, the observed one may be far smaller; the larger is used.
        keep: The columns to look at; all others are left out. Columns of zeros are, too.
        num_flips: The number of choices of signs.

    Raises:
        ValueError: If there are fewer than two images.

    References:
        Bootstrap and wild bootstrap for high dimensional linear models (Mammen, 1993),
        https://doi.org/10.1214/aos/1176349025; Resampling-based multiple testing (Westfall & Young, 1993)
    """
    scores = np.asarray(scores, np.float64)
    if len(scores) < 2:
        raise ValueError(f"sign flips need at least two data, got {len(scores)}.")
    variance = np.einsum("nk,nk->k", scores, scores)
    if least_variance is not None:
        variance = np.maximum(variance, least_variance)
    kept = variance > 0 if keep is None else keep & (variance > 0)
    t = np.full(scores.shape[1], np.nan)
    if not kept.any():
        return SignFlips(t, None, None, kept)
    scaled = scores[:, kept] / np.sqrt(variance[kept])
    t[kept] = scaled.sum(0)
    largest = largest_flipped(scaled, seed=seed, num_flips=num_flips)
    top = np.abs(t[kept]).max()
    # Equal sums, but for rounding, count as equal.
    p_value = (1 + (largest >= top * (1 - 1e-9)).sum()) / (1 + num_flips)
    threshold = float(np.quantile(largest, 1 - LEVEL))
    fails = kept.copy()
    fails[kept] = np.abs(t[kept]) > threshold
    return SignFlips(t, float(p_value), threshold, fails)


def largest_flipped(
    scores: Float[np.ndarray, "n columns"], *, seed: int, num_flips: int = NUM_FLIPS
) -> Float[np.ndarray, " flips"]:
    """max_k |sum_n e_n s_nk| for each choice of signs e."""
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
    """The percentile interval of sum_n a_nk / sum_n b_nk when whole images are drawn with replacement.

    Args:
        numerator: a.
        denominator: b, at least 0. A resample in which it sums to zero does not count.
        seed: The seed of the draws.
        num_resamples: How many resamples.
        level: The interval's nominal share.
    """
    generator = np.random.default_rng(seed)
    n = len(numerator)
    times = generator.multinomial(n, np.full(n, 1 / n), num_resamples).astype(np.float64)
    total = times @ denominator
    ratio = np.full(total.shape, np.nan)
    np.divide(times @ numerator, total, out=ratio, where=total > 0)
    tail = (1 - level) / 2
    return np.nanquantile(ratio, [tail, 1 - tail], axis=0)
