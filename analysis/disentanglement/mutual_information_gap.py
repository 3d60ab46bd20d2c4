"""MIG: for each factor, how much more the best coordinate knows of it than the second best."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.disentanglement.factors import Factors, check, gaps

# Of equal width between the least and the greatest code, as Locatello et al. (2019) have them.
BINS = 20
# With the factors shuffled so many times there is nothing to know, and what is found is the bias.
SHUFFLES = 20
# A coordinate is informative if some factor's information is this many standard deviations above
# what shuffled factors give: a chance of about 1e-6 for each of, say, 50 pairs.
DEVIATIONS = 5.0
# Bootstrap samples of the data behind a standard error.
REPEATS = 30


@dataclass(frozen=True)
class Information:
    """What each coordinate of a code, in bins, knows of each factor.

    Args:
        nats: I(z_i; v_j), the plug-in estimate. It is too high, see `bias`.
        entropies: H(v_j), in nats.
        bias: What the same estimate gives on average with the factors shuffled: what it is too high
            by where z_i and v_j are independent, about (bins - 1)(values - 1) / 2n, and roughly an
            upper bound elsewhere.
        noise: The standard deviation of that over shufflings.
        num_data: The number n of data.
    """

    nats: Float[np.ndarray, "dim factors"]
    entropies: Float[np.ndarray, " factors"]
    bias: Float[np.ndarray, "dim factors"]
    noise: Float[np.ndarray, "dim factors"]
    num_data: int

    @property
    def normalised(self) -> Float[np.ndarray, "dim factors"]:
        """I(z_i; v_j) / H(v_j), from 0 to 1: the share of a factor that a coordinate knows."""
        return self.nats / self.entropies

    @property
    def informative(self) -> Bool[np.ndarray, " dim"]:
        """Whether a coordinate knows more of some factor than of a shuffled one."""
        # Above rounding, which alone would let a constant coordinate pass.
        threshold = self.bias + DEVIATIONS * self.noise + 1e-9
        return np.asarray((self.nats > threshold).any(1))


def discretised(codes: Float[np.ndarray, "n dim"], bins: int = BINS) -> Int[np.ndarray, "n dim"]:
    """The number of each code's bin, of equal width from the least to the greatest of its coordinate.

    One code far from all others widens the bins until the rest share a few: look at the range before
    a low score is believed. A constant coordinate has one bin.

    Raises:
        ValueError: If there are fewer than 2 bins.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}.")
    exact = codes.astype(np.float64)
    low, width = exact.min(0), np.ptp(exact, axis=0)
    share = (exact - low) / np.where(width > 0, width, 1.0)
    return np.minimum((bins * share).astype(np.int64), bins - 1)


def information(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, bins: int = BINS, seed: int = 0
) -> Information:
    """I(z_i; v_j) = sum_{b, v} p(b, v) log(p(b, v) / (p(b) p(v))), p(b, v) the shares of the data.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        bins: The number of bins of equal width for each coordinate.
        seed: Of the shuffled factors that show the estimate's bias.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
    """
    check(codes, factors)
    binned = discretised(codes, bins)
    rng = np.random.default_rng(seed)
    shuffled = np.stack(
        [
            _mutual_information(binned, factors.taken(rng.permutation(len(factors))), bins)
            for _ in range(SHUFFLES)
        ]
    )
    return Information(
        _mutual_information(binned, factors, bins),
        np.array([_entropy(np.bincount(column)) for column in factors.values.T]),
        shuffled.mean(0),
        shuffled.std(0, ddof=1),
        len(codes),
    )


def mutual_information_gap(
    nats: Float[np.ndarray, "dim factors"], entropies: Float[np.ndarray, " factors"]
) -> Float[np.ndarray, " factors"]:
    """(I(z_(1); v) - I(z_(2); v)) / H(v) for each factor v; the score MIG is their mean.

    Args:
        nats: I(z_i; v_j).
        entropies: H(v_j), in the same unit.

    Returns:
        From 0, where two coordinates know equally much of a factor, to 1, where one knows it whole
        and no other anything. It is low for a code that is rotated, or holds a factor twice,
        however well the factor can be read from the code as a whole.

    Raises:
        UndefinedCheckError: If there is one coordinate only.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942;
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), https://arxiv.org/abs/1811.12359 (the bins)
    """
    return gaps(nats) / entropies


def resampled_information(
    codes: Float[np.ndarray, "n dim"],
    factors: Factors,
    *,
    bins: int = BINS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Float[np.ndarray, "repeats dim factors"]:
    """I(z_i; v_j) in nats of bootstrap samples of the data, for the spread of what is made of it.

    Their mean is shifted, as drawing data anew adds to the bias: only the spread is of use.
    """
    binned = discretised(codes, bins)
    rng = np.random.default_rng(seed)
    n = len(codes)
    draws = (rng.integers(n, size=n) for _ in range(repeats))
    return np.stack(
        [_mutual_information(binned[rows], factors.taken(rows), bins) for rows in draws]
    )


def largest_gap(factors: Factors, bins: int = BINS) -> float:
    """The MIG of a perfect code: each factor's own numbers, and no other coordinate that knows it.

    It is below 1 where a factor has more values than there are bins.
    """
    binned = discretised(factors.values.astype(np.float64), bins)
    own = np.diagonal(_mutual_information(binned, factors, bins))
    entropies = [_entropy(np.bincount(column)) for column in factors.values.T]
    return float((own / entropies).mean())


def _mutual_information(
    binned: Int[np.ndarray, "n dim"], factors: Factors, bins: int
) -> Float[np.ndarray, "dim factors"]:
    dim = binned.shape[1]
    known = []
    for values, size in zip(factors.values.T, factors.sizes, strict=True):
        # One table of counts for all coordinates, below one another.
        cells = (np.arange(dim) * bins + binned) * size + values[:, None]
        table = np.bincount(cells.ravel(), minlength=dim * bins * size).reshape(dim, bins, size)
        joint = np.array([_entropy(counts.ravel()) for counts in table])
        ours = np.array([_entropy(counts) for counts in table.sum(2)])
        known.append(ours + _entropy(table[0].sum(0)) - joint)
    # Rounding leaves -1e-16 of a zero.
    return np.maximum(np.stack(known, 1), 0.0)


def _entropy(counts: Int[np.ndarray, " cells"]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
