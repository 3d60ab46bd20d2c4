"""Models in the plane of rate and distortion, over lines of equal ELBO."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.elbo.rate_distortion import RateDistortion, check_names
from analysis.plotting.style import (
    BLUE,
    GREEN,
    LABEL_COLOURS,
    ORANGE,
    new_figure,
    shortened,
    tidy,
    wrapped,
)
from pyro_vae.data.nouns import noun

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.text

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)
_LINES = 6

# Left, lower, right and upper edge, in pixels.
Box = tuple[float, float, float, float]

# Where a name may stand around its point: at these distances, in points, and angles.
_RADII = (10, 22, 36, 52, 70, 90, 115, 140)
_ANGLES = tuple(math.radians(a) for a in (20, -20, 160, 200, 60, -60, 120, 240, 90, 270))


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
        xlabel=f"rate, KL(q(z|x) || p(z)), nats per {noun()}",
        ylabel=f"distortion, -E log p(x|z), nats per {noun()}",
    )
    tidy([ax], grid=None)
    best = max(points, key=lambda point: point.elbo)
    name, said = shortened(best.name), f"{best.elbo:.2f} nats per {noun()}"
    figure.suptitle(
        f"{name}: ELBO {best.elbo:.2f} = -(rate {best.rate:.2f} + distortion {best.distortion:.2f}) nats "
        f"per {noun()}"
        if len(points) == 1
        else wrapped(f"{name} has the highest ELBO, {said}; lower left is better"),
        fontsize=12,
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
    # What is known of the truth is named at the other end, where no ELBO is.
    truth = colour == GREEN
    at = end - 0.02 * (right - left) if truth else start + 0.02 * (right - left)
    ax.text(
        at,
        total - at - (0.012 * (high - low) if truth else 0.0),
        label,
        rotation=-45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        fontsize=8,
        color=GREEN if truth else "0.45",
        ha="right" if truth else "left",
        va="top" if truth else "bottom",
        zorder=1,
    )


def _name_points(
    figure: "matplotlib.figure.Figure",
    ax: "matplotlib.axes.Axes",
    points: Sequence[RateDistortion],
) -> None:
    """Each name beside its point, where it covers least: no name, point, bar or line's name if it can."""
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    taken = [_edges(text) for text in ax.texts]
    for point in points:
        errors = 2 * np.array([point.rate_se or 0.0, point.distortion_se or 0.0])
        centre = np.array([point.rate, point.distortion])
        low, high = ax.transData.transform([centre - errors, centre + errors])
        (x, y), thick = (low + high) / 2, 6 * unit
        taken += [
            (x - thick, y - thick, x + thick, y + thick),
            (low[0] - unit, y - 2 * unit, high[0] + unit, y + 2 * unit),
            (x - 2 * unit, low[1] - unit, x + 2 * unit, high[1] + unit),
        ]
    frame = _edges(ax)
    spots = ax.transData.transform([(point.rate, point.distortion) for point in points])
    for point, spot, colour in zip(points, spots, _COLOURS * len(points), strict=False):
        label = ax.annotate(
            shortened(point.name),
            (point.rate, point.distortion),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            va="bottom",
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )
        left, bottom, right, top = _edges(label)
        boxes = [
            _beside(spot, (right - left, top - bottom), angle, radius * unit)
            for radius in _RADII
            for angle in _ANGLES
        ]
        # Of equal ones the first, which is the nearest.
        covered = [_covered(box, frame, taken) + _misread(box, spot, spots) for box in boxes]
        box = boxes[int(np.argmin(covered))]
        label.set_position(((box[0] - spot[0]) / unit, (box[1] - spot[1]) / unit))
        taken.append(box)
        if _distances(box, spot[None]).item() > 14 * unit:
            end = ax.transData.inverted().transform(np.clip(spot, box[:2], box[2:]))
            ax.plot(
                [point.rate, end[0]], [point.distortion, end[1]], color=colour, lw=0.9, zorder=2
            )


def _edges(artist: "matplotlib.axes.Axes | matplotlib.text.Text") -> Box:
    box = artist.get_window_extent()
    return box.x0, box.y0, box.x1, box.y1


def _beside(spot: np.ndarray, size: tuple[float, float], angle: float, radius: float) -> Box:
    """A box of this size whose near edge, or corner, is at this angle and distance from a spot."""
    across, up = math.cos(angle), math.sin(angle)
    x, y = spot + radius * np.array([across, up])
    shift = 0.5 if abs(across) < 0.1 else float(across < 0)
    left, bottom = x - shift * size[0], y - size[1] / 2
    return left, bottom, left + size[0], bottom + size[1]


def _covered(box: Box, frame: Box, taken: Sequence[Box]) -> int:
    """How many boxes it meets; leaving the frame is worst."""
    inside = box[0] > frame[0] and box[1] > frame[1] and box[2] < frame[2] and box[3] < frame[3]
    return (0 if inside else 1000) + sum(_overlap(box, other) for other in taken)


def _misread(box: Box, spot: np.ndarray, spots: np.ndarray) -> int:
    """How many points are nearer to a name than its own is."""
    return int((_distances(box, spots) < _distances(box, spot[None]) - 1e-6).sum())


def _distances(box: Box, spots: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.clip(spots, box[:2], box[2:]) - spots, axis=-1)


def _overlap(one: Box, other: Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return bool(across and one[1] < other[3] and other[1] < one[3])
