"""SAP: for each factor, how much better the best coordinate alone predicts it than the second best."""

import numpy as np
from jaxtyping import Float, Int

from analysis.disentanglement.factors import Factors, check, gaps, halves


def separated_predictability(
    scores: Float[np.ndarray, "dim factors"],
) -> Float[np.ndarray, " factors"]:
    """S_(1)j - S_(2)j for each factor j; the score SAP is their mean.

    Args:
        scores: How well coordinate i alone predicts factor j: see `threshold_accuracies` and
            `squared_correlations`.

    Returns:
        From 0, where two coordinates predict a factor equally well, to, for accuracies,
        1 - 1 / values, as the second coordinate still guesses one value, and for R^2, 1.

    Raises:
        UndefinedCheckError: If there is one coordinate only.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et
        al., 2018), section 3, https://arxiv.org/abs/1711.00848
    """
    return gaps(scores)


def threshold_accuracies(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, seed: int = 0
) -> Float[np.ndarray, "dim factors"]:
    """The balanced held-out accuracy of thresholds on z_i that predict v_j.

    The thresholds lie halfway between the means of neighbouring values: the linear discriminant of
    one coordinate with equal weight for each value. Half of the data, at random, give the thresholds,
    the others are predicted. The published comparison fits a support vector machine, one value
    against all others, in whose hands even a perfect code of an ordered factor loses the values
    between the first and the last: its numbers are lower, and not to be compared with these.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        seed: Of the halves.

    Returns:
        The mean over values of the share that is predicted. Chance is 1 / values.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
    """
    check(codes, factors)
    fitted, judged = halves(len(codes), seed)
    accuracies = np.empty((codes.shape[1], len(factors.sizes)))
    for j, (values, size) in enumerate(zip(factors.values.T, factors.sizes, strict=True)):
        for i, z in enumerate(codes.astype(np.float64).T):
            predicted = _nearest_mean(z[fitted], values[fitted], z[judged])
            accuracies[i, j] = _balanced_accuracy(predicted, values[judged], size)
    return accuracies


def squared_correlations(
    codes: Float[np.ndarray, "n dim"], factors: Factors
) -> Float[np.ndarray, "dim factors"]:
    """R^2 = Cov(z_i, v_j)^2 / (Var z_i Var v_j), for factors whose numbers are in order.

    It misjudges what is not ordered, such as shapes, and what comes round again, such as angles. A
    constant coordinate has 0.
    """
    check(codes, factors)
    z = codes.astype(np.float64) - codes.mean(0, dtype=np.float64)
    v = factors.values - factors.values.mean(0)
    constant = np.ptp(codes, axis=0) == 0
    variances = np.where(constant, 1.0, (z**2).mean(0))[:, None] * (v**2).mean(0)
    return np.where(constant[:, None], 0.0, (z.T @ v / len(z)) ** 2 / variances)


def _nearest_mean(
    z: Float[np.ndarray, " fitted"],
    values: Int[np.ndarray, " fitted"],
    new: Float[np.ndarray, " judged"],
) -> Int[np.ndarray, " judged"]:
    """The value whose mean code is nearest."""
    counts = np.bincount(values)
    present = np.flatnonzero(counts)
    means = np.bincount(values, weights=z)[present] / counts[present]
    order = np.argsort(means, kind="stable")
    means = means[order]
    thresholds = (means[1:] + means[:-1]) / 2
    return present[order][np.searchsorted(thresholds, new)]


def _balanced_accuracy(
    predicted: Int[np.ndarray, " n"], values: Int[np.ndarray, " n"], size: int
) -> float:
    counts = np.bincount(values, minlength=size)
    right = np.bincount(values, weights=predicted == values, minlength=size)
    return float((right[counts > 0] / counts[counts > 0]).mean())
