"""Data drawn one by one: reconstructions beside originals, and samples from the prior.

An event of shape `(rows, columns)`, `(1, rows, columns)` or `(3, rows, columns)` is an image; any
other is drawn as a profile, its elements from left to right.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.canvas import BLUE, new_figure

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether a datum of this shape is a grey or a colour image.

    >>> is_image((28, 28)), is_image((3, 32, 32)), is_image((784,))
    (True, True, False)
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def plot_reconstructions(
    originals: Real[np.ndarray, " n *event"],
    reconstructions: Real[np.ndarray, " n *event"],
    limits: tuple[float, float] = (0.0, 1.0),
    columns: int = 10,
) -> "matplotlib.figure.Figure":
    """Each datum above the mean of p(x | z) at its embedded code.

    Args:
        originals: The data.
        reconstructions: Their reconstructions, in the same order.
        limits: The values drawn black and white, or at the foot and the head of a profile.
        columns: The number of pairs side by side.
    """
    columns = min(columns, len(originals))
    bands = math.ceil(len(originals) / columns)
    figure = new_figure(max(columns + 1.0, 8.0), 2.2 * bands + 0.5)
    # An empty row between the bands keeps each datum with its own reconstruction.
    cells = figure.subplots(
        3 * bands - 1, columns, squeeze=False, height_ratios=([1, 1, 0.15] * bands)[:-1]
    )
    for index, pair in enumerate(zip(originals, reconstructions, strict=True)):
        band, column = divmod(index, columns)
        for row, datum in enumerate(pair):
            draw_datum(cells[3 * band + row, column], datum, limits)
    for ax in cells.flat:
        strip(ax)
    for index, ax in enumerate(cells[:, 0]):
        name = ("data", "model", "")[index % 3]
        ax.set_ylabel(name, rotation="horizontal", ha="right", va="center")
    figure.suptitle("Test data above their reconstructions, the mean of p(x | z) at the code of x")
    return figure


def plot_samples(
    samples: Real[np.ndarray, " n *event"],
    limits: tuple[float, float] = (0.0, 1.0),
    title: str = "New data from the model: the mean of p(x | z) at z ~ p(z)",
) -> "matplotlib.figure.Figure":
    """Samples in a grid that is as square as their number allows.

    Args:
        samples: What to draw.
        limits: The values drawn black and white, or at the foot and the head of a profile.
        title: What stands above them.
    """
    columns = math.ceil(math.sqrt(len(samples)))
    rows = math.ceil(len(samples) / columns)
    figure = new_figure(max(0.75 * columns, 6.0), 0.75 * rows + 0.5)
    cells = figure.subplots(rows, columns, squeeze=False)
    for ax, sample in zip(cells.flat, samples, strict=False):
        draw_datum(ax, sample, limits)
    for ax in cells.flat:
        strip(ax)
    figure.suptitle(title)
    return figure


def draw_datum(
    ax: "matplotlib.axes.Axes",
    datum: Real[np.ndarray, " *event"],
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """One datum, an image or the profile of an event that is none, in a panel without ticks and frame.

    Args:
        ax: The panel.
        datum: What to draw.
        limits: The values drawn black and white, or at the foot and the head of a profile.
    """
    low, high = limits
    if is_image(datum.shape):
        colour = datum.ndim == 3 and len(datum) == 3
        scaled = np.clip((datum.astype(np.float64) - low) / (high - low), 0, 1)
        image = np.moveaxis(scaled, 0, -1) if colour else scaled.reshape(datum.shape[-2:])
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        values = datum.reshape(-1)
        # Bars stand on zero, where zero is in sight.
        foot = float(np.clip(0, low, high))
        ax.fill_between(np.arange(len(values)), foot, values, step="mid", color=BLUE, linewidth=0)
        margin = 0.05 * (high - low)
        ax.set_ylim(low - margin, high + margin)
    strip(ax)


def strip(ax: "matplotlib.axes.Axes") -> None:
    """Take ticks and frame away from a panel."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
