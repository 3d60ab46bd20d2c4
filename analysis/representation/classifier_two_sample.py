"""Can a classifier tell two samples apart? Of codes of data and draws of the prior."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.comparison.p_values import holm

# Fewer draws of a sample leave too few for either half.
FEWEST = 20
# Codes are told apart if a p-value, adjusted for the two classifiers, is below it.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ToldApart:
    """How well two classifiers tell a held-out half of two samples apart.

    Args:
        auroc: By classifier, "quadratic" and "trees": among pairs of one of each sample, the share in
            which the score of the first is larger. 0.5 is chance.
        p_value: The smallest of both, adjusted by Holm's method: of a larger area by chance.
        num_held_out: How many of both samples were scored.
    """

    auroc: dict[str, float]
    p_value: float
    num_held_out: int

    @property
    def best(self) -> float:
        """The larger area."""
        return max(self.auroc.values())


def told_apart(
    first: Float[np.ndarray, "n dim"], second: Float[np.ndarray, "m others"], *, seed: int = 0
) -> ToldApart:
    """P(s(first) > s(second)) of a classifier's score s, fitted on one half and taken on the other.

    On the half that did not fit it a score is one number for each draw, and its rank sum has a known
    distribution if both samples have one: the p-value is right whatever the classifier. Folds that
    are scored by one another's classifiers depend on each other, and have no such p-value.

    Two classifiers: a linear one on coordinates and their products, which finds shifts, scales and
    correlations, and boosted trees with the distance from the centre, which find lumps and holes.

    Args:
        first: Draws, independent of each other.
        second: Draws, independent of each other.
        seed: The seed of the halves and of the classifiers.

    Raises:
        ValueError: If either sample has fewer than 20 draws, or they differ in dimension.

    References:
        Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017),
        https://arxiv.org/abs/1610.06545
    """
    from scipy.stats import mannwhitneyu

    if min(len(first), len(second)) < FEWEST or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"both samples must have at least {FEWEST} draws of one dimension, got shapes "
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
        # The trees' scores tie where they end in the same leaves.
        statistic, p_value = np.asarray(
            mannwhitneyu(score[:split], score[split:], alternative="greater", method="asymptotic")
        )
        auroc[name] = float(statistic) / (split * (len(score) - split))
        p_values.append(float(p_value))
    return ToldApart(auroc, float(holm(np.array(p_values)).min()), len(held_out))


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
            # Strong: there may be more products than draws.
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
    """The coordinates and the square of the distance from 0, the centre of most priors."""
    return np.column_stack([z, (z**2).sum(1)])
