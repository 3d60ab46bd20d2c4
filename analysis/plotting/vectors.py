"""Vectors, such as rows of a table or counts of words, with the names of their elements.

Few elements are drawn as heat maps, one row an element. Of long vectors of counts the largest elements of
each are drawn, of other long vectors the elements that vary most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.plotting.labels import shortened
from analysis.plotting.style import BLUE, GREY, new_figure, tidy
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Up to so many elements a profile shows them all.
LONGEST_PROFILE = 64
PANELS, ELEMENTS, COLUMNS = 12, 8, 4
LONGEST_NAME = 14
# A heat map has at most so many elements.
MOST_ELEMENTS = 30
# Neighbouring elements of spectra and other series correlate by more than this.
ORDERED_CORRELATION = 0.5


@dataclass(frozen=True)
class Elements:
    """The names of a vector's elements, and the scale that all of them share in a figure.

    Args:
        names: A name for each.
        center: What is taken from each before it is drawn.
        spread: What it is then divided by.
        unit: What the scaled values are.
        counts: Whether values are counts, which are drawn as log(1 + x).
        named: Whether the names are the user's own, not numbers.
    """

    names: tuple[str, ...]
    center: Real[np.ndarray, " elements"]
    spread: Real[np.ndarray, " elements"]
    unit: str
    counts: bool
    named: bool

    @classmethod
    def of(
        cls, data: Real[np.ndarray, " n *event"], names: Sequence[str] = ()
    ) -> "Elements | None":
        """The elements of vectors; None if the data are no vectors, or are series without names.

        Real values are standardised by mean and standard deviation of the data, counts are drawn as
        log(1 + x), and values from 0 to 1 as they are.

        Args:
            data: Real data, as many as there are.
            names: The name of each element, if they have names.
        """
        if data.ndim != 2:
            return None
        values = data.astype(np.float64)
        counts = bool(values.min() >= 0 and values.max() > 1 and (values == values.round()).all())
        if not names and not counts and is_ordered(values):
            return None
        elements = values.shape[1]
        center, spread, unit = np.zeros(elements), np.ones(elements), "value"
        if counts:
            unit = "log(1 + count)"
        elif values.min() < 0 or values.max() > 1:
            center, deviation = values.mean(0), values.std(0)
            spread = np.where(deviation > 0, deviation, 1.0)
            unit = "standard deviations from the mean"
        shown = tuple(names) or tuple(str(index) for index in range(elements))
        return cls(shown, center, spread, unit, counts, bool(names))

    @property
    def largest(self) -> bool:
        """Whether each vector is drawn by its largest elements: long vectors of counts."""
        return self.counts and is_long((len(self.names),))

    @property
    def has_room(self) -> bool:
        """Whether a figure has room for the names of all elements."""
        return len(self.names) <= MOST_ELEMENTS

    def scaled(
        self, values: Real[np.ndarray, "*batch elements"]
    ) -> Real[np.ndarray, "*batch elements"]:
        """Values on the scale that all elements share."""
        if self.counts:
            return np.log1p(np.maximum(values.astype(np.float64), 0))
        return (values.astype(np.float64) - self.center) / self.spread

    def label(self, index: int) -> str:
        """An element in a sentence.

        >>> values = np.array([[0.0, 1.5], [1.0, 2.5]])
        >>> Elements.of(values, ["age", "height"]).label(1), Elements.of(values).label(1)
        ('height', 'element 1')
        """
        return self.names[index] if self.named else f"element {self.names[index]}"

    def draw_ticks(self, ax: "matplotlib.axes.Axes") -> None:
        """Name the elements below a panel that has them from left to right, if there is room for it."""
        if self.named and self.has_room:
            names = [shortened(name, 24) for name in self.names]
            ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
            ax.set_xlabel("")
        else:
            ax.set_xlabel("element, by its number")


def is_ordered(data: Real[np.ndarray, "n elements"]) -> bool:
    """Whether neighbouring elements of long vectors correlate, as in spectra and other series.

    >>> walks = np.random.default_rng(0).normal(size=(50, 100)).cumsum(axis=1)
    >>> is_ordered(walks), is_ordered(np.diff(walks))
    (True, False)
    """
    if not is_long(data.shape[1:]):
        return False
    centered = data - data.mean(0)
    left, right = centered[:, :-1], centered[:, 1:]
    norms = np.sqrt((left**2).sum(0) * (right**2).sum(0))
    known = norms > 0
    correlation = (left * right).sum(0)[known] / norms[known]
    return bool(len(correlation) and correlation.mean() > ORDERED_CORRELATION)


def plot_vectors(
    panels: Mapping[str, Real[np.ndarray, "_ elements"]],
    elements: Elements,
    title: str,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    paired: bool = False,
) -> "matplotlib.figure.Figure":
    """Heat maps side by side, a row an element and a column a vector.

    Args:
        panels: Vectors, by what they are.
        elements: Names and scale of the elements.
        title: What stands above them.
        labels: What the columns of a panel are called, by the name of the panel.
        paired: Whether the second panel is of the same data as the first. Of more than 30 elements those
            are then drawn in which the two differ most, otherwise those that vary most.
    """
    columns = sum(len(vectors) for vectors in panels.values())
    rows = min(len(elements.names), MOST_ELEMENTS)
    width = float(np.clip(0.22 * columns + 3.5, 8.0, 14.0))
    figure = new_figure(width, 0.22 * rows + (2.4 if labels else 1.7))
    chosen = draw_vectors(figure, panels, elements, labels=labels, paired=paired)
    figure.suptitle(f"{title}{chosen}")
    return figure


def draw_vectors(
    sheet: "matplotlib.figure.FigureBase",
    panels: Mapping[str, Real[np.ndarray, "_ elements"]],
    elements: Elements,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    paired: bool = False,
) -> str:
    """Draw heat maps on a part of a figure: see `plot_vectors`.

    Returns:
        Which elements were chosen, as the end of a title; empty if all are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    scaled = {name: elements.scaled(vectors) for name, vectors in panels.items()}
    first, *others = scaled.values()
    total = len(elements.names)
    rows, chosen = np.arange(total), ""
    if total > MOST_ELEMENTS:
        by = (
            np.square(first - others[0]).mean(0)
            if paired
            else np.concatenate([*scaled.values()]).var(0)
        )
        rows = np.argsort(-by, kind="stable")[:MOST_ELEMENTS]
        which = "in which they differ most" if paired else "that vary most"
        chosen = f"\nthe {MOST_ELEMENTS} of {total:,} elements {which}"
    values = np.concatenate([vectors[:, rows] for vectors in scaled.values()])
    values = values[np.isfinite(values)]
    signed = bool(len(values)) and values.min() < 0
    # A few extreme values do not make all others pale.
    high = float(np.quantile(np.abs(values), 0.99)) if len(values) else 1.0
    high = high or 1.0
    colours = (
        {"cmap": "RdBu_r", "vmin": -high, "vmax": high} if signed else {"vmin": 0, "vmax": high}
    )
    cells = sheet.subplots(
        1,
        len(scaled),
        squeeze=False,
        sharey=True,
        width_ratios=[max(len(vectors), 4) for vectors in scaled.values()],
    )[0]
    for ax, (name, vectors) in zip(cells, scaled.items(), strict=True):
        ax.imshow(vectors[:, rows].T, aspect="auto", interpolation="nearest", **colours)
        ax.set_title(name, fontsize=10)
        said = (labels or {}).get(name)
        if said is None:
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.set_xlabel(f"{nouns()}, in order", fontsize=9)
        else:
            ax.set_xticks(range(len(said)), said, rotation=90, fontsize=8)
        ax.tick_params(axis="both", length=2)
        ax.spines[:].set_visible(False)
    named = [shortened(elements.names[row], 24) for row in rows]
    cells[0].set_yticks(range(len(rows)), named, fontsize=9)
    if not elements.named:
        cells[0].set_ylabel("element")
    sheet.colorbar(
        cells[0].images[0], ax=list(cells), label=elements.unit, extend="both" if signed else "max"
    )
    return chosen


