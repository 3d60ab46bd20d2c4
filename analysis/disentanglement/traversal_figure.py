"""Coordinates of the code moved alone, drawn: a row of images each, or the elements that move."""

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from analysis.disentanglement.traversal_rows import Traversal, Traversals
from analysis.plotting.images import Limits, draw_datum, is_image, strip
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, shortened, tidy
from pyro_vae.data.nouns import noun

if TYPE_CHECKING:
    import matplotlib.figure


def plot_traversals(found: Traversals, limits: Limits | None = None) -> "matplotlib.figure.Figure":
    """What each coordinate of the code moves, from the low end of its codes to the high one.

    Of images a row each, left to right, with what moves at its left. Of other data a panel each: how far
    the elements that move most go, in the units in which they are compared.

    Args:
        found: The rows.
        limits: The values drawn black and white; None for the least and the greatest of the rows, or 0 and 1
            where all lie between.
    """
    one = sum(row.movement is not None and row.movement.single for row in found.rows)
    nothing = sum(row.movement is None for row in found.rows)
    title = f"{len(found.rows)} of {found.latent_dim} coordinates moved alone: "
    title += f"{one} change one thing, {nothing} nothing"
    if is_image(found.base_decoded.shape):
        return _images(found, limits, title)
    return _elements(found, title)


def _images(found: Traversals, limits: Limits | None, title: str) -> "matplotlib.figure.Figure":
    low = min(float(row.decoded.min()) for row in found.rows)
    high = max(float(row.decoded.max()) for row in found.rows)
    if limits is None:
        limits = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-6))
    steps = len(found.rows[0].values)
    figure = new_figure(0.72 * steps + 3.0, 0.76 * len(found.rows) + 0.9)
    cells = figure.subplots(
        len(found.rows), steps + 1, squeeze=False, width_ratios=[2.8, *[0.9] * steps]
    )
    for row, (name, *panels) in zip(found.rows, cells, strict=True):
        strip(name)
        colour = GREY if row.movement is None else "black"
        style = {"ha": "right", "va": "center", "transform": name.transAxes}
        name.text(1.0, 0.5, _words(row), color=colour, fontsize=10, **style)
        nearest = np.abs(row.values - found.base_code[row.dimension]).argmin()
        for index, (ax, datum) in enumerate(zip(panels, row.decoded, strict=True)):
            draw_datum(ax, datum, limits)
            if index == nearest:
                ax.spines[:].set(visible=True, color=ORANGE, linewidth=2.5)
    for column, word in ((1, "1 %"), ((steps + 1) // 2, "quantiles of codes"), (steps, "99 %")):
        cells[0, column].set_title(word, fontsize=10)
    figure.suptitle(
        f"{title}\nframed: nearest to the {noun()} that all rows start from", fontsize=12
    )
    return figure


def _elements(found: Traversals, title: str) -> "matplotlib.figure.Figure":
    columns = min(2, len(found.rows))
    bands = math.ceil(len(found.rows) / columns)
    figure = new_figure(5.2 * columns, 1.9 * bands + 0.8)
    panels = figure.subplots(bands, columns, squeeze=False, sharex=True).flat
    for row, ax in zip(found.rows, panels, strict=False):
        ax.set_title(_words(row, 48), fontsize=10, color=GREY if row.movement is None else "black")
        ends = {} if row.movement is None else row.movement.ends
        names = [shortened(name) for name in ends]
        colours = [BLUE if value > 0 else ORANGE for value in ends.values()]
        ax.barh(range(len(ends)), list(ends.values()), color=colours)
        ax.set_yticks(range(len(ends)), names, fontsize=9)
        ax.invert_yaxis()
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.tick_params(labelbottom=True)
    tidy(figure.axes, grid="x")
    for index, ax in enumerate(figure.axes):
        if index >= len(found.rows) or found.rows[index].movement is None:
            ax.set_axis_off()
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(
        f"from the 1 % to the 99 % quantile of the code, in {found.units}", fontsize=10
    )
    return figure


def _words(row: Traversal, width: int = 30) -> str:
    lines = [textwrap.fill(f"z[{row.dimension}]: {row.label}", width)]
    if row.information:
        lines.append(textwrap.fill(row.factor_label, width))
    return "\n".join(lines)
