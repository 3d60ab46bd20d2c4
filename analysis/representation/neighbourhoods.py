"""Neighbours of codes: do they share the label, and are they neighbours in data space?"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.check import Check
from analysis.representation.codes import LabelledCodes, with_error
from analysis.representation.inputs import RepresentationInputs
from analysis.result import Result
from analysis.subject import Subject
from pyro_vae.statistics import standard_error

# Data whose neighbours in data space are searched, at most: all pairs are compared.
MAX_DATA = 2000
# Beyond this share of the way from chance to 1, neighbourhoods count as good.
GOOD = 0.5
# Number of neighbours in a diagnosis.
NEAR = 10


@dataclass(frozen=True)
class NeighbourShares(Result):
    """The share of an example's k nearest neighbours with a property. Abstract.

    Args:
        shares: One per example.
        chance: The mean share for random neighbours.
        neighbours: k.
    """

    shares: Float[np.ndarray, " n"]
    chance: float
    neighbours: int

    @property
    def mean(self) -> float:
        """The mean share."""
        return float(self.shares.mean())

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean."""
        return standard_error(self.shares)

    @property
    def above_chance(self) -> bool:
        """Whether the mean exceeds chance by more than two standard errors."""
        return self.mean - 2 * (self.standard_error or 0.0) > self.chance

    def _record(self, name: str) -> dict[str, Any]:
        record = {"n": len(self.shares), "neighbours": self.neighbours, "chance": self.chance}
        return record | {name: self.mean, f"{name}_se": self.standard_error}

    def _sentence(self, what: str, verdict: str) -> str:
        share = with_error(self.mean, self.standard_error, ".1%")
        verdict = verdict if self.above_chance else "no better than chance"
        return f"{share} of {what} (chance {self.chance:.1%}): {verdict}."


@dataclass(frozen=True)
class LocalAgreement(NeighbourShares):
    """How many of the k nearest codes of an example share its label.

    Args:
        shares: For each example, the share of its k nearest others with its label.
        chance: sum_c n_c (n_c - 1) / (n (n - 1)).
        neighbours: k.
        by_class: The mean over the examples of each label; None for a label of at most k examples,
            whose neighbours cannot all share it.
    """

    by_class: tuple[float | None, ...]

    def extra(self) -> dict[str, Any]:
        """The mean share, its standard error, and the mean by label."""
        return self._record("agreement") | {"by_class": self.by_class}

    def reading(self) -> str:
        """Whether the neighbours of a code share its label."""
        good = self.mean - self.chance > GOOD * (1 - self.chance)
        verdict = "nearby codes share labels" if good else "better than chance, with labels mixed"
        return self._sentence(
            f"a code's {self.neighbours} nearest others share its label", verdict
        )


@dataclass(frozen=True)
class NeighbourhoodOverlap(NeighbourShares):
    """How many of the k nearest examples, in data space, are the k nearest by their codes.

    Args:
        shares: For each example, the share of its k nearest data that are among its k nearest
            codes.
        chance: k / (n - 1).
        neighbours: k.
        trustworthiness: From 0 to 1: reduced by how far neighbours of the code are from being
            neighbours in data space, in ranks; about 0.5 by chance.
    """

    FIELDS: ClassVar = ("trustworthiness",)

    trustworthiness: float

    def extra(self) -> dict[str, Any]:
        """The mean share and its standard error."""
        return self._record("overlap")

    def reading(self) -> str:
        """Whether the code preserves the neighbourhoods of the data."""
        share = "most" if self.mean > GOOD else "part"
        return self._sentence(
            f"the {self.neighbours} nearest data are among the nearest codes",
            f"the code preserves {share} of the data's neighbourhoods",
        )


def local_label_agreement(data: LabelledCodes, *, neighbours: int = 10) -> LocalAgreement:
    """1/n sum_i 1/k #{j among the k nearest of i: y_j = y_i}, by Euclidean distance of codes.

    On a sphere the order of distances is that of angles.

    Args:
        data: Codes with labels; at least k + 1.
        neighbours: k.

    Raises:
        ValueError: If `neighbours` is below 1, or not below the number of data, or a label is
            below 0.
    """
    _check_neighbours(len(data), neighbours)
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
    return LocalAgreement(agreement, chance, neighbours, by_class)


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
        ValueError: If the numbers of data and codes differ, `neighbours` is below 1, or not below
            half the number of data used.

    References:
        Neighborhood Preservation in Nonlinear Projection Methods: An Experimental Study (Venna &
        Kaski, 2001), https://doi.org/10.1007/3-540-44668-0_68 (trustworthiness)
    """
    from sklearn.manifold import trustworthiness

    if len(x) != len(codes):
        raise ValueError(f"each datum needs a code, got {len(x)} data and {len(codes)} codes.")
    rows = np.random.default_rng(seed).permutation(len(x))[:MAX_DATA]
    n = len(rows)
    # Beyond half the number of data trustworthiness has no scale.
    _check_neighbours(n // 2, neighbours)
    data = x[rows].reshape(n, -1).astype(np.float32)
    near_data, near_codes = _nearest(data, neighbours), _nearest(codes[rows], neighbours)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(near_data, near_codes, strict=True)]
    trust = trustworthiness(data, codes[rows], n_neighbors=neighbours)
    shares, chance = np.array(shared) / neighbours, neighbours / (n - 1)
    return NeighbourhoodOverlap(shares, chance, neighbours, float(trust))


def _diagnose(subject: Subject) -> LocalAgreement:
    test = subject.compute(RepresentationInputs).test
    return local_label_agreement(test, neighbours=min(NEAR, len(test) - 1))


LOCAL_AGREEMENT = Check(
    "local_agreement",
    _diagnose,
    headline=lambda found: {"label shared by near codes": f"{found.mean:.3f}"},
)


def _nearest(points: np.ndarray, neighbours: int) -> Int[np.ndarray, "n neighbours"]:
    """The rows of each point's nearest others."""
    from sklearn.neighbors import NearestNeighbors

    # Without query points, a point is not its own neighbour, even beside a duplicate.
    return NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)


def _check_neighbours(n: int, neighbours: int) -> None:
    if not 1 <= neighbours < n:
        raise ValueError(f"neighbours must be from 1 to {n - 1}, got {neighbours}.")
