"""Model selection without labels by the agreement of training seeds (UDR)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.hypothesis_tests import p_text
from analysis.result import Result, UndefinedCheckError
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

# The fewest other models of the same kind that the paper compares each model with.
FEWEST_OTHERS = 5
# Draws behind the reference scores.
_DRAWS = 5
# Two rankings agree if their correlation is positive with a p-value below this.
SIGNIFICANT = 0.05
# The fewest models with a meaningful ranking.
_FEWEST_RANKED = 3
# Up to this many permutations are enumerated; otherwise `_SAMPLED` are drawn.
_ENUMERATED = 5040
_SAMPLED = 4999

# Recorded with every score.
SOUNDNESS = (
    "UDR measures whether seeds find the same coordinates, up to order and sign. Agreement does "
    "not prove that these are the factors of the data: all seeds may agree on an entangled basis, "
    "such as principal axes, and without labels or assumptions no score can tell (Locatello et "
    "al., 2019)."
)


@dataclass(frozen=True)
class UnsupervisedSelection(Result):
    """How far models of a group, which differ in the seed only, have the same coordinates.

    Args:
        names: The models.
        groups: The group of each model.
        pairwise: UDR of each pair within a group; NaN for other pairs, and where a model has no
            informative coordinate.
        scores: The median over a model's pairs; NaN if it has none.
        informative: The number of informative coordinates.
        rotated: UDR of a model with a random rotation of itself: the score of an entangled code.
        noise: UDR of a model with its own codes permuted over data: the score of unrelated codes.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    pairwise: Float[np.ndarray, "models models"]
    scores: Float[np.ndarray, " models"]
    informative: Float[np.ndarray, " models"]
    rotated: Float[np.ndarray, " models"]
    noise: Float[np.ndarray, " models"]

    @property
    def by_model(self) -> dict[str, float]:
        """The defined scores by name."""
        pairs = zip(self.names, self.scores, strict=True)
        return {name: float(score) for name, score in pairs if np.isfinite(score)}

    def by_group(self) -> dict[str, dict[str, float | int | None]]:
        """For each group: the mean and spread of its models' scores, and the reference scores."""
        rows: dict[str, dict[str, float | int | None]] = {}
        for group in dict.fromkeys(self.groups):
            members = np.array([other == group for other in self.groups])
            scores = self.scores[members & np.isfinite(self.scores)]
            rows[group] = {
                "models": int(members.sum()),
                "score": _mean(scores),
                "spread": float(scores.std(ddof=1)) if len(scores) > 1 else None,
                "rotated": _mean(self.rotated[members]),
                "noise": _mean(self.noise[members]),
                "informative": _mean(self.informative[members]),
            }
        return rows

    def extra(self) -> dict[str, Any]:
        """Scores by model and by group, with their references."""
        return {
            "models": [
                {
                    "name": name,
                    "group": self.groups[index],
                    "score": self.scores[index],
                    "informative": int(self.informative[index]),
                    "rotated": self.rotated[index],
                    "noise": self.noise[index],
                }
                for index, name in enumerate(self.names)
            ],
            "groups": self.by_group(),
            "correlation": "absolute Spearman",
            "soundness": SOUNDNESS,
        }

    def reading(self) -> str:
        """Which group's seeds agree most, compared with entangled and unrelated codes."""
        groups = self.by_group()
        scored = {name: row for name, row in groups.items() if row["score"] is not None}
        if not scored:
            return "Not defined: no two models of a group have informative coordinates."
        best = max(scored, key=lambda name: scored[name]["score"] or 0.0)
        score, rotated, noise = (scored[best][key] or 0.0 for key in ("score", "rotated", "noise"))
        fewest = min(int(row["models"] or 0) for row in scored.values()) - 1
        return (
            f"Seeds agree{'' if len(groups) == 1 else f' most in {best}'} with a UDR of "
            f"{score:.2f} (1 is the same coordinates, rotated codes have {rotated:.2f}, unrelated "
            f"ones {noise:.2f})"
            + (", no more than entangled codes" if score <= rotated else "")
            + (f"; uncertain, with {fewest} other seeds" if fewest < FEWEST_OTHERS else "")
            + "."
        )


