"""The FactorVAE metric: does the coordinate that moves least tell which factor is held fixed?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.check import UndefinedCheckError
from analysis.disentanglement.factors import Factors, SharedValues, check, halves

# Data in a group, and groups to learn from and to be judged by.
GROUP_SIZE = 64
TRAINING_GROUPS = 800
EVALUATION_GROUPS = 500
# Coordinates whose standard deviation is below this share of the largest are not asked: a code that
# is ignored by the decoder is nearly constant, yet may move a trifle with each factor. With the code
# of a VAE under a standard Normal prior the largest is about 1, and this the published threshold.
LEAST_SCALE = 0.05


@dataclass(frozen=True)
class GroupScore:
    """How often a factor is told from groups, or pairs, of codes that share its value.

    Args:
        accuracy: The share of groups whose factor is told, on data that it was not learned from.
        chance: What guessing gives, 1 / factors.
        groups: The number of groups judged.
    """

    accuracy: float
    chance: float
    groups: int

    @property
    def standard_error(self) -> float:
        """Binomial, over groups: the choice of data and of the model comes on top."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.groups))


def majority_vote_accuracy(
    training: Int[np.ndarray, "dim factors"], evaluation: Int[np.ndarray, "dim factors"]
) -> float:
    """sum_i evaluation_{i, c(i)} / sum_ij evaluation_ij with c(i) = argmax_j training_ij.

    Args:
        training: How many groups with factor j fixed had coordinate i move least.
        evaluation: The same for other groups. Where a coordinate has no training votes, it is wrong.
    """
    answers = training.argmax(1)
    right = evaluation[np.arange(len(evaluation)), answers]
    return float(right[training.sum(1) > 0].sum() / evaluation.sum())


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

    A group is `group_size` different data that share the value of one factor: the factor is drawn
    uniformly, the value as often as it occurs. The data are those given, no simulator is needed, so
    the other factors vary as they do among these, and should not depend on the fixed one. Training
    groups come from one half of the data, evaluation groups from the other; variances over all data
    are the scale. Values with fewer than `group_size` data in a half are not drawn in it.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        group_size: Data in a group.
        training_groups: Groups whose votes are the classifier.
        evaluation_groups: Groups that it is judged by.
        least_scale: Coordinates with a smaller standard deviation, as a share of the largest, have
            no vote.
        seed: Of the halves and the groups.

    Returns:
        From 1 / factors, chance, to 1. It is lenient: it asks that each factor has a coordinate of
        its own that it moves most clearly, not that this holds nothing else, so a rotated code may
        reach 1. It is 0 where all coordinates are constant, by convention.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.
        UndefinedCheckError: If a factor has no value with data enough for a group.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), section 4, https://arxiv.org/abs/1802.05983
    """
    check(codes, factors)
    exact = codes.astype(np.float64)
    scales = np.where(np.ptp(exact, axis=0) > 0, exact.std(0), 0.0)
    active = scales > least_scale * scales.max()
    count = len(factors.sizes)
    if not active.any():
        return GroupScore(0.0, 1 / count, evaluation_groups)
    standard = exact / np.where(active, scales, 1.0)
    rng = np.random.default_rng(seed)
    training, evaluation = (
        _votes(standard, active, shared_values(factors, rows, group_size), groups, group_size, rng)
        for rows, groups in zip(
            halves(len(codes), seed), (training_groups, evaluation_groups), strict=True
        )
    )
    accuracy = majority_vote_accuracy(training, evaluation)
    return GroupScore(accuracy, 1 / count, evaluation_groups)


def shared_values(
    factors: Factors, rows: Int[np.ndarray, " rows"], least: int
) -> list[SharedValues]:
    """For each factor, the rows to draw data from that share its value.

    Raises:
        UndefinedCheckError: If no value of a factor has so many.
    """
    shared = [SharedValues(values, rows, least) for values in factors.values.T]
    for name, mine, size in zip(factors.names, shared, factors.sizes, strict=True):
        if not len(mine):
            raise UndefinedCheckError(
                f"{name} has no value with {least} data in each half of the {len(factors)}: take "
                f"more data, about {4 * least * size}, or smaller groups."
            )
    return shared


def _votes(
    standard: Float[np.ndarray, "n dim"],
    active: Bool[np.ndarray, " dim"],
    shared: list[SharedValues],
    groups: int,
    size: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, "dim factors"]:
    votes = np.zeros((standard.shape[1], len(shared)), dtype=np.int64)
    for factor in rng.integers(len(shared), size=groups):
        variances = standard[shared[factor].group(size, rng)].var(0, ddof=1)
        votes[np.where(active, variances, np.inf).argmin(), factor] += 1
    return votes
