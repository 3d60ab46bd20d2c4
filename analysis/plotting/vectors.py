"""Vectors, such as rows of a table or word counts, with the names of their elements, and series.

Vectors are drawn as heat maps with a row for each element: of long vectors the elements that vary
most. Long vectors of counts are drawn by the largest elements of each. Series are drawn as lines.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.plotting.style import BLUE, GREY, new_figure, shorten, tidy
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# The longest vector drawn as a profile of all its elements.
LONGEST_PROFILE = 64
PANELS, ELEMENTS, COLUMNS = 12, 8, 4
LONGEST_NAME = 14
# The largest number of elements of a heat map.
MOST_ELEMENTS = 30
# The smallest correlation of neighbouring elements in spectra and other series.
ORDERED_CORRELATION = 0.5
# A series has at most this number of channels, and this many times as many positions.
MOST_CHANNELS = 16
SHORTEST = 4
# Rows of a figure of series.
SERIES_ROWS = 6


@dataclass(frozen=True)
class Elements:
    """The names of a vector's elements, and their common scale in a figure.

    Args:
        names: A name for each element.
        center: The value subtracted from each element.
        spread: The value each element is then divided by.
        unit: The unit of scaled values.
        counts: Whether values are counts, which are drawn as log(1 + x).
        named: Whether the names are the user's, not numbers.
    """

    names: tuple[str, ...]
    center: Real[np.ndarray, " elements"]
    spread: Real[np.ndarray, " elements"]
    unit: str
    counts: bool
    named: bool

    @classmethod
    def from_data(
        cls, data: Real[np.ndarray, " n *event"], names: Sequence[str] = ()
    ) -> "Elements | None":
        """The elements of vectors; None for other data, and for series without names.

        Real values are standardised by the data, counts are drawn as log(1 + x), and values from 0
        to 1 unchanged.

        Args:
            data: Real data.
            names: The name of each element, if there are names.
        """
        if data.ndim != 2:
            return None
        values = data.astype(np.float64)
        known = values[~np.isnan(values)]
        counts = bool(known.min() >= 0 and known.max() > 1 and (known == known.round()).all())
        if not names and not counts and is_ordered(values):
            return None
        elements = values.shape[1]
        center, spread, unit = np.zeros(elements), np.ones(elements), "value"
        if counts:
            unit = "log(1 + count)"
        elif known.min() < 0 or known.max() > 1:
            gaps = len(known) < values.size
            center = np.nanmean(values, 0) if gaps else values.mean(0)
            deviation = np.nanstd(values, 0) if gaps else values.std(0)
            spread = np.where(deviation > 0, deviation, 1.0)
            unit = "standard deviations from the mean"
        # Fonts have no tabs, and a line break would move the labels.
        shown = tuple(" ".join(name.split()) for name in names or map(str, range(elements)))
        return cls(shown, center, spread, unit, counts, bool(names))

    @property
    def largest(self) -> bool:
        """Whether each vector is drawn by its largest elements, as long vectors of counts are."""
        return self.counts and is_long((len(self.names),))

    @property
    def has_room(self) -> bool:
        """Whether a figure has room for the names of all elements."""
        return len(self.names) <= MOST_ELEMENTS

    def scaled(
        self, values: Real[np.ndarray, "*batch elements"]
    ) -> Real[np.ndarray, "*batch elements"]:
        """Values on the common scale."""
        if self.counts:
            return np.log1p(np.maximum(values.astype(np.float64), 0))
        return (values.astype(np.float64) - self.center) / self.spread

    def label(self, index: int) -> str:
        """The name of an element in a sentence.

        >>> values = np.array([[0.0, 1.5], [1.0, 2.5]])
        >>> named = Elements.from_data(values, ["age", "height"])
        >>> named.label(1), Elements.from_data(values).label(1)
        ('height', 'element 1')
        """
        return self.names[index] if self.named else f"element {self.names[index]}"

    def draw_ticks(self, ax: "matplotlib.axes.Axes") -> None:
        """Label the horizontal axis of a panel with the elements' names, if there is room."""
        if self.named and self.has_room:
            names = [shorten(name, 24) for name in self.names]
            ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=9)
            ax.set_xlabel("")
        else:
            ax.set_xlabel("element, by its number")