def is_long(event_shape: tuple[int, ...]) -> bool:
    """Whether a datum is a vector of too many elements to be drawn one beside the other.

    >>> is_long((3072,)), is_long((9,)), is_long((1, 28, 28))
    (True, False, False)
    """
    return len(event_shape) == 1 and event_shape[0] > LONGEST_PROFILE


def plot_largest(
    means: Real[np.ndarray, "n elements"],
    names: Sequence[str] = (),
    data: Real[np.ndarray, "n elements"] | None = None,
    title: str | None = None,
    titles: Sequence[str] = (),
) -> "matplotlib.figure.Figure":
    """A panel a vector: its largest elements as bars, the largest on top.

    Args:
        means: Means of p(x | z).
        names: What the elements are called; their numbers, if not given.
        data: The data that the means reconstruct. Then the elements are the largest of the data, and
            the data's bars stand behind the means'.
        title: What stands above them; None for what they are.
        titles: What stands above each panel.
    """
    if title is None:
        title = f"New {nouns()} from the model: the largest elements of the mean of p(x | z) at z ~ p(z)"
    shown = min(len(means), PANELS)
    rows = math.ceil(shown / COLUMNS)
    figure = new_figure(3.0 * COLUMNS, 2.3 * rows + 0.8)
    cells = figure.subplots(rows, COLUMNS, squeeze=False)
    for index, ax in enumerate(cells.flat):
        if index >= shown:
            ax.set_axis_off()
            continue
        ranked = means[index] if data is None else data[index]
        largest = np.argsort(ranked)[::-1][:ELEMENTS]
        places = np.arange(len(largest))
        if data is not None:
            ax.barh(places, data[index][largest], height=0.8, color=GREY, alpha=0.5, label="data")
        height = 0.8 if data is None else 0.4
        ax.barh(places, means[index][largest], height=height, color=BLUE, label="model")
        called = [names[i] if i < len(names) else str(i) for i in largest]
        ax.set_yticks(places, [name[:LONGEST_NAME] for name in called])
        ax.invert_yaxis()
    for ax, said in zip(cells.flat, titles, strict=False):
        ax.set_title(said, fontsize=8)
    tidy(list(cells.flat[:shown]), grid="x")
    figure.suptitle(title)
    figure.supxlabel(
        "value of the element" if names else "value of the element, which is named by its number"
    )
    if data is not None:
        figure.legend(*cells[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure
