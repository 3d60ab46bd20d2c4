"""Examples drawn one by one: reconstructions beside originals, and samples from the prior.

An event of shape `(rows, columns)` or `(channels, rows, columns)` is an image: grey with one
channel, in colour with three, otherwise with its channels side by side. One of shape `(channels,
length)` that `is_series` is drawn as lines, any other as a profile of its elements.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.plotting.style import BLUE, LINE_COLOURS, ORANGE, new_figure
from analysis.plotting.vectors import is_series, plot_series
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# The values drawn black and white: of all elements, or of each channel.
Limits = tuple[float, float] | tuple[np.ndarray, np.ndarray]


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether an example of this shape is an image, of any number of channels.

    >>> is_image((28, 28)), is_image((4, 32, 32)), is_image((784,)), is_image((3, 128))
    (True, True, False, False)
    """
    return len(event_shape) == 3 or (len(event_shape) == 2 and not is_series(event_shape))


def value_limits(data: Real[np.ndarray, " n *event"]) -> Limits:
    """The values drawn black and white: 0 and 1, or the extremes of data beyond them.

    NaN, a missing value, is left blank.

    Channels that are drawn apart, of series and of images that are neither grey nor RGB, have
    separate limits.
    """
    low, high = float(np.nanmin(data)), float(np.nanmax(data))
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    shape = data.shape[1:]
    if is_series(shape) or (is_image(shape) and len(shape) == 3 and shape[0] not in (1, 3)):
        axes = (0, *range(2, data.ndim))
        low, high = (
            part(data, axis=axes)[:, *[None] * (data.ndim - 2)] for part in (np.nanmin, np.nanmax)
        )
        return low.astype(np.float64), np.maximum(high, low + 1e-9).astype(np.float64)
    return low, high


