"""Neighbours of codes: whether they share the label, and whether they are neighbours in data space."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.check import Check, Result
from analysis.representation.codes import LabelledCodes, with_error
from analysis.representation.inputs import RepresentationInputs
from pyro_vae.statistics import standard_error

if TYPE_CHECKING:
    from analysis.subject import Subject

# Data whose neighbours in data space are searched, at most: all pairs are compared.
MAX_DATA = 2000
# Beyond this share of the way from chance to 1, neighbourhoods count as good.
GOOD = 0.5
# Number of neighbours in a diagnosis.
NEAR = 10


@dataclass(frozen=True)
class LocalAgreement(Result):
    """How many of the k nearest codes of an example share its label.

    Args:
        agreement: For each example, the share of its k nearest others with its label.
        chance: The value for random neighbours: sum_c n_c (n_c - 1) / (n (n - 1)).
        by_class: The mean over the examples of each label; None for a label of at most k examples, whose
            neighbours cannot all share it.
        neighbours: k.
    """

    FIELDS: ClassVar = ("n", "neighbours", "agreement_se", "chance", "by_class")

    agreement: Float[np.ndarray, " n"]
    chance: float
    by_class: tuple[float | None, ...]
    neighbours: int

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.agreement)

    @property
    def mean(self) -> float:
        """The mean share."""
        return float(self.agreement.mean())

    @property
    def agreement_se(self) -> float | None:
        """The standard error of the mean."""
        return standard_error(self.agreement)

    def extra(self) -> dict[str, float]:
        """The mean share."""
        return {"agreement": self.mean}

    def reading(self) -> str:
        """Whether the neighbours of a code share its label, and the label with the lowest share."""
        error = self.agreement_se or 0.0
        if self.mean - 2 * error <= self.chance:
            verdict = "no better than chance"
        elif self.mean - self.chance > GOOD * (1 - self.chance):
            verdict = "nearby codes share labels"
        else:
            verdict = "better than chance, with labels mixed"
        text = (
            f"{with_error(self.mean, error, '.1%')} of a code's {self.neighbours} nearest others share its label "
            f"(chance {self.chance:.1%}): {verdict}"
        )
        known = {label: share for label, share in enumerate(self.by_class) if share is not None}
        if known:
            worst = min(known, key=lambda label: known[label])
            text += f"; the lowest share is {known[worst]:.1%}, of label {worst}"
        return f"{text}."


@dataclass(frozen=True)
class NeighbourhoodOverlap(Result):
    """How many of the k nearest examples, in data space, are the k nearest by their codes.

    Args:
        by_example: For each example, the share of its k nearest data that are among its k nearest codes.
        chance: k / (n - 1).
        trustworthiness: From 0 to 1: reduced by how far neighbours of the code are from being
            neighbours in data space, in ranks; about 0.5 by chance.
        neighbours: k.
    """

    FIELDS: ClassVar = ("n", "neighbours", "overlap", "overlap_se", "chance", "trustworthiness")

    by_example: Float[np.ndarray, " n"]
    chance: float
    trustworthiness: float
    neighbours: int

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.by_example)

    @property
    def overlap(self) -> float:
        """The mean share."""
        return float(self.by_example.mean())

    @property
    def overlap_se(self) -> float | None:
        """The standard error of the mean."""
        return standard_error(self.by_example)

    def reading(self) -> str:
        """Whether the code preserves the neighbourhoods of the data."""
        error = self.overlap_se or 0.0
        if self.overlap - 2 * error <= self.chance:
            verdict = "no better than chance"
        else:
            share = "most" if self.overlap > GOOD else "part"
            verdict = f"the code preserves {share} of the data's neighbourhoods"
        return (
            f"{with_error(self.overlap, error, '.1%')} of the {self.neighbours} nearest data are among the nearest "
            f"codes (chance {self.chance:.1%}), with trustworthiness {self.trustworthiness:.2f} (chance 0.5): "
            f"{verdict}."
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
    rows = np.random.default_rng(seed).permutation(len(x))[:MAX_DATA]
    n = len(rows)
    # Beyond half the number of data trustworthiness has no scale.
    _check_neighbours(n // 2, neighbours)
    data = x[rows].reshape(n, -1).astype(np.float32)
    near_data, near_codes = _nearest(data, neighbours), _nearest(codes[rows], neighbours)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(near_data, near_codes, strict=True)]
    trust = trustworthiness(data, codes[rows], n_neighbors=neighbours)
    return NeighbourhoodOverlap(
        np.array(shared) / neighbours, neighbours / (n - 1), float(trust), neighbours
    )


def _diagnose(subject: "Subject") -> LocalAgreement:
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
