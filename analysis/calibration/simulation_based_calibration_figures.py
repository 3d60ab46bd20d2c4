"""Figures of simulation-based calibration: what is ranked against its band, widths, coverage."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analysis.calibration.rank_calibration import SimulationBasedCalibration
from analysis.comparison.p_values import p_text
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.verdicts import SIGNIFICANT

if TYPE_CHECKING:
    import matplotlib.figure

# The 95 % point of sqrt(n) times the largest distance of an ECDF of n uniform values (Kolmogorov).
KOLMOGOROV = 1.358
# So many panels of single dimensions are drawn, the worst first.
WORST = 4
COLUMNS = 4


def plot_sbc(sbc: SimulationBasedCalibration) -> "matplotlib.figure.Figure":
    """The ECDF of u less the diagonal, of the joint quantities and the worst dimensions, by ArviZ.

    A curve within the band is of a guide that passes. One that lies above first and below then is of
    true codes at both ends of the guide's draws, a guide too narrow; the other way round, too wide;
    all on one side, shifted.
    """
    from analysis.plotting.arviz import pit_figure

    shown = [*range(sbc.dimensions, len(sbc.names)), *sbc.worst(WORST)]
    # The band below is that of the p-values.
    figure = pit_figure(
        {
            f"{sbc.names[index]}\np {p_text(sbc.p_value[index])}": sbc.pit[:, index]
            for index in shown
        },
        columns=COLUMNS,
        width=11.0,
        height=2.7 * -(-len(shown) // COLUMNS) + 0.6,
    )
    band = KOLMOGOROV / math.sqrt(len(sbc.pit))
    largest = max(_departure(sbc.pit[:, index]) for index in shown)
    panels, empty = figure.axes[: len(shown)], figure.axes[len(shown) :]
    for ax in empty:
        ax.set_axis_off()
    for index, ax in enumerate(panels):
        ax.axhspan(-band, band, color=GREY, alpha=0.3, linewidth=0)
        ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
        limit = 1.1 * max(1.5 * band, largest)
        ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(-limit, limit))
        ax.tick_params(labelbottom=True, labelleft=index % COLUMNS == 0)
    figure.supxlabel(
        "u, the rank of the true code among the guide's draws, as a share", fontsize=10
    )
    figure.supylabel("ECDF of u less the diagonal", fontsize=10)
    tidy(panels)
    wrong = int((sbc.adjusted < SIGNIFICANT).sum())
    figure.suptitle(
        f"Guide against posterior on {len(sbc.pit)} data of the model's own: {wrong} of "
        f"{len(sbc.names)} quantities fail; the joint ones, then the worst dimensions"
    )
    return figure


def plot_calibration_by_dimension(
    sbc: SimulationBasedCalibration,
) -> "matplotlib.figure.Figure":
    """On the left each dimension's shift and spread, on the right all p-values in order.

    The boxes and the line hold what a guide that is the posterior has in 95 % of cases, all
    dimensions, or all quantities, together.
    """
    from scipy.stats import norm

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    d, n = sbc.dimensions, len(sbc.pit)
    wrong = sbc.adjusted[:d] < SIGNIFICANT
    factor = norm.isf(SIGNIFICANT / (4 * d))  # Two sides of two numbers for each dimension.
    for ends, line in (((-1, 1), left.axvspan), ((1, 1), left.axhspan)):
        centre, error = (0, 1 / math.sqrt(n)) if ends[0] < 0 else (1, 1 / math.sqrt(2 * n))
        line(centre - factor * error, centre + factor * error, color=GREY, alpha=0.2, linewidth=0)
    for where, colour, name in ((~wrong, BLUE, "passes"), (wrong, ORANGE, "fails")):
        left.plot(sbc.shift[:d][where], sbc.spread[:d][where], "o", ms=5, color=colour, label=name)
    for index in sbc.worst(WORST):
        place = (sbc.shift[index], sbc.spread[index])
        left.annotate(str(index), place, (5, 3), textcoords="offset points", fontsize=9)
    left.set(
        xlabel="shift: the guide is too high  <  0  <  too low",
        ylabel="spread: too wide  <  1  <  too narrow",
        title=f"{wrong.sum()} of {d} dimensions fail",
    )
    limits = [
        1.15 * max(1.6 * factor / math.sqrt(n), float(np.abs(sbc.shift[:d]).max())),
        1.15 * max(1.6 * factor / math.sqrt(2 * n), float(np.abs(sbc.spread[:d] - 1).max())),
    ]
    left.set(xlim=(-limits[0], limits[0]), ylim=(1 - limits[1], 1 + limits[1]))
    left.legend(frameon=False, loc="lower right")

    order = np.argsort(sbc.p_value)
    rank = np.arange(len(order))
    joint = order >= d
    drawn = np.maximum(sbc.p_value[order], 1e-20)
    for where, colour, name in ((~joint, BLUE, "a dimension"), (joint, ORANGE, "all of z")):
        right.plot(rank[where], drawn[where], "o", ms=5, color=colour, label=name)
    right.plot(
        rank,
        SIGNIFICANT / np.arange(len(order), 0, -1),
        color=GREY,
        linestyle="--",
        label="fails below (Holm)",
    )
    right.set(
        yscale="log",
        ylim=(3e-21, 3),
        xlabel="quantity, sorted by p-value",
        ylabel="p-value (those below 1e-20 at the foot)",
        title="p-values, uniform if the guide is the posterior",
    )
    right.legend(frameon=False, loc="lower right")
    tidy([left, right])
    figure.suptitle(f"Simulation-based calibration of the guide on {n} data of the model's own")
    return figure


def plot_coverage(sbc: SimulationBasedCalibration) -> "matplotlib.figure.Figure":
    """How often the guide's intervals and regions hold the true code, against their probability.

    Below the diagonal the guide is too sure. The band is of one dimension, at one probability, in 95 %
    of cases of a guide that is the posterior.
    """
    figure = new_figure(6.4, 5.9)
    ax = figure.subplots()
    levels = np.linspace(0.01, 0.99, 99)
    half = 1.96 * np.sqrt(levels * (1 - levels) / len(sbc.pit))
    ax.fill_between(
        levels,
        levels - half,
        levels + half,
        color=GREY,
        alpha=0.3,
        linewidth=0,
        label="95% band for one dimension",
    )
    single = np.array([sbc.coverage(level) for level in levels])
    ax.plot(levels, single, color=BLUE, linewidth=0.6, alpha=0.4)
    ax.plot([], [], color=BLUE, linewidth=0.6, alpha=0.6, label="each dimension")
    for name, colour, coverage in (
        ("all dimensions", BLUE, sbc.pooled_coverage),
        ("the whole code", ORANGE, sbc.joint_coverage),
    ):
        ax.plot(levels, [coverage(level)[0] for level in levels], color=colour, lw=2, label=name)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="probability of the guide's interval, or of its densest region",
        ylabel="share that holds the code that made x",
        title=f"The guide's 90% intervals hold {sbc.pooled_coverage(0.9)[0]:.1%} of dimensions,\n"
        f"its 90% regions {sbc.joint_coverage(0.9)[0]:.1%} of codes",
    )
    ax.legend(frameon=False, loc="upper left")
    tidy([ax], grid="both")
    return figure


def _departure(u: Float[np.ndarray, " n"]) -> float:
    """The largest distance of the ECDF from the diagonal."""
    ordered = np.sort(u)
    steps = np.arange(len(u) + 1) / len(u)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
