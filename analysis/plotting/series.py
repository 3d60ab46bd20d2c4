"""Series drawn as lines: reconstructions over originals, and samples from the prior."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.plotting.style import BLUE, GREY, new_figure, tidy
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure

# More channels than these are drawn as an image, a row each.
MOST_CHANNELS = 16
# How many times as long as its number of channels a series is at least.
SHORTEST = 4
# Panels side by side, and below one another.
COLUMNS, ROWS = 4, 6


def is_series(event_shape: tuple[int, ...]) -> bool:
    """Whether a datum is a series `(channels, length)` that is drawn as lines.

    Of two axes, the first is that of channels if it has at most 16 and the other is four times as long.

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
    """A panel for each channel of each series, channels below one another on axes of their own.

    Args:
        series: Means of p(x | z).
        data: The data that the means reconstruct, drawn behind them.
        title: What stands above them; None for what they are.
    """
    title = title or f"New {nouns()} from the model: the mean of p(x | z) at z ~ p(z)"
    channels = min(series.shape[1], ROWS)
    bands = max(1, ROWS // channels)
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