def unsupervised_selection(
    codes: Mapping[str, Float[np.ndarray, "n _"]],
    *,
    groups: Mapping[str, str] | None = None,
    informative: Mapping[str, Bool[np.ndarray, " _"]] | None = None,
    seed: int = 0,
) -> UnsupervisedSelection:
    """The median over j of (sum_b r_b^2 / sum_a R_ab + sum_a r_a^2 / sum_b R_ab) / (d_i + d_j).

    R_ab is the absolute Spearman correlation of coordinate a of model i and b of model j over the
    data, r_b = max_a R_ab, r_a = max_b R_ab; a and b run over the d_i and d_j informative
    coordinates. (The paper has a second form, with Lasso weights instead of correlations.) j runs
    over i's group.

    Args:
        codes: The codes of the same data, in the same order, by model.
        groups: For each model, what it shares with those that differ in the seed only; None for
            one group.
        informative: For each model, which coordinates are informative: in the paper those with a
            KL above 0.01 nats; None for those with a variance above 0.01, `active_units`. An
            autoencoder's codes have no such scale: pass all.
        seed: The seed of the rotations and permutations behind the reference scores.

    Returns:
        1: each coordinate is one of the other model's, up to sign and a monotone map. Read a score
        between `rotated`, that of an entangled code, and 1. With one informative coordinate both
        are 1.

    Raises:
        UndefinedCheckError: If no group has two models.
        ValueError: If the numbers of data differ, or a group or mask is missing or does not match.

    References:
        Unsupervised Model Selection for Variational Disentangled Representation Learning (Duan et
        al., 2020), https://arxiv.org/abs/1905.12614; Challenging Common Assumptions in the
        Unsupervised Learning of Disentangled Representations (Locatello et al., 2019),
        https://arxiv.org/abs/1811.12359
    """
    names = tuple(codes)
    lengths = {len(code) for code in codes.values()}
    if len(lengths) > 1:
        raise ValueError(f"models must have codes of the same data, got {sorted(lengths)} rows.")
    group_of = _groups(names, groups)
    if informative is None:
        informative = {name: unit_activity(code) > ACTIVE_VARIANCE for name, code in codes.items()}
    _check_keys("mask", names, informative)
    for name in names:
        if informative[name].shape != codes[name].shape[1:]:
            raise ValueError(
                f"{name} has {codes[name].shape[1]} coordinates, got a mask of "
                f"{informative[name].shape}."
            )
    pairs = [
        (a, b)
        for a, b in combinations(range(len(names)), 2)
        if group_of[names[a]] == group_of[names[b]]
    ]
    if not pairs:
        raise UndefinedCheckError("expected two models that differ in the seed only, got none.")

    # A constant coordinate has no ranks and no information.
    used = [
        codes[name][:, informative[name] & (np.ptp(codes[name], axis=0) > 0)] for name in names
    ]
    ranks = [_standardized_ranks(code) for code in used]
    pairwise = np.full((len(names), len(names)), np.nan)
    for a, b in pairs:
        pairwise[a, b] = pairwise[b, a] = ranking_agreement(_correlation(ranks[a], ranks[b]))
    rng = np.random.default_rng(seed)
    scores = [row[np.isfinite(row)] for row in pairwise]
    return UnsupervisedSelection(
        names=names,
        groups=tuple(group_of[name] for name in names),
        pairwise=pairwise,
        scores=np.array([np.median(row) if len(row) else np.nan for row in scores]),
        informative=np.array([code.shape[1] for code in used], float),
        rotated=np.array([_rotated_score(code, rng) for code in used]),
        noise=np.array([_permuted_score(rank, rng) for rank in ranks]),
    )


def ranking_agreement(similarity: Float[np.ndarray, "a b"]) -> float:
    """UDR of a pair of models from the similarity R_ab of their informative coordinates.

    NaN if a model has no coordinate.

    >>> ranking_agreement(np.eye(3)), round(ranking_agreement(np.full((2, 2), 0.5)), 2)
    (1.0, 0.25)
    """
    if 0 in similarity.shape:
        return math.nan
    total = 0.0
    for axis in (0, 1):
        sums = similarity.sum(axis)
        total += (similarity.max(axis) ** 2 / np.where(sums > 0, sums, 1)).sum()
    return float(total / sum(similarity.shape))


def _standardized_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks whose products are Spearman correlations; NaN for equal values."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0) if values.size else values
    ranks = ranks - ranks.mean(0)
    length = np.linalg.norm(ranks, axis=0)
    return ranks / np.where(length > 0, length, np.nan)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(first.T @ second), 1)


def _rotated_score(code: np.ndarray, rng: np.random.Generator) -> float:
    """UDR of a standardized code with random rotations of itself."""
    dim = code.shape[1]
    scaled = code / code.std(0)
    ranks = _standardized_ranks(scaled)
    # The signs and order of Q's columns do not matter.
    rotations = [np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in range(_DRAWS if dim else 0)]
    scores = [
        ranking_agreement(_correlation(ranks, _standardized_ranks(scaled @ rotation)))
        for rotation in rotations
    ]
    return float(np.mean(scores)) if scores else math.nan


def _permuted_score(ranks: np.ndarray, rng: np.random.Generator) -> float:
    permuted = [ranks[rng.permutation(len(ranks))] for _ in range(_DRAWS)]
    return float(np.mean([ranking_agreement(_correlation(ranks, other)) for other in permuted]))


