"""DCI: disentanglement, completeness and informativeness, from what a forest needs for each factor."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.check import UndefinedCheckError
from analysis.disentanglement.factors import Factors, check, halves

# The forest of extremely randomised trees: so many, whose leaves hold at least so many data.
TREES = 30
LEAF = 10
# Shufflings of a coordinate, and the held-out data they are judged on.
SHUFFLES = 2
JUDGED = 4000
# A coordinate counts where the accuracy it is needed for is so many standard errors above 0.
DEVIATIONS = 3.0


@dataclass(frozen=True)
class Importance:
    """What predicts each factor.

    Args:
        matrix: R_ij, the share of coordinate i in what predicts factor j: non-negative, with columns
            that sum to 1, or to 0 where nothing predicts the factor.
        accuracies: Of the prediction of each factor, on data held out.
        guesses: The accuracy of guessing the most frequent value there.
        num_judged: The number of data held out.
    """

    matrix: Float[np.ndarray, "dim factors"]
    accuracies: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, " factors"]
    num_judged: int


def disentanglement_of(importance: Float[np.ndarray, "dim factors"]) -> float:
    """D = sum_i rho_i (1 - H(P_i) / log k), P_ij = R_ij / sum_j R_ij, rho_i = sum_j R_ij / sum_ij R_ij.

    Args:
        importance: R_ij >= 0, of coordinate i for factor j.

    Returns:
        1 if each coordinate is of use for one factor only; 0 if each is of equal use for all, and if
        none is of any use.

    Raises:
        ValueError: If an importance is negative.
        UndefinedCheckError: If there is one factor only.
    """
    return _unmixed(importance, "factors that vary")


def completeness_of(importance: Float[np.ndarray, "dim factors"]) -> float:
    """C = sum_j rho_j (1 - H(P_j) / log d), P_ij = R_ij / sum_i R_ij, rho_j = sum_i R_ij / sum_ij R_ij.

    Eastwood & Williams report it for each factor; with columns that sum to 1 this is their mean.

    Args:
        importance: R_ij >= 0, of coordinate i for factor j.

    Returns:
        1 if each factor is predicted from one coordinate; 0 if from all equally, and if from none.

    Raises:
        ValueError: If an importance is negative.
        UndefinedCheckError: If there is one coordinate only.
    """
    return _unmixed(importance.T, "coordinates")


def _unmixed(rows: Float[np.ndarray, "rows columns"], what: str) -> float:
    if rows.shape[1] < 2:
        raise UndefinedCheckError(f"this takes at least 2 {what}, got {rows.shape[1]}.")
    if (rows < 0).any():
        raise ValueError(f"importances must not be negative, got {rows.min():.3g}.")
    from scipy.special import entr

    weights = rows.sum(1)
    if not weights.sum() > 0:
        return 0.0
    shares = rows / np.where(weights > 0, weights, 1.0)[:, None]
    entropies = np.asarray(entr(shares)).sum(1)
    return float((weights * (1 - entropies / np.log(rows.shape[1]))).sum() / weights.sum())


def importance(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, trees: int = TREES, seed: int = 0
) -> Importance:
    """R_ij: the accuracy for factor j that a forest loses, held out, when z_i is shuffled.

    Half of the data, at random, grow a forest of extremely randomised trees for each factor, that
    may ask any coordinate in each node, and the others, 4,000 at most, are predicted. A loss within 3 standard errors of 0 is 0, so
    that noise has no importance, and the rest are divided by their sum over coordinates.

    The scores depend on this choice: compare them only with others by this function. The published
    comparison takes gradient boosting and the impurity that its nodes remove, which is many
    times slower with 40 values; and impurity counts what trees learn by heart, so coordinates of noise
    become important where a factor is hard to predict.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        trees: The number of trees of each forest.
        seed: Of the halves, the forests and the shuffling.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.

    References:
        A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood &
        Williams, 2018), section 2, https://openreview.net/forum?id=By-7dz-AZ
    """
    from sklearn.ensemble import ExtraTreesClassifier

    check(codes, factors)
    fitted, judged = halves(len(codes), seed)
    judged = judged[:JUDGED]
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "n_estimators": trees,
        "max_features": None,
        "min_samples_leaf": LEAF,
        "random_state": seed,
    }
    columns, accuracies, guesses = [], [], []
    for values in factors.values.T:
        forest = ExtraTreesClassifier(**options).fit(codes[fitted], values[fitted])
        losses, accuracy = _losses(forest, codes[judged], values[judged], rng)
        columns.append(losses / max(losses.sum(), np.finfo(float).tiny))
        accuracies.append(accuracy)
        guesses.append((values[judged] == np.bincount(values[fitted]).argmax()).mean())
    return Importance(np.stack(columns, 1), np.array(accuracies), np.array(guesses), len(judged))


def _losses(
    forest: Any,
    codes: Float[np.ndarray, "n dim"],
    values: Int[np.ndarray, " n"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " dim"], float]:
    """The accuracy that each coordinate is needed for, and the whole."""
    n, dim = codes.shape
    right = forest.predict(codes) == values
    losses = np.zeros(dim)
    # A coordinate that no node asks for is not needed.
    for i in np.flatnonzero(forest.feature_importances_):
        lost = np.zeros(n)
        for _ in range(SHUFFLES):
            shuffled = codes.copy()
            shuffled[:, i] = codes[rng.permutation(n), i]
            lost += (right.astype(float) - (forest.predict(shuffled) == values)) / SHUFFLES
        # With few data all may be lost alike, and the spread is 0.
        error = max(lost.std(ddof=1), 1 / np.sqrt(n)) / np.sqrt(n)
        if lost.mean() > DEVIATIONS * error:
            losses[i] = lost.mean()
    return losses, float(right.mean())
