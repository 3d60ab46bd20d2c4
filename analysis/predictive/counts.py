"""Check how often each count occurs among all elements, in real and in generated data sets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Integer

from analysis.check import Check, Plot
from analysis.plotting.style import BLUE, ORANGE
from analysis.predictive.data_sets import add_legend, group_tree, ppc_figure
from analysis.result import Result
from analysis.subject import Subject

if TYPE_CHECKING:
    import matplotlib.figure


# Counts below the first number have a bin each; larger ones share bins, about `BINS` in all.
SINGLE, BINS = 10, 30
# Expected or observed elements that a bin needs for its relative departure to be considered.
FEWEST = 10
# A relative departure from which on the model's counts are called different.
LARGE = 0.2
# Largest bin for which roots still show the rare counts.
MOST_ROOTS = 5_000


@dataclass(frozen=True)
class CountFrequencies(Result):
    """Elements in each bin of counts, pooled over examples and elements.

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
        """The label of each bin, such as "3" or "16-20"."""
        starts, ends = self.edges.tolist(), (self.edges[1:] - 1).tolist()
        labels = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=False)]
        return [*labels, f"{starts[-1]}+"]

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

    def bin_index(self, counts: Integer[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """The bin of each count, from 0."""
        return (np.searchsorted(self.edges, counts, side="right") - 1).astype(np.int16)

    def extra(self) -> Mapping[str, Any]:
        """The largest relative departure, shares of zeros and of bins outside."""
        label, relative = self.worst or (None, None)
        return {
            "bins": len(self.edges),
            "largest_relative_departure": relative,
            "largest_at": label,
            "bins_outside": self.outside,
            "zeros": self.zeros[0],
            "zeros_generated": self.zeros[1],
        }

    def reading(self) -> str:
        """The bin that is furthest off, and the shares of zeros."""
        zeros = f"zeros are {self.zeros[0]:.1%} of the data and {self.zeros[1]:.1%} of the model's"
        if self.worst is None:
            return f"Too few counts to judge; {zeros}."
        label, relative = self.worst
        different = "differ from" if abs(relative) > LARGE else "are close to"
        return (
            f"The model's counts {different} the data's: counts of {label} occur "
            f"{1 + relative:.2f} times as often as in the model's data sets, and {zeros}."
        )


def count_frequencies(
    real: Integer[np.ndarray, "n elements"], generated: Integer[np.ndarray, "datasets n elements"]
) -> CountFrequencies:
    """#{elements with a count in the bin}, of the real data and over data sets.

    Counts below 10 have a bin each, and all have if none is above 30; otherwise the bins' widths
    grow in proportion to the counts, to about 30 bins, and the last has all that are larger than
    any of the real data.

    Args:
        real: Counts of the real data.
        generated: Counts of as many examples in each data set.

    Raises:
        ValueError: If the shapes do not match, or counts are negative.
    """
    if generated.shape[1:] != real.shape or not len(generated):
        raise ValueError(
            f"generated must be one or more data sets of shape {real.shape}, got "
            f"{generated.shape}."
        )
    if (least := min(int(real.min()), int(generated.min()))) < 0:
        raise ValueError(f"counts must be at least 0, got {least}.")
    largest = int(real.max())
    edges = np.arange(largest + 2)
    if largest >= BINS:
        wide = np.geomspace(SINGLE, largest + 1, BINS - SINGLE)
        edges = np.unique(np.concatenate([np.arange(SINGLE), np.round(wide).astype(np.int64)]))
    observed, *sizes = (
        np.histogram(counts, np.append(edges, np.inf))[0] for counts in (real, *generated)
    )
    low, high = np.quantile(sizes, [0.025, 0.975], axis=0)
    zeros = (float((real == 0).mean()), float((generated == 0).mean()))
    return CountFrequencies(edges, observed, np.mean(sizes, 0), low, high, zeros)


def plot_rootogram(
    found: CountFrequencies,
    real: Integer[np.ndarray, "n elements"],
    generated: Integer[np.ndarray, "datasets n elements"],
) -> "matplotlib.figure.Figure":
    """How often each count occurs in data sets, by `arviz_plots.plot_ppc_rootogram`.

    All elements are pooled. The roots of frequencies are drawn, or logarithms if there are many,
    so that rare counts show beside frequent ones.

    Args:
        found: From `count_frequencies`.
        real: Counts of the real data.
        generated: Counts of as many examples in each data set.
    """
    import arviz_plots

    many = found.observed.max() > MOST_ROOTS
    figure = ppc_figure(
        arviz_plots.plot_ppc_rootogram,
        group_tree(
            {"counts": found.bin_index(real).reshape(-1)},
            {"counts": found.bin_index(generated).reshape(len(generated), -1)},
        ),
        panels=1,
        size=(10.0, 4.6),
        ci_prob=0.95,
        yscale="symlog" if many else "sqrt",
        point_estimate="mean",
        visuals={
            "predictive_markers": {"color": BLUE},
            "credible_interval": {"color": BLUE},
            "observed_markers": {"color": ORANGE},
            "title": False,
        },
    )
    (ax,) = figure.axes
    ax.set_xticks(range(len(found.labels)), found.labels, rotation=60, ha="right")
    ax.set(xlabel="count of an element", ylabel=f"elements ({'log' if many else 'root'} scale)")
    ax.tick_params(labelsize=9)
    add_legend(figure, "data sets from the model: mean and 95% interval", "the real data")
    figure.suptitle(
        f"How often each count occurs: {found.outside:.0%} of the bins lie outside the model's "
        f"95% interval; zeros: data {found.zeros[0]:.1%}, model {found.zeros[1]:.1%}"
    )
    return figure


def _counts(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    flat = subject.real.reshape(len(subject.real), -1)
    return flat, subject.all_generated.reshape(subject.data_sets, *flat.shape)


COUNTS = Check(
    "counts",
    lambda subject: count_frequencies(*_counts(subject)),
    plots=(
        Plot(
            "rootogram",
            "Does each count occur as often in new data as in real ones?",
            lambda found, subject: plot_rootogram(found, *_counts(subject)),
        ),
    ),
    when=lambda subject: subject.support == "counts",
)
