"""What figures over damages and strengths share: a column for each damage, a line for each model."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.plotting.style import new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.lines
    import numpy as np


def strength_panels(
    damages: Sequence[str], rows: Sequence[str], strengths: Sequence[float], height: float = 2.0
) -> tuple["matplotlib.figure.Figure", "np.ndarray"]:
    """An empty sheet with a column for each damage and a row for each measure.

    Args:
        damages: Above the columns.
        rows: Beside the rows.
        strengths: The ticks below.
        height: Of a row, in inches.
    """
    figure = new_figure(max(1.75 * len(damages) + 0.9, 7.0), height * len(rows) + 1.1)
    axes = figure.subplots(len(rows), len(damages), sharex=True, sharey="row", squeeze=False)
    for ax, damage in zip(axes[0], damages, strict=True):
        ax.set_title(damage, fontsize=11)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name, fontsize=9)
    for ax in axes.flat:
        ax.set_xticks(strengths, [f"{strength:g}" for strength in strengths], fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("strength", fontsize=9)
    tidy(axes.flat)
    return figure, axes


def name_lines(
    figure: "matplotlib.figure.Figure",
    lines: Sequence["matplotlib.lines.Line2D"],
    names: Sequence[str],
) -> None:
    """What the lines are, below the panels."""
    figure.legend(
        lines,
        list(names),
        loc="outside lower center",
        ncols=max(1, int(figure.get_figwidth() / 2.6)),
        frameon=False,
        fontsize=9,
    )


def entitle(figure: "matplotlib.figure.Figure", title: str) -> None:
    """A title in lines that fit on the sheet."""
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())), fontsize=12)


def check_alike(
    names: Sequence[str], found: Sequence[tuple[tuple[str, ...], tuple[float, ...]]]
) -> None:
    """Refuse results that have not the same damages and strengths.

    Raises:
        ValueError: If there are none, or they differ.
    """
    if len(set(found)) != 1:
        raise ValueError(
            "results must be at least one and of the same damages and strengths, got "
            f"{len(set(found))} kinds from {', '.join(names) or 'none'}."
        )
