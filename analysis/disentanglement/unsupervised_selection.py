"""Do models of other seeds agree on the coordinates of the code? Selection without labels, and how far it is sound."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.check import UndefinedCheckError
from analysis.disentanglement.selection_agreement import (
    SelectionAgreement,
    plot_selection,
    selection_agreement,
)
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

__all__ = [
    "SelectionAgreement",
    "UnsupervisedSelection",
    "plot_selection",
    "selection_agreement",
    "unsupervised_selection",
]

# The paper compares each model with at least so many others of the same kind.
FEWEST_OTHERS = 5

# References are means over so many draws.
_DRAWS = 5

# What no score says: it stands beside all of them.
SOUNDNESS = (
    "UDR measures whether seeds find the same coordinates, up to order and sign. Agreement does not prove "
    "that these are the factors of the data: all seeds may agree on an entangled basis, such as principal "
    "axes, and without labels or assumptions on model and data no score can tell (Locatello et al., "
    "2019); nor can the ELBO or the reconstruction. It ranks models only as far as entangled ones differ "
    "from seed to seed."
)


@dataclass(frozen=True)
class UnsupervisedSelection:
    """How far the coordinates of each model's code are those of models of its group.

    Args:
        names: The models.
        groups: The group of each: models that differ in the seed alone.
        pairwise: UDR of each pair of a group; not a number for other pairs, and where a model has no
            informative coordinate.
        scores: The median over a model's pairs; not a number if it has none.
        informative: The number of informative coordinates.
        rotated: UDR of a model with itself turned at random: what an entangled code gives.
        noise: UDR of a model with its own codes shuffled over data: what no relation gives.
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
        """The scores that are defined, by name."""
        pairs = zip(self.names, self.scores, strict=True)
        return {name: float(score) for name, score in pairs if np.isfinite(score)}

    def by_group(self) -> dict[str, dict[str, float | int | None]]:
        """Of each group: the mean of its models' scores, their spread, and the references."""
        found: dict[str, dict[str, float | int | None]] = {}
        for group in dict.fromkeys(self.groups):
            mine = np.array([other == group for other in self.groups])
            scores = self.scores[mine & np.isfinite(self.scores)]
            found[group] = {
                "models": int(mine.sum()),
                "score": finite(scores.mean()) if len(scores) else None,
                "spread": finite(scores.std(ddof=1)) if len(scores) > 1 else None,
                "rotated": finite(_mean(self.rotated[mine])),
                "noise": finite(_mean(self.noise[mine])),
                "informative": finite(self.informative[mine].mean()),
            }
        return found

    def summary(self) -> dict[str, Any]:
        """Scores by model and by group, with their references."""
        return {
            "models": [
                {
                    "name": name,
                    "group": group,
                    "score": finite(self.scores[index]),
                    "informative": int(self.informative[index]),
                    "rotated": finite(self.rotated[index]),
                    "noise": finite(self.noise[index]),
                }
                for index, (name, group) in enumerate(zip(self.names, self.groups, strict=True))
            ],
            "groups": self.by_group(),
            "correlation": "absolute Spearman",
            "soundness": SOUNDNESS,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Which group's seeds agree best, against what chance gives, and what that does not prove."""
        groups = self.by_group()
        scored = {name: row for name, row in groups.items() if row["score"] is not None}
        if not scored:
            return "Not defined: no two models of a group have informative coordinates."
        best = max(scored, key=lambda name: scored[name]["score"] or 0.0)
        row = scored[best]
        score, rotated, noise = (row[key] or 0.0 for key in ("score", "rotated", "noise"))
        said = (
            f"Seeds agree{'' if len(groups) == 1 else f' most in {best}'}: UDR {score:.2f} of 1, where the same codes turned at random "
            f"give {rotated:.2f} and unrelated ones {noise:.2f}. "
        )
        if score <= rotated:
            said += "That is no more than entangled codes give: no group is to be chosen by it. "
        fewest = min(int(row["models"] or 0) for row in scored.values()) - 1
        if fewest < FEWEST_OTHERS:
            said += (
                f"With {fewest} other seeds for a model, where the paper has {FEWEST_OTHERS} or more, a "
                "score is uncertain. "
            )
        return said + "High agreement does not prove that the coordinates are factors of the data."


def unsupervised_selection(
    codes: Mapping[str, Float[np.ndarray, "n _"]],
    *,
    groups: Mapping[str, str] | None = None,
    informative: Mapping[str, Bool[np.ndarray, " _"]] | None = None,
    seed: int = 0,
) -> UnsupervisedSelection:
    """UDR_ij = (sum_b r_b^2 / sum_a R_ab + sum_a r_a^2 / sum_b R_ab) / (d_i + d_j), the median over j.

    R_ab is the absolute Spearman correlation of coordinate a of model i and b of model j over the data, r_b =
    max_a R_ab, r_a = max_b R_ab; a and b run over informative coordinates alone, d_i and d_j many. 1: each
    coordinate is one of the other model's, up to sign and any monotone map. (The paper has a second
    form, with Lasso weights in place of correlations.) j runs over the models of i's group.

    Args:
        codes: The codes of the same data, in the same order, by model.
        groups: Of each model, what it shares with those that differ in the seed alone; None for one group.
        informative: Of each model, which coordinates carry information, by the paper those with more than
            0.01 nats of KL; None for those whose codes have a variance above 0.01, `active_units`. An
            autoencoder's codes have no such scale: give all.
        seed: Of the rotations and shuffles that the references are made of.

    Returns:
        Read a score between `rotated`, what an entangled code gives, and 1. With one informative
        coordinate both are 1: there is nothing to turn.

    Raises:
        UndefinedCheckError: If no group has two models.
        ValueError: If models differ in the number of data, or a group or mask is missing or does not fit.

    References:
        Unsupervised Model Selection for Variational Disentangled Representation Learning (Duan et al.,
        2020), https://arxiv.org/abs/1905.12614
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), https://arxiv.org/abs/1811.12359
    """
    names = tuple(codes)
    lengths = {len(code) for code in codes.values()}
    if len(lengths) > 1:
        raise ValueError(f"models must have codes of the same data, got {sorted(lengths)} rows.")
    of = _complete("group", names, groups) or dict.fromkeys(names, "all")
    masks = _complete("mask", names, informative) or {
        name: unit_activity(code) > ACTIVE_VARIANCE for name, code in codes.items()
    }
    for name in names:
        if masks[name].shape != codes[name].shape[1:]:
            raise ValueError(
                f"{name} has {codes[name].shape[1]} coordinates, got a mask of {masks[name].shape}."
            )
    pairs = [(a, b) for a, b in combinations(range(len(names)), 2) if of[names[a]] == of[names[b]]]
    if not pairs:
        raise UndefinedCheckError("two models that differ in the seed alone are needed, got none.")

    # A constant coordinate has no ranks, and tells nothing.
    used = [codes[name][:, masks[name] & (np.ptp(codes[name], axis=0) > 0)] for name in names]
    ranks = [_standardised_ranks(code) for code in used]
    pairwise = np.full((len(names), len(names)), np.nan)
    for a, b in pairs:
        pairwise[a, b] = pairwise[b, a] = ranking_agreement(_correlation(ranks[a], ranks[b]))
    rng = np.random.default_rng(seed)
    return UnsupervisedSelection(
        names=names,
        groups=tuple(of[name] for name in names),
        pairwise=pairwise,
        scores=np.array([_median(row) for row in pairwise]),
        informative=np.array([code.shape[1] for code in used], float),
        rotated=np.array([_rotated(code, rng) for code in used]),
        noise=np.array([_shuffled(rank, rng) for rank in ranks]),
    )


def ranking_agreement(similarity: Float[np.ndarray, "a b"]) -> float:
    """UDR of one pair of models from the similarity of their informative coordinates.

    Args:
        similarity: R_ab, from 0 to 1.

    Returns:
        From 0 to 1; not a number if a model has no coordinate.

    >>> ranking_agreement(np.eye(3)), round(ranking_agreement(np.full((2, 2), 0.5)), 2)
    (1.0, 0.25)
    """
    if 0 in similarity.shape:
        return float("nan")
    total = 0.0
    for axis in (0, 1):
        sums = similarity.sum(axis)
        total += (similarity.max(axis) ** 2 / np.where(sums > 0, sums, 1)).sum()
    return float(total / sum(similarity.shape))


def _standardised_ranks(code: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Ranks less their mean, of length 1: their products are Spearman's correlations."""
    from scipy.stats import rankdata

    ranks = rankdata(code, axis=0) if code.shape[1] else code
    ranks = ranks - ranks.mean(0)
    return ranks / np.linalg.norm(ranks, axis=0)


def _correlation(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "a b"]:
    return np.minimum(np.abs(first.T @ second), 1)


def _rotated(code: np.ndarray, rng: np.random.Generator) -> float:
    """UDR of a code with itself, each coordinate in its standard deviation, turned at random."""
    dim = code.shape[1]
    if not dim:
        return float("nan")
    scaled = code / code.std(0)
    found = []
    for _ in range(_DRAWS):
        # The signs of Q's columns do not matter here, nor does their order.
        turned = scaled @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        similarity = _correlation(_standardised_ranks(scaled), _standardised_ranks(turned))
        found.append(ranking_agreement(similarity))
    return float(np.mean(found))


def _shuffled(ranks: np.ndarray, rng: np.random.Generator) -> float:
    found = [
        ranking_agreement(_correlation(ranks, ranks[rng.permutation(len(ranks))]))
        for _ in range(_DRAWS)
    ]
    return float(np.mean(found))


def _complete(
    what: str, names: tuple[str, ...], given: Mapping[str, Any] | None
) -> dict[str, Any]:
    missing = [] if given is None else [name for name in names if name not in given]
    if missing:
        raise ValueError(f"each model needs a {what}, got none for {', '.join(missing)}.")
    return {} if given is None else dict(given)


def _median(row: Float[np.ndarray, " models"]) -> float:
    defined = row[np.isfinite(row)]
    return float(np.median(defined)) if len(defined) else float("nan")


def _mean(values: np.ndarray) -> float | None:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None
