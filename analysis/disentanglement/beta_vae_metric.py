"""The beta-VAE metric: do differences of codes tell which factor two data share?"""

import numpy as np
from jaxtyping import Float, Int

from analysis.disentanglement.factor_vae_metric import GroupScore, shared_values
from analysis.disentanglement.factors import Factors, SharedValues, check, halves

# Pairs in a group, and groups to learn from and to be judged by.
PAIRS = 64
TRAINING_GROUPS = 2000
EVALUATION_GROUPS = 1000


def beta_vae_score(
    codes: Float[np.ndarray, "n dim"],
    factors: Factors,
    *,
    pairs: int = PAIRS,
    training_groups: int = TRAINING_GROUPS,
    evaluation_groups: int = EVALUATION_GROUPS,
    seed: int = 0,
) -> GroupScore:
    """P(factor = linear classifier of mean_l |z^(l) - z'^(l)|), where z^(l), z'^(l) share one factor.

    Each group draws its factor uniformly, and `pairs` data, each with another that has the same
    value. The mean absolute difference, one number a coordinate, goes to multinomial logistic
    regression on standardised features, learned from one half of the data and judged by the other.
    As for `factor_vae_score`, the data are those given.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        pairs: Pairs in a group.
        training_groups: Groups that the classifier learns from.
        evaluation_groups: Groups that it is judged by.
        seed: Of the halves and the groups.

    Returns:
        From 1 / factors, chance, to 1, the most lenient of all: 1 is reached by many codes that are
        rotated, since the differences need only have another pattern for each factor.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
        UndefinedCheckError: If a factor has no value with two data in a half, or there is one factor.

    References:
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et
        al., 2017), section 3, https://openreview.net/forum?id=Sy2fzU9gl
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check(codes, factors)
    rng = np.random.default_rng(seed)
    count = len(factors.sizes)
    training, evaluation = (
        _differences(codes.astype(np.float64), shared_values(factors, rows, 2), groups, pairs, rng)
        for rows, groups in zip(
            halves(len(codes), seed), (training_groups, evaluation_groups), strict=True
        )
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(*training)
    return GroupScore(float(classifier.score(*evaluation)), 1 / count, evaluation_groups)


def _differences(
    codes: Float[np.ndarray, "n dim"],
    shared: list[SharedValues],
    groups: int,
    pairs: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "groups dim"], Int[np.ndarray, " groups"]]:
    """Mean absolute differences, and the factor that the pairs of each group share."""
    # In the order of the factors, so that all groups of one are drawn at once.
    labels = np.sort(rng.integers(len(shared), size=groups))
    means = []
    for factor, mine in enumerate(shared):
        number = int((labels == factor).sum())
        first, second = mine.pairs(number * pairs, rng)
        apart = np.abs(codes[first] - codes[second])
        means.append(apart.reshape(number, pairs, codes.shape[1]).mean(1))
    return np.concatenate(means), labels
