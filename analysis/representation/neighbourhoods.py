"""Who a code's neighbours are: of its own label, and those that the datum itself has."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.representation.codes import Labelled
from pyro_vae.data.nouns import a_noun, noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import standard_error

# Data whose neighbours in data space are looked for, at most: all pairs are compared.
MOST_DATA = 2000
# Above the middle of the way from chance to 1, neighbourhoods are called good.
GOOD = 0.5


@dataclass(frozen=True)
class LocalAgreement:
    """How far the k nearest codes of a datum have its label.

    Args:
        agreement: For each datum, the share of its k nearest others with its label.
        chance: What neighbours chosen at random give: sum_c n_c (n_c - 1) / (n (n - 1)).
        by_class: The mean over the data of each label; None for a label of at most k data, whose
            neighbours cannot all be of their own.
        neighbours: k.
    """

    agreement: Float[np.ndarray, " n"]
    chance: float
    by_class: tuple[float | None, ...]
    neighbours: int

    @property
    def mean(self) -> float:
        """The mean share."""
        return float(self.agreement.mean())

    def summary(self) -> dict[str, Any]:
        """The mean with its standard error, chance, the mean by class, and a reading."""
        return {
            "n": len(self.agreement),
            "neighbours": self.neighbours,
            "agreement": finite(self.mean),
            "agreement_se": finite(standard_error(self.agreement)),
            "chance": finite(self.chance),
            "by_class": list(self.by_class),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the neighbours of a code share its label."""
        error = standard_error(self.agreement) or 0.0
        text = (
            f"{self.mean:.1%} (s.e. {error:.1%}) of a code's {self.neighbours} nearest others have its label "
            f"(chance {self.chance:.1%}, 100% if labels lie apart)"
        )
        if self.mean - 2 * error <= self.chance:
            return f"{text}: the neighbourhoods do not know the label."
        good = self.mean - self.chance > GOOD * (1 - self.chance)
        text += (
            ": near codes mean like data."
            if good
            else ": better than chance, with labels still mixed."
        )
        known = {label: v for label, v in enumerate(self.by_class) if v is not None}
        if not known:
            return text
        worst = min(known, key=lambda label: known[label])
        text += f" The lowest is label {worst} with {known[worst]:.1%}"
        few = len(self.by_class) - len(known)
        if few:
            text += f", of those with more than {self.neighbours} data: {few} labels have fewer"
        return f"{text}."


@dataclass(frozen=True)
class NeighbourhoodOverlap:
    """How far the k nearest data of a datum, in data space, are the k nearest by their codes.

    Args:
        overlap: For each datum, the share of its k nearest data that are among its k nearest codes.
        chance: k / (n - 1).
        trustworthiness: From 0 to 1: below 1 by how far neighbours of the code are from being
            neighbours of the datum, in ranks; about 0.5 by chance.
        neighbours: k.
    """

    overlap: Float[np.ndarray, " n"]
    chance: float
    trustworthiness: float
    neighbours: int

    def summary(self) -> dict[str, Any]:
        """The mean with its standard error, chance, trustworthiness and a reading."""
        return {
            "n": len(self.overlap),
            "neighbours": self.neighbours,
            "overlap": finite(self.overlap.mean()),
            "overlap_se": finite(standard_error(self.overlap)),
            "chance": finite(self.chance),
            "trustworthiness": finite(self.trustworthiness),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the code keeps the neighbours that the data have."""
        mean = float(self.overlap.mean())
        error = standard_error(self.overlap) or 0.0
        text = (
            f"{mean:.1%} of {a_noun()}'s {self.neighbours} nearest data are among its nearest codes, too "
            f"(chance {self.chance:.1%}); trustworthiness is {self.trustworthiness:.2f} (0.5 is chance, 1 if "
            f"no code has neighbours that its {noun()} has not): "
        )
        if mean - 2 * error <= self.chance:
            return f"{text}the code forgets who is near."
        return (
            f"{text}the code keeps {'most of ' if mean > GOOD else ''}the data's neighbourhoods"
            f"{'' if mean > GOOD else ' in part'}. Distances in data space are no truth themselves: a code "
            "that finds the labels may leave them."
        )


def local_label_agreement(data: Labelled, *, neighbours: int = 10) -> LocalAgreement:
    """1/n sum_i 1/k #{j among the k nearest of i: y_j = y_i}, by Euclidean distance of codes.

    On a sphere the order of distances is that of angles.

    Args:
        data: Codes with labels; at least k + 1.
        neighbours: k.

    Raises:
        ValueError: If `neighbours` is below 1, or not below the number of data, or a label is
            below 0.
    """
    _check(len(data), neighbours)
    if data.labels.min() < 0:
        raise ValueError(f"labels must be from 0 on, got {data.labels.min()}.")
    nearest = _nearest(data.codes, neighbours)
    agreement = (data.labels[nearest] == data.labels[:, None]).mean(1)
    counts: Int[np.ndarray, " labels"] = np.bincount(data.labels)
    n = len(data)
    by_class = tuple(
        float(agreement[data.labels == label].mean()) if count > neighbours else None
        for label, count in enumerate(counts.tolist())
    )
    chance = float((counts * (counts - 1.0)).sum() / (n * (n - 1.0)))
    return LocalAgreement(agreement, chance, by_class, neighbours)


def neighbourhood_overlap(
    x: Real[np.ndarray, " n *event"],
    codes: Float[np.ndarray, "codes latent"],
    *,
    neighbours: int = 10,
    seed: int = 0,
) -> NeighbourhoodOverlap:
    """1/n sum_i |N_x(i) & N_z(i)| / k, of the k nearest data and the k nearest codes.

    Args:
        x: The data; at most 2000 are used, chosen at random.
        codes: Their codes.
        neighbours: k.
        seed: The seed of the choice.

    Raises:
        ValueError: If the numbers of data and codes differ, `neighbours` is below 1, or not below half
            the number of data used.

    References:
        Neighborhood Preservation in Nonlinear Projection Methods: An Experimental Study (Venna &
        Kaski, 2001), https://doi.org/10.1007/3-540-44668-0_68 (trustworthiness)
    """
    from sklearn.manifold import trustworthiness

    if len(x) != len(codes):
        raise ValueError(f"each datum needs a code, got {len(x)} data and {len(codes)} codes.")
    rows = np.random.default_rng(seed).permutation(len(x))[:MOST_DATA]
    n = len(rows)
    # Beyond half the number of data trustworthiness has no scale.
    _check(n // 2, neighbours)
    data = x[rows].reshape(n, -1).astype(np.float32)
    near_data, near_codes = _nearest(data, neighbours), _nearest(codes[rows], neighbours)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(near_data, near_codes, strict=True)]
    trust = trustworthiness(data, codes[rows], n_neighbors=neighbours)
    return NeighbourhoodOverlap(
        np.array(shared) / neighbours, neighbours / (n - 1), float(trust), neighbours
    )


def _nearest(points: np.ndarray, neighbours: int) -> Int[np.ndarray, "n neighbours"]:
    """The rows of each point's nearest others."""
    from sklearn.neighbors import NearestNeighbors

    # Without points to look from, a point is not its own neighbour, even beside its double.
    return NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)


def _check(n: int, neighbours: int) -> None:
    if not 1 <= neighbours < n:
        raise ValueError(
            f"neighbours must be from 1 to {n - 1} for so many data, got {neighbours}."
        )