def _groups(names: Sequence[str], groups: Mapping[str, str] | None) -> Mapping[str, str]:
    if groups is None:
        return dict.fromkeys(names, "all")
    _check_keys("group", names, groups)
    return groups


def _check_keys(what: str, names: Sequence[str], values: Mapping[str, Any]) -> None:
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"each model needs a {what}, got none for {', '.join(missing)}.")


def _mean(values: np.ndarray) -> float | None:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation over n models.

    Args:
        rho: From -1 to 1; None for fewer than 3 models, or where a score is the same for all.
        n: The number of models.
        p_value: The share of permutations with a correlation at least as large: one-sided, as only
            positive agreement is of use.
    """

    rho: float | None
    n: int
    p_value: float | None


@dataclass(frozen=True)
class SelectionAgreement(Result):
    """The rank correlation of two scores, in each group and over all models.

    Args:
        by_group: Over the models of each group: the value of choosing a seed by the score.
        within: The mean over groups, weighted by their size, with permutations within groups.
        overall: Over all models: the value of choosing a group and a seed.
    """

    by_group: dict[str, RankCorrelation]
    within: RankCorrelation
    overall: RankCorrelation

    def extra(self) -> dict[str, Any]:
        """Each correlation with its number of models and its p-value."""
        return {
            "by_group": {name: vars(found) for name, found in self.by_group.items()},
            "within": vars(self.within),
            "overall": vars(self.overall),
        }

    def reading(self) -> str:
        """Whether the score without labels ranks models as the score with labels does."""
        parts = []
        for where, found in (("Over all models", self.overall), ("within groups", self.within)):
            if found.rho is None or found.p_value is None:
                parts.append(f"{where} there is no ranking of {found.n} to compare")
                continue
            agree = found.rho > 0 and found.p_value < SIGNIFICANT
            parts.append(
                f"{where} the scores {'agree' if agree else 'show no agreement'}: rank "
                f"correlation {found.rho:.2f}, n = {found.n}, p {p_text(found.p_value)}"
            )
        return f"{'; '.join(parts)}."


def selection_agreement(
    unsupervised: Mapping[str, float],
    supervised: Mapping[str, float],
    groups: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> SelectionAgreement:
    """Spearman's rho between two scores of the same models, with permutation p-values.

    Args:
        unsupervised: A score without labels, such as UDR, by model.
        supervised: A score with labels. Models without one of the two are left out.
        groups: The group of each model, such as its objective; None for one group.
        seed: The seed of the permutations, where there are more than 5040.

    Returns:
        Read `within` for the choice of a seed and `overall` for that of any model: a correlation
        over all models may come from the groups alone.

    Raises:
        ValueError: If no model has both scores, or one has no group.
    """
    names = [
        name
        for name, score in unsupervised.items()
        if math.isfinite(score) and math.isfinite(supervised.get(name, math.nan))
    ]
    if not names:
        raise ValueError("no model has both scores.")
    group_of = _groups(names, groups)
    first = np.array([unsupervised[name] for name in names])
    second = np.array([supervised[name] for name in names])
    rng = np.random.default_rng(seed)
    members = [
        np.array([index for index, name in enumerate(names) if group_of[name] == group])
        for group in dict.fromkeys(group_of[name] for name in names)
    ]
    ranks = [(_standardized_ranks(first[m]), _standardized_ranks(second[m])) for m in members]
    return SelectionAgreement(
        {
            group_of[names[m[0]]]: _rank_correlation([pair], rng)
            for m, pair in zip(members, ranks, strict=True)
        },
        _rank_correlation(ranks, rng),
        _rank_correlation([(_standardized_ranks(first), _standardized_ranks(second))], rng),
    )


def _rank_correlation(
    ranks: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> RankCorrelation:
    """The mean correlation over groups, weighted by size, with permutations within groups."""
    usable = [(a, b) for a, b in ranks if len(a) >= _FEWEST_RANKED and np.isfinite([a, b]).all()]
    if not usable:
        return RankCorrelation(None, sum(len(a) for a, _ in ranks) if len(ranks) == 1 else 0, None)
    n = sum(len(a) for a, _ in usable)
    rho = float(sum(len(a) * (a @ b) for a, b in usable) / n)
    if len(ranks) == 1 and math.factorial(n) <= _ENUMERATED:
        orders = np.array(list(permutations(range(n))))
        drawn = usable[0][1][orders] @ usable[0][0]
    else:
        drawn = np.full(_SAMPLED + 1, rho)
        for index in range(_SAMPLED):
            drawn[index] = sum(len(a) * (a @ rng.permutation(b)) for a, b in usable) / n
    # Equal correlations may differ by rounding.
    return RankCorrelation(rho, n, float((drawn >= rho - 1e-9).mean()))
