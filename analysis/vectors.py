"""Long vectors, such as counts of words: the largest elements of each, by name."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.canvas import BLUE, GREY, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

# Up to so many elements a profile shows them all.
LONGEST_PROFILE = 64
PANELS, ELEMENTS, COLUMNS = 12, 8, 4
LONGEST_NAME = 14


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
    title: str = "New data from the model: the largest elements of the mean of p(x | z) at z ~ p(z)",
) -> "matplotlib.figure.Figure":
    """A panel a datum: its largest elements as bars, the largest on top.

    Args:
        means: Means of p(x | z).
        names: What the elements are called; their numbers, if not given.
        data: The data that the means reconstruct. Then the elements are the largest of the data, and
            the data's bars stand behind the means'.
        title: What stands above them.
    """
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
    tidy(list(cells.flat[:shown]), grid="x")
    figure.suptitle(title)
    figure.supxlabel("value of the element")
    if data is not None:
        figure.legend(*cells[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure
