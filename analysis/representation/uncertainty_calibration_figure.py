"""Growth of the guide's scale and of its error, by damage and strength."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.plotting.style import GREY, LINE_COLOURS, shortened
from analysis.representation.strength_panels import (
    check_alike,
    entitle,
    name_lines,
    strength_panels,
)
from analysis.representation.uncertainty_calibration import HonestUncertainty

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Ticks of a logarithmic axis of factors.
_FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def plot_honest_uncertainty(
    results: HonestUncertainty | Mapping[str, HonestUncertainty],
) -> "matplotlib.figure.Figure":
    """Above, how the scale of q(z | x) grows with damage, and how it should; below, error over scale.

    An honest scale lies on the dashed line of its error, and error over scale at 1. Bands are two
    standard errors.

    Args:
        results: One, or several by the models' names, of the same damages and strengths.

    Raises:
        ValueError: If there are none, or their damages or strengths differ.
    """
    named = {"": results} if isinstance(results, HonestUncertainty) else dict(results)
    check_alike(list(named), [(found.damages, found.strengths) for found in named.values()])
    first = next(iter(named.values()))
    figure, axes = strength_panels(
        first.damages,
        ["growth of the scale,\nfold (dashed: the error)", "error over scale\n(1: honest)"],
        first.strengths,
        height=2.5,
    )
    lines, x = [], first.strengths
    for found, colour in zip(named.values(), LINE_COLOURS * len(named), strict=False):
        off, half = found.standardised_error, 2 * found.standard_error
        for column in range(len(first.damages)):
            axes[0, column].plot(x, found.scale_growth[column], "o-", ms=3, lw=1.6, color=colour)
            axes[0, column].plot(x, found.error_growth[column], "--", lw=1.2, color=colour)
            middle, around = off[column], half[column]
            axes[1, column].plot(x, middle, "o-", ms=3, lw=1.6, color=colour)
            axes[1, column].fill_between(
                x, middle - around, middle + around, color=colour, alpha=0.2, lw=0
            )
        lines += axes[0, 0].plot([], [], "o-", ms=3, lw=1.6, color=colour)
        if len(named) == 1:
            lines += axes[0, 0].plot([], [], "--", lw=1.2, color=colour)
    for ax in axes.flat:
        ax.axhline(1.0, color=GREY, lw=1, zorder=1)
    for row in axes:
        _factors(row[0])
    names = [shortened(name) for name in named]
    if len(named) == 1:
        names = ["scale of q(z | x)", "error of its mean, which an honest scale follows"]
    name_lines(figure, lines, names)
    entitle(figure, _title(named))
    return figure


def _factors(ax: "matplotlib.axes.Axes") -> None:
    """A logarithmic axis with ticks at round factors."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    low, high = min(low, 0.8), max(high, 1.25)
    ax.set_ylim(low, high)
    # Over many decades the round factors would lie on one another.
    wide = high / low > _FACTORS[-1] / _FACTORS[0]
    ax.yaxis.set_major_locator(LogLocator(numticks=6) if wide else FixedLocator(_FACTORS))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _title(named: Mapping[str, HonestUncertainty]) -> str:
    if len(named) > 1:
        honest = [shortened(name) for name, found in named.items() if found.honest]
        most = {name: float(found.standardised_error.max()) for name, found in named.items()}
        worst = max(most, key=lambda name: most[name])
        if len(honest) == len(named):
            return "All guides are as sure as they should be of damaged data"
        return (
            f"The scales of {len(named) - len(honest)} of {len(named)} guides do not follow the error: that of "
            f"{shortened(worst)} is up to {most[worst]:.1f} times its scale"
        )
    (found,) = named.values()
    if found.honest:
        return "Under damage the guide's scale grows as its error does"
    off = found.standardised_error
    row, column = np.unravel_index(int(np.abs(np.log(off)).argmax()), off.shape)
    return (
        f"Under {found.damages[row]} at strength {found.strengths[column]:g} the error is "
        f"{off[row, column]:.1f} times what the scale of q(z | x) says"
    )
