"""How far a score without labels ranks models as one with labels does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.comparison.p_values import p_text
from analysis.plotting.style import LABEL_COLOURS, new_figure, tidy
from pyro_vae.evidence.numbers import finite

if TYPE_CHECKING:
    import matplotlib.figure

# The two rankings agree if their correlation is positive with a p-value below this.
SIGNIFICANT = 0.05

# Fewer models have no ranking to speak of.
_FEWEST = 3

# Up to so many orders are all gone through; of more, so many are drawn.
_ORDERS = 5040
_DRAWN = 4999


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation over n models.

    Args:
        rho: From -1 to 1; None for fewer than 3 models, or where a score is the same for all.
        n: The number of models.
        p_value: The share of orders, all or drawn, whose correlation is as large or larger: one-sided, as only
            positive agreement is of use.
    """

    rho: float | None
    n: int
    p_value: float | None

    def summary(self) -> dict[str, float | int | None]:
        """Plain values."""
        return {"rho": finite(self.rho), "n": self.n, "p_value": finite(self.p_value)}


@dataclass(frozen=True)
class SelectionAgreement:
    """The rank correlation of two scores, in each group and over all models.

    Args:
        by_group: Over the models of each group: what choosing a seed by the score is worth.
        within: The mean over groups, weighted by their models, with orders drawn within groups.
        overall: Over all models: what choosing a group and a seed is worth.
    """

    by_group: dict[str, RankCorrelation]
    within: RankCorrelation
    overall: RankCorrelation

    def summary(self) -> dict[str, Any]:
        """Each correlation with its number of models and its p-value."""
        return {
            "by_group": {name: found.summary() for name, found in self.by_group.items()},
            "within": self.within.summary(),
            "overall": self.overall.summary(),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the score without labels would have chosen as the one with labels."""
        said = []
        for where, found in (
            ("over all models", self.overall),
            ("among seeds of the same options", self.within),
        ):
            if found.rho is None or found.p_value is None:
                said.append(f"{where}, no ranking of {found.n} to compare")
                continue
            agrees = found.rho > 0 and found.p_value < SIGNIFICANT
            said.append(
                f"{where}, rank correlation {found.rho:.2f} (n = {found.n}, p "
                f"{p_text(found.p_value)}): {'it ranks them alike' if agrees else 'no agreement shown'}"
            )
        text = "; ".join(said)
        return (
            f"{text[0].upper()}{text[1:]}. 1 is the same order, 0 chance; with few models only the "
            "strongest agreement can be told from chance."
        )


def selection_agreement(
    unsupervised: Mapping[str, float],
    supervised: Mapping[str, float],
    groups: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> SelectionAgreement:
    """Spearman's rho between two scores of the same models, with p-values by permutation.

    Args:
        unsupervised: A score without labels, such as UDR, by model.
        supervised: A score with labels. Models that lack either are left out.
        groups: The group of each model, such as its objective; None for one group.
        seed: Of the orders drawn, where there are more than 5040.

    Returns:
        Read `within` for the choice of a seed and `overall` for that of anything: a correlation over all may
        come from the groups alone.

    Raises:
        ValueError: If no model has both scores, or one has no group.
    """
    names = [name for name in unsupervised if name in supervised]
    names = [n for n in names if math.isfinite(unsupervised[n]) and math.isfinite(supervised[n])]
    if not names:
        raise ValueError("no model has both scores.")
    missing = [] if groups is None else [name for name in names if name not in groups]
    if missing:
        raise ValueError(f"each model needs a group, got none for {', '.join(missing)}.")
    of = {name: "all" if groups is None else groups[name] for name in names}
    first = np.array([unsupervised[name] for name in names])
    second = np.array([supervised[name] for name in names])
    rng = np.random.default_rng(seed)
    members = {
        group: np.array([index for index, name in enumerate(names) if of[name] == group])
        for group in dict.fromkeys(of.values())
    }
    found = {group: _rank_correlation(first[m], second[m], rng) for group, m in members.items()}
    return SelectionAgreement(
        found, _within(first, second, members, rng), _rank_correlation(first, second, rng)
    )


def plot_selection(
    unsupervised: Mapping[str, float],
    supervised: Mapping[str, float],
    groups: Mapping[str, str] | None = None,
    *,
    score: str = "MIG",
    seed: int = 0,
) -> "matplotlib.figure.Figure":
    """The score without labels against the one with labels, a mark for each model, coloured by group.

    Args:
        unsupervised: UDR, by model.
        supervised: The score with labels.
        groups: The group of each.
        score: What that is called.
        seed: Of the p-value.
    """
    agreement = selection_agreement(unsupervised, supervised, groups, seed=seed)
    figure = new_figure(7.6, 5.0)
    ax = figure.subplots()
    names = [name for name in unsupervised if name in supervised]
    of = {name: "all" if groups is None else groups[name] for name in names}
    for index, group in enumerate(dict.fromkeys(of.values())):
        mine = [name for name in names if of[name] == group]
        ax.scatter(
            [unsupervised[name] for name in mine],
            [supervised[name] for name in mine],
            s=55,
            color=LABEL_COLOURS[index % len(LABEL_COLOURS)],
            marker="os^D"[index // len(LABEL_COLOURS) % 4],
            label=group,
        )
    if groups is not None:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(
        xlabel="UDR, without labels: do seeds agree on coordinates?",
        ylabel=f"{score}, with labels",
    )
    lines = [
        f"{where}: rank correlation {found.rho:.2f}, n = {found.n}, p {p_text(found.p_value)}"
        for where, found in (
            ("All models", agreement.overall),
            ("Within groups", agreement.within),
        )
        if found.rho is not None and found.p_value is not None
    ]
    if groups is None or len(agreement.by_group) == 1:
        lines = lines[:1]
    ax.set_title("\n".join(lines or ["Too few models to rank"]), fontsize=11)
    tidy([ax], grid="both")
    return figure


def _rank_correlation(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], rng: np.random.Generator
) -> RankCorrelation:
    n = len(first)
    ranks = _ranks(first), _ranks(second)
    if n < _FEWEST or ranks[0] is None or ranks[1] is None:
        return RankCorrelation(None, n, None)
    rho = float(ranks[0] @ ranks[1])
    if math.factorial(n) <= _ORDERS:
        orders = np.array(list(permutations(range(n))))
        return RankCorrelation(rho, n, _share(ranks[1][orders] @ ranks[0], rho))
    drawn = np.stack([rng.permutation(n) for _ in range(_DRAWN)])
    return RankCorrelation(rho, n, _share(np.append(ranks[1][drawn] @ ranks[0], rho), rho))


def _within(
    first: np.ndarray,
    second: np.ndarray,
    members: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> RankCorrelation:
    ranks = [(_ranks(first[m]), _ranks(second[m])) for m in members.values() if len(m) >= _FEWEST]
    usable = [(a, b) for a, b in ranks if a is not None and b is not None]
    n = sum(len(a) for a, _ in usable)
    if not usable:
        return RankCorrelation(None, n, None)
    rho = sum(len(a) * (a @ b) for a, b in usable) / n
    drawn = np.array(
        [sum(len(a) * (a @ rng.permutation(b)) for a, b in usable) / n for _ in range(_DRAWN)]
    )
    return RankCorrelation(float(rho), n, _share(np.append(drawn, rho), float(rho)))


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """Ranks less their mean, of length 1; None if all values are equal."""
    from scipy.stats import rankdata

    ranks = rankdata(values) - (len(values) + 1) / 2
    length = np.linalg.norm(ranks)
    return ranks / length if length > 0 else None


def _share(rhos: np.ndarray, rho: float) -> float:
    """As large or larger, but for rounding."""
    return float((rhos >= rho - 1e-9).mean())
