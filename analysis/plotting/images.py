"""Examples drawn one by one: reconstructions beside originals, and samples from the prior.

An event of shape `(rows, columns)` or `(channels, rows, columns)` is an image: grey with one
channel, in colour with three, otherwise with its channels side by side. One of shape `(channels,
length)` that `is_series` is drawn as lines, any other as a profile of its elements.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.plotting.style import BLUE, LINE_COLOURS, new_figure
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

    Channels that are drawn apart, of series and of images that are neither grey nor RGB, have
    separate limits.
    """
    low, high = float(data.min()), float(data.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    shape = data.shape[1:]
    if is_series(shape) or (is_image(shape) and len(shape) == 3 and shape[0] not in (1, 3)):
        axes = (0, *range(2, data.ndim))
        low, high = (
            part(data, axis=axes)[:, *[None] * (data.ndim - 2)] for part in (np.min, np.max)
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
        limits: See `draw_example`.
        columns: The number of pairs side by side.
    """
    title = f"Test {nouns()} above their reconstructions, the mean of p(x | z) at the code of x"
    if is_series(originals.shape[1:]):
        return plot_series(reconstructions, originals, title.replace("above", "behind"))
    columns = min(columns, len(originals))
    bands = math.ceil(len(originals) / columns)
    figure = new_figure(max(columns + 1.0, 8.0), 2.2 * bands + 0.5)
    # An empty row between bands keeps each example with its own reconstruction.
    heights = ([1, 1, 0.15] * bands)[:-1]
    cells = figure.subplots(3 * bands - 1, columns, squeeze=False, height_ratios=heights)
    for index, pair in enumerate(zip(originals, reconstructions, strict=True)):
        band, column = divmod(index, columns)
        for row, datum in enumerate(pair):
            draw_example(cells[3 * band + row, column], datum, limits)
    for ax in cells.flat:
        hide_axes(ax)
    for index, ax in enumerate(cells[:, 0]):
        name = ("data", "model", "")[index % 3]
        ax.set_ylabel(name, rotation="horizontal", ha="right", va="center")
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
        limits: See `draw_example`.
        title: The title; None for means of p(x | z) at z ~ p(z).
    """
    title = title or f"New {nouns()} from the model: the mean of p(x | z) at z ~ p(z)"
    if is_series(samples.shape[1:]):
        return plot_series(samples, title=title)
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    figure = new_figure(max(0.75 * columns, 6.0), 0.75 * rows + 0.5)
    cells = figure.subplots(rows, columns, squeeze=False)
    for ax, sample in zip(cells.flat, samples, strict=False):
        draw_example(ax, sample, limits)
    for ax in cells.flat:
        hide_axes(ax)
    figure.suptitle(title)
    return figure


def draw_example(
    ax: "matplotlib.axes.Axes",
    datum: Real[np.ndarray, " *event"],
    limits: Limits = (0.0, 1.0),
) -> None:
    """Draw one example in a panel without ticks and frame.

    Args:
        ax: The panel.
        datum: The example.
        limits: The values drawn black and white, or at the bottom and the top of a profile.
    """
    low, high = limits
    if is_image(datum.shape):
        scaled = np.clip((datum.astype(np.float64) - low) / (high - low), 0, 1)
        colour = scaled.ndim == 3 and len(scaled) == 3
        image = np.moveaxis(scaled, 0, -1) if colour else _channel_grid(scaled)
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    elif is_series(datum.shape):
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
    hide_axes(ax)


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


def hide_axes(ax: "matplotlib.axes.Axes") -> None:
    """Remove ticks and frame from a panel."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
