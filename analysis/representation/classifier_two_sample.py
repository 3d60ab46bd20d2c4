"""Classifier two-sample test: how well a classifier separates held-out draws of two samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.comparison.p_values import holm

# With fewer draws in a sample, its halves are too small.
MIN_DRAWS = 20


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
