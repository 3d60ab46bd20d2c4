"""Models in the plane of rate and distortion, over lines of equal ELBO."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.canvas import BLUE, GREEN, LABEL_COLOURS, ORANGE, new_figure, tidy
from analysis.rate_distortion import RateDistortion, check_names
from analysis.titles import shortened, wrapped

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)
_LINES = 6


def plot_rate_distortion(
    points: Sequence[RateDistortion], log_evidence: float | None = None
) -> "matplotlib.figure.Figure":
    """Models in the plane of rate and distortion, over lines of equal ELBO, which have slope -1.

    Lower left is better. The lower right end, distortion by codes as long as need be, is the
    auto-encoding limit; the upper left, rate 0, the auto-decoding limit, where the code is collapsed.

    Args:
        points: The models; bars are two standard errors from the choice of data, mostly common to all.
        log_evidence: log p(x) of one of the models or of the truth, in nats per datum, if known: no
            ELBO of that model lies beyond this line.

    Raises:
        ValueError: If there are no models, or names repeat.

    References:
        Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
    """
    check_names(points)
    figure = new_figure(9.0, 6.0)
    ax = figure.subplots()
    # With the ends of their bars.
    ends = np.array([-2.0, 2.0])
    rates = np.ravel([point.rate + (point.rate_se or 0.0) * ends for point in points])
    distortions = np.ravel(
        [point.distortion + (point.distortion_se or 0.0) * ends for point in points]
    )
    _set_limits(ax, rates, distortions)
    _draw_lines(ax, log_evidence)
    for point, colour in zip(points, _COLOURS * len(points), strict=False):
        ax.errorbar(
            point.rate,
            point.distortion,
            xerr=2 * (point.rate_se or 0.0),
            yerr=2 * (point.distortion_se or 0.0),
            fmt="o",
            ms=7,
            color=colour,
            capsize=2,
            elinewidth=1,
            zorder=3,
        )
    ax.set(
        xlabel="rate, KL(q(z|x) || p(z)), nats per datum",
        ylabel="distortion, -E log p(x|z), nats per datum",
    )
    tidy([ax], grid=None)
    best = max(points, key=lambda point: point.elbo)
    head = f"{shortened(best.name)} has the {'' if len(points) == 1 else 'highest '}ELBO"
    figure.suptitle(
        wrapped(f"{head}, {best.elbo:.2f} nats per datum; lower left is better"), fontsize=12
    )
    _name_points(figure, ax, points)
    return figure


def _set_limits(ax: "matplotlib.axes.Axes", rates: np.ndarray, distortions: np.ndarray) -> None:
    """Room around the points for their names, and from one point for a piece of its line."""
    for values, set_limits in ((rates, ax.set_xlim), (distortions, ax.set_ylim)):
        width = max(np.ptp(values), 0.1 * np.abs(values).max(), 1.0)
        low, high = values.min() - 0.2 * width, values.max() + 0.2 * width
        if set_limits == ax.set_xlim:
            low, high = max(low, -0.04 * high), high + 0.12 * width
        set_limits(low, high)


def _draw_lines(ax: "matplotlib.axes.Axes", log_evidence: float | None) -> None:
    """Lines rate + distortion = -ELBO at round numbers, each named where it leaves the axes."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for total in MaxNLocator(_LINES + 4, steps=[1, 2, 5, 10]).tick_values(
        left + low, right + high
    ):
        _line(ax, total, f"ELBO {-total:g}", "0.72", "-")
    if log_evidence is not None:
        _line(ax, -log_evidence, f"log p(x) {log_evidence:.2f}", GREEN, "--")
    ax.set(xlim=(left, right), ylim=(low, high))


def _line(ax: "matplotlib.axes.Axes", total: float, label: str, colour: str, style: str) -> None:
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    start, end = max(left, total - high), min(right, total - low)
    # Shorter ones have no room for their name.
    if end - start < 0.12 * (right - left):
        return
    ax.plot(
        [start, end], [total - start, total - end], color=colour, linestyle=style, lw=0.9, zorder=1
    )
    at = start + 0.02 * (right - left)
    ax.text(
        at,
        total - at,
        label,
        rotation=-45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        fontsize=8,
        color="0.45" if colour != GREEN else GREEN,
        va="bottom",
        zorder=1,
    )


def _name_points(
    figure: "matplotlib.figure.Figure",
    ax: "matplotlib.axes.Axes",
    points: Sequence[RateDistortion],
) -> None:
    """Each name beside its point, in the first place around it that no name or point has taken."""
    figure.draw_without_rendering()
    places = [
        (math.cos(angle), math.sin(angle), radius)
        for radius in (10, 22, 36, 52, 70, 90)
        for angle in np.deg2rad([20, -20, 160, 200, 60, -60, 120, 240, 90, 270])
    ]
    spots = ax.transData.transform([(point.rate, point.distortion) for point in points])
    margin = figure.dpi / 72
    taken = [(x - 5 * margin, y - 5 * margin, x + 5 * margin, y + 5 * margin) for x, y in spots]
    frame = ax.get_window_extent()
    for point, spot in zip(points, spots, strict=True):
        label = ax.annotate(
            shortened(point.name),
            (point.rate, point.distortion),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )
        for across, up, radius in places:
            label.set(position=(radius * across, radius * up), va="center")
            label.set_ha("left" if across > 0.1 else "right" if across < -0.1 else "center")
            box = label.get_window_extent()
            edges = (box.x0, box.y0, box.x1, box.y1)
            inside = (
                edges[0] > frame.x0
                and edges[1] > frame.y0
                and edges[2] < frame.x1
                and edges[3] < frame.y1
            )
            if inside and not any(_overlap(edges, other) for other in taken):
                break
        taken.append(edges)
        if radius > 22:
            end = ax.transData.inverted().transform(
                (float(np.clip(spot[0], box.x0, box.x1)), float(np.clip(spot[1], box.y0, box.y1)))
            )
            ax.plot(
                [point.rate, end[0]], [point.distortion, end[1]], color="0.6", lw=0.7, zorder=2
            )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return bool(across and one[1] < other[3] and other[1] < one[3])