def is_ordered(data: Real[np.ndarray, "n elements"]) -> bool:
    """Whether neighbouring elements of long vectors correlate, as in spectra.

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
    """Heat maps side by side, with a row for each element and a column for each vector.

    Args:
        panels: Vectors by the title of their panel.
        elements: The names and scale of the elements.
        title: The title.
        labels: The names of the columns by panel.
        paired: Whether the second panel reconstructs the first. Of more than 30 elements, those in
            which the two differ most are then drawn, otherwise those that vary most.
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
    """Draw the heat maps of `plot_vectors` on a part of a figure.

    Returns:
        The choice of elements, as the end of a title; empty if all are drawn.
    """
    from matplotlib.ticker import MaxNLocator

    scaled = {name: elements.scaled(vectors) for name, vectors in panels.items()}
    first, *others = scaled.values()
    total = len(elements.names)
    rows, chosen = np.arange(total), ""
    if total > MOST_ELEMENTS:
        if paired:
            by = np.square(first - others[0]).mean(0)
        else:
            by = np.concatenate([*scaled.values()]).var(0)
        rows = np.argsort(-by, kind="stable")[:MOST_ELEMENTS]
        which = "in which they differ most" if paired else "that vary most"
        chosen = f"\nthe {MOST_ELEMENTS} of {total:,} elements {which}"
    values = np.concatenate([vectors[:, rows] for vectors in scaled.values()])
    values = values[np.isfinite(values)]
    signed = bool(len(values)) and values.min() < 0
    # A quantile, so that a few extreme values do not make all others pale.
    high = (float(np.quantile(np.abs(values), 0.99)) if len(values) else 1.0) or 1.0
    colours = {"cmap": "RdBu_r", "vmin": -high} if signed else {"vmin": 0}
    widths = [max(len(vectors), 4) for vectors in scaled.values()]
    cells = sheet.subplots(1, len(scaled), squeeze=False, sharey=True, width_ratios=widths)[0]
    for ax, (name, vectors) in zip(cells, scaled.items(), strict=True):
        ax.imshow(vectors[:, rows].T, aspect="auto", interpolation="nearest", vmax=high, **colours)
        ax.set_title(name, fontsize=10)
        said = (labels or {}).get(name)
        if said is None:
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.set_xlabel(f"{nouns()}, in order", fontsize=9)
        else:
            ax.set_xticks(range(len(said)), said, rotation=90, fontsize=8)
        ax.tick_params(axis="both", length=2)
        ax.spines[:].set_visible(False)
    named = [shorten(elements.names[row], 24) for row in rows]
    cells[0].set_yticks(range(len(rows)), named, fontsize=9)
    if not elements.named:
        cells[0].set_ylabel("element")
    sheet.colorbar(
        cells[0].images[0], ax=list(cells), label=elements.unit, extend="both" if signed else "max"
    )
    return chosen


def is_long(event_shape: tuple[int, ...]) -> bool:
    """Whether an example is a vector of too many elements for a profile.

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
    """The largest elements of each vector as bars, the largest on top.

    Args:
        means: Means of p(x | z).
        names: The names of the elements; their numbers, if not given.
        data: The data that the means reconstruct, drawn behind them; their largest elements are
            shown.
        title: The title; None for means of p(x | z) at z ~ p(z).
        titles: The titles of the panels.
    """
    means_of = "the largest elements of the mean of p(x | z) at z ~ p(z)"
    title = title or f"New {nouns()} from the model: {means_of}"
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
    figure.supxlabel("value of the element" + ("" if names else ", named by its number"))
    if data is not None:
        figure.legend(*cells[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def is_series(event_shape: tuple[int, ...]) -> bool:
    """Whether an example is a series `(channels, length)`, which is drawn as lines.

    It is if it has at most 16 channels and at least four times as many positions.

    >>> is_series((3, 128)), is_series((28, 28)), is_series((128,)), is_series((1, 28, 28))
    (True, False, False, False)
    """
    return (
        len(event_shape) == 2
        and event_shape[0] <= MOST_CHANNELS
        and event_shape[1] >= SHORTEST * event_shape[0]
    )


def plot_series(
    series: Real[np.ndarray, "n channels length"],
    data: Real[np.ndarray, "n channels length"] | None = None,
    title: str | None = None,
) -> "matplotlib.figure.Figure":
    """A panel for each channel of each series.

    Args:
        series: Means of p(x | z).
        data: The data that the means reconstruct, drawn behind them.
        title: The title; None for means of p(x | z) at z ~ p(z).
    """
    title = title or f"New {nouns()} from the model: the mean of p(x | z) at z ~ p(z)"
    channels = min(series.shape[1], SERIES_ROWS)
    bands = max(1, SERIES_ROWS // channels)
    shown = min(len(series), COLUMNS * bands)
    bands = math.ceil(shown / COLUMNS)
    figure = new_figure(2.9 * COLUMNS, 1.35 * bands * channels + 0.9)
    cells = figure.subplots(bands * channels, COLUMNS, squeeze=False, sharex=True)
    drawn = series[:shown] if data is None else np.stack([series[:shown], data[:shown]])
    for index in range(bands * COLUMNS):
        band, column = divmod(index, COLUMNS)
        for channel in range(channels):
            ax = cells[band * channels + channel, column]
            if index >= shown:
                ax.set_axis_off()
                continue
            if data is not None:
                ax.plot(data[index, channel], color=GREY, linewidth=2.0, alpha=0.6, label="data")
            ax.plot(series[index, channel], color=BLUE, linewidth=1.1, label="model")
            values = drawn[..., channel, :]
            margin = 0.05 * max(float(values.max()) - float(values.min()), 1e-9)
            ax.set_ylim(float(values.min()) - margin, float(values.max()) + margin)
            ax.tick_params(labelsize=8, labelleft=column == 0)
            if column == 0 and series.shape[1] > 1:
                ax.set_ylabel(f"channel {channel}", fontsize=9)
    tidy(cells.flat, grid="both")
    left_out = series.shape[1] - channels
    figure.suptitle(
        title + (f"\nthe first {channels} of {series.shape[1]} channels" if left_out else "")
    )
    figure.supxlabel("position in the series", fontsize=10)
    if data is not None:
        figure.legend(*cells[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure
