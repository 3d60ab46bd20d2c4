"""The FactorVAE and beta-VAE scores: can a shared factor be identified from groups of codes?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analysis.check import UndefinedCheckError
from analysis.disentanglement.factors import (
    Factors,
    SharedValueSampler,
    check_codes,
    split_halves,
)

# FactorVAE: data in a group, and training and evaluation groups.
GROUP_SIZE = 64
TRAINING_GROUPS = 800
EVALUATION_GROUPS = 500
# Coordinates whose standard deviation is below this share of the largest have no vote: a code that
# the decoder ignores is nearly constant, yet may vary slightly with each factor. For a VAE with a
# standard normal prior the largest is about 1, and this is the published threshold.
LEAST_SCALE = 0.05
# beta-VAE: pairs in a group, and training and evaluation groups.
PAIRS = 64
PAIR_TRAINING_GROUPS = 2000
PAIR_EVALUATION_GROUPS = 1000


@dataclass(frozen=True)
class GroupScore:
    """The accuracy with which the factor shared by a group of codes is identified.

    Args:
        accuracy: The share of groups whose factor is identified, on held-out data.
        chance: The accuracy of guessing, 1 / factors.
        groups: The number of evaluated groups.
    """

    accuracy: float
    chance: float
    groups: int

    @property
    def standard_error(self) -> float:
        """Binomial over groups; the variation over data and trained models is not included."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.groups))


def majority_vote_accuracy(
    training: Int[np.ndarray, "dim factors"], evaluation: Int[np.ndarray, "dim factors"]
) -> float:
    """sum_i evaluation_{i, c(i)} / sum_ij evaluation_ij with c(i) = argmax_j training_ij.

    The entries count groups with factor j fixed in which coordinate i varied least. A coordinate
    without training votes is always wrong.
    """
    correct = evaluation[np.arange(len(evaluation)), training.argmax(1)]
    return float(correct[training.sum(1) > 0].sum() / evaluation.sum())


def factor_vae_score(
    codes: Float[np.ndarray, "n dim"],
    factors: Factors,
    *,
    group_size: int = GROUP_SIZE,
    training_groups: int = TRAINING_GROUPS,
    evaluation_groups: int = EVALUATION_GROUPS,
    least_scale: float = LEAST_SCALE,
    seed: int = 0,
) -> GroupScore:
    """P(factor = majority vote of argmin_i Var(z_i | one factor fixed) / Var(z_i)).

    A group is `group_size` distinct data that share the value of one factor: the factor is drawn
    uniformly, the value as often as it occurs. No simulator is needed; the other factors vary as
    they do in the data, and should not depend on the fixed one. Training groups come from one half
    of the data, evaluation groups from the other. Values with fewer than `group_size` data in a
    half are not drawn in it. Coordinates with a standard deviation below `least_scale` of the
    largest have no vote.

    Returns:
        From 1 / factors, chance, to 1. The score is lenient: it asks that each factor has a
        coordinate that it dominates, not that this coordinate holds nothing else, so a rotated
        code may reach 1. By convention it is 0 where all coordinates are constant.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
        UndefinedCheckError: If a factor has no value with enough data for a group.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), section 4,
        https://arxiv.org/abs/1802.05983
    """
    check_codes(codes, factors)
    exact = codes.astype(np.float64)
    scales = np.where(np.ptp(exact, axis=0) > 0, exact.std(0), 0.0)
    active = scales > least_scale * scales.max()
    count = len(factors.sizes)
    if not active.any():
        return GroupScore(0.0, 1 / count, evaluation_groups)
    standardized = exact / np.where(active, scales, 1.0)
    rng = np.random.default_rng(seed)
    votes = []
    for rows, groups in zip(
        split_halves(len(codes), seed), (training_groups, evaluation_groups), strict=True
    ):
        samplers = shared_value_samplers(factors, rows, group_size)
        votes.append(np.zeros((codes.shape[1], count), dtype=np.int64))
        for factor in rng.integers(count, size=groups):
            variances = standardized[samplers[factor].group(group_size, rng)].var(0, ddof=1)
            votes[-1][np.where(active, variances, np.inf).argmin(), factor] += 1
    return GroupScore(majority_vote_accuracy(*votes), 1 / count, evaluation_groups)


def beta_vae_score(
    codes: Float[np.ndarray, "n dim"],
    factors: Factors,
    *,
    pairs: int = PAIRS,
    training_groups: int = PAIR_TRAINING_GROUPS,
    evaluation_groups: int = PAIR_EVALUATION_GROUPS,
    seed: int = 0,
) -> GroupScore:
    """P(factor = linear classifier of mean_l |z^(l) - z'^(l)|), where z^(l), z'^(l) share one factor.

    Each group draws its factor uniformly, and `pairs` data, each with another of the same value.
    The mean absolute difference of each coordinate is the input of multinomial logistic regression
    on standardized features, fitted on one half of the data and evaluated on the other.

    Returns:
        From 1 / factors, chance, to 1. The most lenient score: many rotated codes reach 1, since
        the differences need only have a different pattern for each factor.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
        UndefinedCheckError: If a factor has no value with two data in a half.

    References:
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins
        et al., 2017), section 3, https://openreview.net/forum?id=Sy2fzU9gl
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_codes(codes, factors)
    rng = np.random.default_rng(seed)
    exact, count = codes.astype(np.float64), len(factors.sizes)
    sets = []
    for rows, groups in zip(
        split_halves(len(codes), seed), (training_groups, evaluation_groups), strict=True
    ):
        # Sorted, so that all groups of a factor are drawn at once.
        labels = np.sort(rng.integers(count, size=groups))
        means = []
        for factor, sampler in enumerate(shared_value_samplers(factors, rows, 2)):
            number = int((labels == factor).sum())
            first, second = sampler.pairs(number * pairs, rng)
            difference = np.abs(exact[first] - exact[second])
            means.append(difference.reshape(number, pairs, codes.shape[1]).mean(1))
        sets.append((np.concatenate(means), labels))
    training, evaluation = sets
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(*training)
    return GroupScore(float(classifier.score(*evaluation)), 1 / count, evaluation_groups)


def shared_value_samplers(
    factors: Factors, rows: Int[np.ndarray, " rows"], least: int
) -> list[SharedValueSampler]:
    """One sampler for each factor.

    Raises:
        UndefinedCheckError: If no value of a factor has `least` rows.
    """
    samplers = [SharedValueSampler(values, rows, least) for values in factors.values.T]
    for name, sampler, size in zip(factors.names, samplers, factors.sizes, strict=True):
        if not len(sampler):
            raise UndefinedCheckError(
                f"{name} has no value with {least} data in each half of the {len(factors)}: use "
                f"about {4 * least * size} data, or smaller groups."
            )
    return samplers