def plot_reconstructions(
    originals: Real[np.ndarray, " n *event"],
    reconstructions: Real[np.ndarray, " n *event"],
    limits: Limits = (0.0, 1.0),
    columns: int = 10,
) -> "matplotlib.figure.Figure":
    """Each example above the mean of p(x | z) at its code.

    Args:
        originals: The data.
        reconstructions: Their reconstructions, in the same order.
        limits: See `draw_grid`.
        columns: The number of pairs side by side.
    """
    title = f"Test {nouns()} above their reconstructions, the mean of p(x | z) at the code of x"
    if is_series(originals.shape[1:]):
        return plot_series(reconstructions, originals, title.replace("above", "behind"))
    columns = min(columns, len(originals))
    pairs, rows = (originals, reconstructions), []
    for first in range(0, len(originals), columns):
        rows += [data[first : first + columns] for data in pairs]
    figure = new_figure(max(columns + 1.0, 8.0), 1.1 * len(rows) + 0.5)
    names = ["data", "model"] * (len(rows) // 2)
    # A gap between bands keeps each example with its own reconstruction.
    draw_grid(figure, rows, limits, names=names, row_groups=2)
    figure.suptitle(title)
    return figure


def plot_samples(
    samples: Real[np.ndarray, " n *event"],
    limits: Limits = (0.0, 1.0),
    title: str | None = None,
) -> "matplotlib.figure.Figure":
    """Samples in a grid that is as square as their number allows.

    Args:
        samples: The samples.
        limits: See `draw_grid`.
        title: The title; None for means of p(x | z) at z ~ p(z).
    """
    title = title or f"New {nouns()} from the model: the mean of p(x | z) at z ~ p(z)"
    if is_series(samples.shape[1:]):
        return plot_series(samples, title=title)
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    figure = new_figure(max(0.75 * columns, 6.0), 0.75 * rows + 0.5)
    draw_grid(figure, [samples[i * columns : (i + 1) * columns] for i in range(rows)], limits)
    figure.suptitle(title)
    return figure


def draw_grid(
    sheet: "matplotlib.figure.FigureBase",
    rows: Sequence[Sequence[np.ndarray] | np.ndarray],
    limits: Limits = (0.0, 1.0),
    *,
    names: Sequence[str] = (),
    titles: Mapping[int, str] | None = None,
    row_groups: int | None = None,
    column_groups: int | None = None,
    framed: Iterable[tuple[int, int]] = (),
    size: int = 10,
) -> list["matplotlib.axes.Axes"]:
    """Draw examples of one shape in rows and columns, without ticks and frames.

    Images are parts of one image on one panel, with gaps that are not drawn: a panel each takes
    ten times as long. Missing values of images, NaN, are orange. Other examples have a panel each.

    Args:
        sheet: The figure or the part of one to draw on.
        rows: The examples of each row, which may be of different lengths; at least one example.
        limits: The values drawn black and white, or at the bottom and the top of a profile.
        names: The names of the rows, on their left.
        titles: Titles of columns, by their index.
        row_groups: The number of rows between wider gaps; None for equal gaps.
        column_groups: The number of columns between wider gaps.
        framed: The rows and columns of images with a frame.
        size: The size of the font of names and titles.

    Returns:
        The panels: one of images, otherwise one for each place, row by row.
    """
    heights = _line_sizes(len(rows), row_groups)
    widths = _line_sizes(max(map(len, rows)), column_groups)
    drawn = {(i, j): datum for i, row in enumerate(rows) for j, datum in enumerate(row)}
    titles = titles or {}
    if is_image(np.shape(next(iter(drawn.values())))):
        return [_draw_mosaic(sheet, drawn, limits, heights, widths, names, titles, framed, size)]
    cells = sheet.subplots(
        len(heights),
        len(widths),
        squeeze=False,
        height_ratios=heights.tolist(),
        width_ratios=widths.tolist(),
    )
    for ax in cells.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    cells = cells[heights == 1][:, widths == 1]
    for place, datum in drawn.items():
        _draw_profile(cells[place], datum, limits)
    for ax, name in zip(cells[:, 0], names, strict=False):
        ax.set_ylabel(name, rotation="horizontal", ha="right", va="center", fontsize=size)
    for column, title in titles.items():
        cells[0, column].set_title(title, fontsize=size)
    return [*cells.flat]


def _line_sizes(count: int, groups: int | None) -> np.ndarray:
    """The sizes of rows or columns: 1, and less of the empty ones between groups."""
    sizes = np.ones(count)
    return np.insert(sizes, np.arange(groups, count, groups), 0.15) if groups else sizes


def _draw_mosaic(
    sheet: "matplotlib.figure.FigureBase",
    drawn: Mapping[tuple[int, int], np.ndarray],
    limits: Limits,
    heights: np.ndarray,
    widths: np.ndarray,
    names: Sequence[str],
    titles: Mapping[int, str],
    framed: Iterable[tuple[int, int]],
    size: int,
) -> "matplotlib.axes.Axes":
    """Draw the images of `draw_grid` as one."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    images = {place: _scaled_image(datum, limits) for place, datum in drawn.items()}
    height, width, *colours = next(iter(images.values())).shape
    gap = max(1, round(min(height, width) / 9))
    (tops, bottom), (lefts, right) = (
        _starts(lines, length, gap) for lines, length in ((heights, height), (widths, width))
    )
    # NaN is not drawn. Colours have none, and white between them.
    mosaic = np.full((bottom, right, *colours), 1.0 if colours else np.nan)
    for (i, j), image in images.items():
        mosaic[tops[i] : tops[i] + height, lefts[j] : lefts[j] + width] = image
    ax = sheet.subplots()
    ax.imshow(mosaic, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    missing = np.zeros((bottom, right))
    for (i, j), datum in drawn.items():
        mark = _scaled_image(np.isnan(datum).astype(float), (0.0, 1.0)) == 1
        part = missing[tops[i] : tops[i] + height, lefts[j] : lefts[j] + width]
        part[mark.any(-1) if colours else mark] = 1
    if missing.any():
        ax.imshow(np.ma.masked_equal(missing, 0), cmap=ListedColormap([ORANGE]), alpha=0.5)
    ax.set_xticks([lefts[j] + (width - 1) / 2 for j in titles], [*titles.values()])
    ax.set_yticks(tops[: len(names)] + (height - 1) / 2, names)
    ax.tick_params(length=0, labelsize=size, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    for i, j in framed:
        corner = lefts[j] - 0.5, tops[i] - 0.5
        style = {"fill": False, "edgecolor": ORANGE, "linewidth": 2.5, "clip_on": False}
        ax.add_patch(Rectangle(corner, width, height, **style))
    return ax


def _starts(lines: np.ndarray, length: int, gap: int) -> tuple[np.ndarray, int]:
    """The first pixels of rows or columns of images of this length, and the end of the last."""
    ends = np.cumsum(np.round(lines * length).astype(int) + gap)
    return (ends - length - gap)[lines == 1], int(ends[-1]) - gap


def _scaled_image(datum: Real[np.ndarray, " *event"], limits: Limits) -> np.ndarray:
    """An image from 0 to 1, its channels last if it is in colour."""
    low, high = limits
    scaled = np.clip((datum.astype(np.float64) - low) / (high - low), 0, 1)
    colour = scaled.ndim == 3 and len(scaled) == 3
    return np.moveaxis(scaled, 0, -1) if colour else _channel_grid(scaled)


def _draw_profile(
    ax: "matplotlib.axes.Axes", datum: Real[np.ndarray, " *event"], limits: Limits
) -> None:
    """Draw a series as lines, and a vector as a profile of its elements."""
    low, high = limits
    if is_series(datum.shape):
        for channel, values in enumerate((datum.astype(np.float64) - low) / (high - low)):
            ax.plot(values, color=LINE_COLOURS[channel % len(LINE_COLOURS)], linewidth=0.8)
        ax.set_ylim(-0.05, 1.05)
    else:
        low, high = float(np.min(low)), float(np.max(high))
        values = datum.reshape(-1)
        # Bars start at zero, or at the nearest visible value.
        foot = float(np.clip(0, low, high))
        ax.fill_between(np.arange(len(values)), foot, values, step="mid", color=BLUE, linewidth=0)
        margin = 0.05 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set(xticks=[], yticks=[])


def _channel_grid(image: np.ndarray) -> np.ndarray:
    """The channels of an image in a grid that is as square as possible, separated by white."""
    if image.ndim == 2 or len(image) == 1:
        return image.reshape(image.shape[-2:])
    columns = math.ceil(math.sqrt(len(image)))
    rows = math.ceil(len(image) / columns)
    gap = max(1, image.shape[-1] // 16)
    # NaN is not drawn.
    cells = np.full((rows * columns, image.shape[1] + gap, image.shape[2] + gap), np.nan)
    cells[: len(image), :-gap, :-gap] = image
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * cells.shape[1], -1)[:-gap, :-gap]
