"""Scores from the mutual information of coordinates and factors: MIG and modularity."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.disentanglement.factors import Factors, best_gaps, check_codes
from analysis.result import UndefinedCheckError

# Bins of equal width between the smallest and the largest code, as in Locatello et al. (2019).
BINS = 20
# Permutations of the factors that estimate the bias where there is no information.
SHUFFLES = 20
# A coordinate is informative if its information on some factor is this many standard deviations
# above that of permuted factors: a chance of about 1e-6 for each of, say, 50 pairs.
DEVIATIONS = 5.0
# Bootstrap samples of the data behind a standard error.
REPEATS = 30


@dataclass(frozen=True)
class FactorInformation:
    """The mutual information of each binned coordinate of a code and each factor.

    Args:
        nats: I(z_i; v_j), the plug-in estimate, which is biased upwards.
        entropies: H(v_j), in nats.
        bias: The mean of the same estimate over permuted factors: its bias where z_i and v_j are
            independent, about (bins - 1)(values - 1) / 2n, and roughly an upper bound elsewhere.
        noise: Its standard deviation over permutations.
    """

    nats: Float[np.ndarray, "dim factors"]
    entropies: Float[np.ndarray, " factors"]
    bias: Float[np.ndarray, "dim factors"]
    noise: Float[np.ndarray, "dim factors"]

    @property
    def normalized(self) -> Float[np.ndarray, "dim factors"]:
        """I(z_i; v_j) / H(v_j), from 0 to 1: the share of a factor's entropy."""
        return self.nats / self.entropies

    @property
    def informative(self) -> Bool[np.ndarray, " dim"]:
        """Whether a coordinate has more information on some factor than on a permuted one."""
        # Above rounding errors, which alone would let a constant coordinate pass.
        threshold = self.bias + DEVIATIONS * self.noise + 1e-9
        return np.asarray((self.nats > threshold).any(1))


def factor_information(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, bins: int = BINS, seed: int = 0
) -> FactorInformation:
    """I(z_i; v_j) = sum_{b, v} p(b, v) log(p(b, v) / (p(b) p(v))), p(b, v) the shares of the data.

    Codes are cut into `bins` of equal width; the bias is estimated by permutations.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
    """
    check_codes(codes, factors)
    binned = discretize(codes, bins)
    rng = np.random.default_rng(seed)
    permuted = np.stack(
        [
            _mutual_information(binned, factors.take(rng.permutation(len(factors))), bins)
            for _ in range(SHUFFLES)
        ]
    )
    return FactorInformation(
        _mutual_information(binned, factors, bins),
        _entropies(factors),
        permuted.mean(0),
        permuted.std(0, ddof=1),
    )


def bootstrap_information(
    codes: Float[np.ndarray, "n dim"],
    factors: Factors,
    *,
    bins: int = BINS,
    repeats: int = REPEATS,
    seed: int = 0,
) -> Float[np.ndarray, "repeats dim factors"]:
    """I(z_i; v_j) in nats of bootstrap samples of the data.

    Only their spread is of use: resampling adds to the bias, so that their mean is shifted.
    """
    binned = discretize(codes, bins)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(codes), size=len(codes)) for _ in range(repeats))
    return np.stack(
        [_mutual_information(binned[rows], factors.take(rows), bins) for rows in draws]
    )


def discretize(codes: Float[np.ndarray, "n dim"], bins: int = BINS) -> Int[np.ndarray, "n dim"]:
    """Assign codes to bins of equal width over the range of each coordinate.

    An outlier widens the bins until all other codes share a few: check the range before believing
    a low score. A constant coordinate has one bin.

    Raises:
        ValueError: If there are fewer than 2 bins.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}.")
    exact = codes.astype(np.float64)
    low, width = exact.min(0), np.ptp(exact, axis=0)
    share = (exact - low) / np.where(width > 0, width, 1.0)
    return np.minimum((bins * share).astype(np.int64), bins - 1)


def mutual_information_gap(
    nats: Float[np.ndarray, "dim factors"], entropies: Float[np.ndarray, " factors"]
) -> Float[np.ndarray, " factors"]:
    """(I(z_(1); v) - I(z_(2); v)) / H(v) for each factor v; the score MIG is their mean.

    Returns:
        From 0, where two coordinates are equally informative on a factor, to 1, where one
        determines it and no other is informative. It is low for a rotated code, or one that holds
        a factor twice, however well the factor can be read from the whole code.

    Raises:
        UndefinedCheckError: If there is only one coordinate.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942;
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), https://arxiv.org/abs/1811.12359 (the bins)
    """
    return best_gaps(nats) / entropies


def maximum_gap(factors: Factors, bins: int = BINS) -> float:
    """The MIG of the factors themselves: below 1 if one has more values than bins."""
    binned = discretize(factors.values.astype(np.float64), bins)
    own = np.diagonal(_mutual_information(binned, factors, bins))
    return float((own / _entropies(factors)).mean())


def modularity(nats: Float[np.ndarray, "dim factors"]) -> Float[np.ndarray, " dim"]:
    """1 - sum_{j != j*} I_ij^2 / (I_ij*^2 (k - 1)) of coordinate i, j* its best of k factors.

    Returns:
        1 for a coordinate that is informative on one factor only, 0 for one that is equally
        informative on all, and 0 for one without information, as in
        google-research/disentanglement_lib. An estimate of I is never exactly 0, so that a
        coordinate of noise has an arbitrary value: see `mean_modularity`.

    Raises:
        UndefinedCheckError: If there is only one factor.

    References:
        Learning Deep Disentangled Embeddings With the F-Statistic Loss (Ridgeway & Mozer, 2018),
        section 3, https://arxiv.org/abs/1802.05312
    """
    if nats.shape[1] < 2:
        raise UndefinedCheckError("modularity needs at least 2 factors that vary, got 1.")
    squares = nats**2
    best = squares.max(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (squares.sum(1) - best) / (best * (nats.shape[1] - 1))
    return np.where(best > 0, 1 - ratio, 0.0)


def mean_modularity(
    nats: Float[np.ndarray, "dim factors"], informative: Bool[np.ndarray, " dim"]
) -> float:
    """The mean modularity of informative coordinates; 0 if there is none.

    The published comparison averages over all d coordinates, which multiplies this number by d' /
    d if d' are informative and the others constant, and is arbitrary if they are noise. A factor
    held by several coordinates does not lower it. As information is squared, it is lenient:
    dSprites' five factors, rotated at random in five coordinates, still have about 0.9.
    """
    values = modularity(nats)[informative]
    return float(values.mean()) if len(values) else 0.0


def _mutual_information(binned: np.ndarray, factors: Factors, bins: int) -> np.ndarray:
    dim = binned.shape[1]
    columns = []
    for values, size in zip(factors.values.T, factors.sizes, strict=True):
        # One table of counts for all coordinates.
        cells = (np.arange(dim) * bins + binned) * size + values[:, None]
        table = np.bincount(cells.ravel(), minlength=dim * bins * size).reshape(dim, bins, size)
        joint = np.array([_entropy(counts.ravel()) for counts in table])
        marginal = np.array([_entropy(counts) for counts in table.sum(2)])
        columns.append(marginal + _entropy(table[0].sum(0)) - joint)
    # Rounding turns some zeros into -1e-16.
    return np.maximum(np.stack(columns, 1), 0.0)


def _entropies(factors: Factors) -> np.ndarray:
    return np.array([_entropy(np.bincount(column)) for column in factors.values.T])


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
