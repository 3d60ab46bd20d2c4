"""How often each count occurs among all elements, in real data and in data sets from the model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from pyro_vae.evidence.numbers import finite

# Up to so many counts have a bin each. Larger ones share bins, about this many in all.
SINGLE = 10
BINS = 30
# Bins that are expected less often say little by their relative departure.
FEWEST = 10
# A relative departure beyond it is worth looking at.
LARGE = 0.2


@dataclass(frozen=True)
class CountFrequencies:
    """Elements in each bin of counts, pooled over data and elements.

    Args:
        edges: The least count of each bin; the last bin has no end.
        observed: Elements of the real data in each bin.
        expected: The mean over data sets.
        low: The 2.5 % quantile over data sets.
        high: The 97.5 % quantile.
        zeros: The share of zeros, in the real data and in the mean over data sets.
    """

    edges: Int[np.ndarray, " bins"]
    observed: Int[np.ndarray, " bins"]
    expected: Float[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]
    zeros: tuple[float, float]

    @property
    def labels(self) -> list[str]:
        """Of each bin: "3", "16-20"."""
        ends = [*(self.edges[1:] - 1).tolist(), None]
        return [
            f"{start}+" if end is None else str(start) if start == end else f"{start}-{end}"
            for start, end in zip(self.edges.tolist(), ends, strict=True)
        ]

    def binned(self, counts: Integer[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """The bin of each count, from 0."""
        return (np.searchsorted(self.edges, counts, side="right") - 1).astype(np.int16)

    @property
    def worst(self) -> tuple[str, float] | None:
        """The bin furthest off and (observed - expected) / expected; None if all are too rare."""
        often = np.maximum(self.expected, self.observed) >= FEWEST
        if not often.any():
            return None
        floor = np.maximum(self.expected, 1.0)
        relative = np.where(often, (self.observed - self.expected) / floor, 0.0)
        place = int(np.abs(relative).argmax())
        return self.labels[place], float(relative[place])

    @property
    def outside(self) -> float:
        """The share of bins observed outside the 95 % interval of the data sets."""
        return float(((self.observed < self.low) | (self.observed > self.high)).mean())

    def title(self) -> str:
        """What a rootogram shows, in a line."""
        words = f"{self.outside:.0%} of the bins lie outside the model's 95% interval"
        real, new = self.zeros
        return f"How often each count occurs: {words}; zeros: data {real:.1%}, model {new:.1%}"

    def summary(self) -> dict[str, Any]:
        """The largest relative departure, shares of zeros and of bins outside, as plain values."""
        worst = self.worst
        return {
            "bins": len(self.edges),
            "largest_relative_departure": None if worst is None else finite(worst[1]),
            "largest_at": None if worst is None else worst[0],
            "bins_outside": finite(self.outside),
            "zeros": finite(self.zeros[0]),
            "zeros_generated": finite(self.zeros[1]),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Two sentences: whether the model makes each count as often as it occurs."""
        zeros = f"zeros are {self.zeros[0]:.1%} of the data and {self.zeros[1]:.1%} of the model's"
        if self.worst is None:
            return f"Too few counts to judge; {zeros}."
        label, relative = self.worst
        times = (
            f"{1 + relative:.1f} times as often as"
            if relative > 1
            else (f"{abs(relative):.0%} {'more' if relative > 0 else 'less'} often than")
        )
        where = f"counts of {label} occur {times} in the model's data sets"
        if abs(relative) <= LARGE:
            return f"The model makes each count about as often as it occurs: at worst, {where}; {zeros}."
        return (
            f"The model's counts are distributed otherwise than the data's: {where}; "
            f"{zeros}. Too few zeros or large counts ask for a likelihood with more "
            "dispersion, or with its own zeros."
        )


def count_frequencies(
    real: Integer[np.ndarray, "n elements"], generated: Integer[np.ndarray, "datasets n elements"]
) -> CountFrequencies:
    """#{elements with a count in the bin}, of the real data and over data sets.

    Counts below 10 have a bin each, and all have if none is above 30; otherwise the bins' widths
    grow in proportion to the counts, to about 30 bins, and the last takes all that are larger than
    any of the real data.

    Args:
        real: Counts of the real data.
        generated: Counts of as many data in each data set.

    Raises:
        ValueError: If the shapes do not match, or counts are below zero.
    """
    if generated.shape[1:] != real.shape or not len(generated):
        raise ValueError(
            f"generated must be one or more data sets of shape {real.shape}, got {generated.shape}."
        )
    if min(int(real.min()), int(generated.min())) < 0:
        raise ValueError(f"counts must be at least 0, got {min(real.min(), generated.min())}.")
    edges = _edges(int(real.max()))
    sizes = [np.bincount(_bins(edges, each), minlength=len(edges)) for each in generated]
    low, high = np.quantile(sizes, [0.025, 0.975], axis=0)
    return CountFrequencies(
        edges=edges,
        observed=np.bincount(_bins(edges, real), minlength=len(edges)),
        expected=np.mean(sizes, 0),
        low=low,
        high=high,
        zeros=(float((real == 0).mean()), float((generated == 0).mean())),
    )


def _bins(edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.searchsorted(edges, counts.reshape(-1), side="right") - 1


def _edges(largest: int) -> Int[np.ndarray, " bins"]:
    """Least counts of bins up to the largest count, and of one beyond."""
    if largest < BINS:
        return np.arange(largest + 2)
    wide = np.geomspace(SINGLE, largest + 1, BINS - SINGLE)
    return np.unique(np.concatenate([np.arange(SINGLE), np.round(wide).astype(np.int64)]))
