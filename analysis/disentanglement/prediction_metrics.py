"""Scores from predicting factors: SAP and DCI from codes, FactorVAE and beta-VAE from groups."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.disentanglement.factors import (
    Factors,
    SharedValueSampler,
    check_codes,
    split_halves,
)
from analysis.result import UndefinedCheckError

# The forests of extremely randomized trees: their number of trees, and of data in a leaf.
TREES = 30
LEAF = 10
# Permutations of a coordinate, and the held-out data they are evaluated on.
SHUFFLES = 2
EVALUATED = 4000
# A coordinate counts if the loss of accuracy is this many standard errors above 0.
DEVIATIONS = 3.0


def threshold_accuracies(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, seed: int = 0
) -> Float[np.ndarray, "dim factors"]:
    """The balanced held-out accuracy of predicting v_j by thresholds on z_i.

    The thresholds lie halfway between the means of neighbouring values: the linear discriminant of
    one coordinate with equal weight for each value. They are fitted on a random half of the data
    and evaluated on the other. The score SAP is the mean over factors of their `best_gaps`, at
    most 1 - 1 / values, as the second-best coordinate still guesses one value. The published
    comparison fits one-vs-rest support vector machines, which lose the middle values of an ordered
    factor even for a perfect code: its numbers are lower, and not comparable with these.

    Returns:
        The mean over values of the share that is predicted. Chance is 1 / values.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et
        al., 2018), section 3, https://arxiv.org/abs/1711.00848
    """
    check_codes(codes, factors)
    train, test = split_halves(len(codes), seed)
    accuracies = np.empty((codes.shape[1], len(factors.sizes)))
    for j, (values, size) in enumerate(zip(factors.values.T, factors.sizes, strict=True)):
        counts = np.bincount(values[test], minlength=size)
        for i, z in enumerate(codes.astype(np.float64).T):
            correct = _nearest_mean(z[train], values[train], z[test]) == values[test]
            hits = np.bincount(values[test], weights=correct, minlength=size)
            accuracies[i, j] = (hits[counts > 0] / counts[counts > 0]).mean()
    return accuracies


def _nearest_mean(z: np.ndarray, values: np.ndarray, new: np.ndarray) -> np.ndarray:
    counts = np.bincount(values)
    present = np.flatnonzero(counts)
    means = np.bincount(values, weights=z)[present] / counts[present]
    order = np.argsort(means, kind="stable")
    thresholds = (means[order][1:] + means[order][:-1]) / 2
    return present[order][np.searchsorted(thresholds, new)]


@dataclass(frozen=True)
class Importance:
    """The importance of each coordinate for the prediction of each factor.

    Args:
        matrix: R_ij, the share of coordinate i in the prediction of factor j: non-negative, with
            columns that sum to 1, or to 0 where nothing predicts the factor.
        accuracies: The held-out accuracy for each factor.
        guesses: The accuracy of predicting the most frequent value.
        num_evaluated: The number of held-out data.
    """

    matrix: Float[np.ndarray, "dim factors"]
    accuracies: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, " factors"]
    num_evaluated: int


def dci_scores(importance: Float[np.ndarray, "dim factors"]) -> tuple[float, float]:
    """Disentanglement and completeness of DCI, from importances R_ij >= 0 of z_i for v_j.

    D = sum_i rho_i (1 - H(P_i) / log k), P_ij = R_ij / sum_j R_ij, rho_i = sum_j R_ij / sum_ij
    R_ij; and C is the same of the transpose, with log d. Eastwood & Williams report C for each
    factor; with columns that sum to 1 this is their mean.

    Returns:
        D is 1 if each coordinate is important for one factor only; 0 if each is equally important
        for all factors, or none is important. C is 1 if each factor is predicted from one
        coordinate; 0 if from all equally, or from none.

    Raises:
        ValueError: If an importance is negative.
        UndefinedCheckError: If there is only one factor or coordinate.
    """
    if (importance < 0).any():
        raise ValueError(f"importances must not be negative, got {importance.min():.3g}.")
    for count, what in zip(importance.shape, ("coordinates", "factors that vary"), strict=True):
        if count < 2:
            raise UndefinedCheckError(f"DCI needs at least 2 {what}, got {count}.")
    return _concentration(importance), _concentration(importance.T)


def _concentration(rows: np.ndarray) -> float:
    """1 - H(row) / log(columns), averaged over rows in proportion to their sums."""
    from scipy.special import entr

    weights = rows.sum(1)
    if not weights.sum() > 0:
        return 0.0
    shares = rows / np.where(weights > 0, weights, 1.0)[:, None]
    entropies = np.asarray(entr(shares)).sum(1)
    return float((weights * (1 - entropies / np.log(rows.shape[1]))).sum() / weights.sum())


def forest_importance(
    codes: Float[np.ndarray, "n dim"], factors: Factors, *, trees: int = TREES, seed: int = 0
) -> Importance:
    """R_ij: the held-out accuracy for factor j that a forest loses when z_i is permuted.

    A forest of extremely randomized trees, whose nodes may use any coordinate, is fitted for each
    factor on a random half of the data and evaluated on at most 4,000 others. Losses within 3
    standard errors of 0 are set to 0, so that noise has no importance; the rest are normalized
    over coordinates.

    The scores depend on this choice: compare them only with others computed by this function. The
    published comparison uses gradient boosting and impurity, which is many times slower for 40
    values; and impurity counts what trees memorize, so that coordinates of noise become important
    where a factor is hard to predict.

    Raises:
        ValueError: If the numbers of data differ, or a code is not finite.

    References:
        A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood &
        Williams, 2018), section 2, https://openreview.net/forum?id=By-7dz-AZ
    """
    from sklearn.ensemble import ExtraTreesClassifier

    check_codes(codes, factors)
    train, test = split_halves(len(codes), seed)
    test = test[:EVALUATED]
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"max_features": None, "min_samples_leaf": LEAF}
    options["random_state"] = seed
    columns, accuracies, guesses = [], [], []
    for values in factors.values.T:
        forest = ExtraTreesClassifier(trees, **options).fit(codes[train], values[train])
        losses, accuracy = _permutation_losses(forest, codes[test], values[test], rng)
        columns.append(losses / max(losses.sum(), np.finfo(float).tiny))
        accuracies.append(accuracy)
        guesses.append((values[test] == np.bincount(values[train]).argmax()).mean())
    return Importance(np.stack(columns, 1), np.array(accuracies), np.array(guesses), len(test))


def _permutation_losses(
    forest: Any, codes: np.ndarray, values: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The accuracy that each coordinate is needed for, and the accuracy itself."""
    n, dim = codes.shape
    correct = forest.predict(codes) == values
    losses = np.zeros(dim)
    # A coordinate that no node uses is not needed.
    for i in np.flatnonzero(forest.feature_importances_):
        lost = np.zeros(n)
        for _ in range(SHUFFLES):
            permuted = codes.copy()
            permuted[:, i] = codes[rng.permutation(n), i]
            lost += (correct.astype(float) - (forest.predict(permuted) == values)) / SHUFFLES
        # With few data all may lose alike, with a spread of 0.
        error = max(lost.std(ddof=1), 1 / np.sqrt(n)) / np.sqrt(n)
        if lost.mean() > DEVIATIONS * error:
            losses[i] = lost.mean()
    return losses, float(correct.mean())


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
    """P(factor = linear classifier of mean_l |z^(l) - z'^(l)|), z^(l) and z'^(l) sharing a factor.

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
