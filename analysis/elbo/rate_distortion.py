"""Models in the plane of rate and distortion, over lines of equal ELBO."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.plotting.style import (
    BLUE,
    GREEN,
    LABEL_COLOURS,
    ORANGE,
    new_figure,
    shorten,
    tidy,
    wrap_title,
)
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.json_values import to_jsonable
from pyro_vae.statistics import rounding_error, standard_error

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.transforms

# A rate below this, in nats per example, is that of a collapsed code.
COLLAPSED_RATE = 0.1

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)
_LINES = 6
# Candidate positions of a label around its point: distances in points, and angles.
_RADII = (10, 22, 36, 52, 70, 90, 115, 140)
_ANGLES = tuple(math.radians(a) for a in (20, -20, 160, 200, 60, -60, 120, 240, 90, 270))


@dataclass(frozen=True)
class RateDistortion:
    """Rate E KL(q(z | x) || p(z)) and distortion -E log p(x | z) of a model, in nats.

    ELBO = -(rate + distortion), with beta = 1 whatever the training objective. The distortion of a
    density may be negative.

    Args:
        name: The model's name.
        rate: The cost of the code: at least the mutual information of code and data.
        distortion: The cost of the reconstruction.
        rate_se: The standard error of `rate` over data; None for a single example.
        distortion_se: That of `distortion`.
        elbo_se: That of the ELBO; the two terms may be correlated.

    References:
        Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
    """

    name: str
    rate: float
    distortion: float
    rate_se: float | None = None
    distortion_se: float | None = None
    elbo_se: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        reconstruction: Float[np.ndarray, " n"],
        kl: Float[np.ndarray, " n"],
    ) -> "RateDistortion":
        """The means of the ELBO's terms, as in `ImportanceWeighting`.

        Args:
            name: The model's name.
            reconstruction: E_q log p(x | z) of each example, in nats.
            kl: KL(q(z | x) || p(z)) of each example, in nats.

        Raises:
            ValueError: If there are no data, their numbers differ, or a term is not finite.
        """
        if not len(kl) or len(kl) != len(reconstruction):
            raise ValueError(
                f"reconstruction and kl must be of the same data, at least one, got "
                f"{len(reconstruction)} and {len(kl)}."
            )
        bad = ~np.isfinite(reconstruction + kl)
        if bad.any():
            raise ValueError(
                f"the ELBO's terms must be finite, got others for {bad.sum():,} of {len(kl):,} "
                f"{nouns()} of {name}."
            )
        return cls(
            name,
            rate=float(kl.mean()),
            distortion=-float(reconstruction.mean()),
            rate_se=standard_error(kl),
            distortion_se=standard_error(reconstruction),
            elbo_se=standard_error(reconstruction - kl),
        )

    @property
    def elbo(self) -> float:
        """-(rate + distortion), in nats per example."""
        return -(self.rate + self.distortion)

    @property
    def collapsed(self) -> bool:
        """Whether the code carries almost no information: the auto-decoding limit."""
        return self.rate < COLLAPSED_RATE


def rate_distortion_summary(points: Sequence[RateDistortion]) -> dict[str, Any]:
    """Rates, distortions and ELBOs in nats per example, with a reading, as JSON values."""
    models = [
        asdict(point) | {"elbo": point.elbo, "collapsed": point.collapsed} for point in points
    ]
    return to_jsonable({"models": models, "reading": rate_distortion_reading(points)})


def rate_distortion_reading(points: Sequence[RateDistortion]) -> str:
    """Which model has the highest ELBO, which the lowest distortion, and which are collapsed.

    Raises:
        ValueError: If there are no models, or names repeat.
    """
    check_names(points)
    best, *others = sorted(points, key=lambda point: -point.elbo)
    text = (
        f"{best.name} has {'the highest' if others else 'an'} ELBO, {best.elbo:.2f} nats per "
        f"{noun()}, with a rate of {best.rate:.1f} nats"
    )
    if others:
        rounding = 2 * float(rounding_error(np.array(best.rate), np.array(best.distortion)))
        if best.elbo - others[0].elbo <= rounding:
            text += f" (within rounding errors of {rounding:.1g} nats)"
        sharpest = min(points, key=lambda point: point.distortion)
        text += (
            ", and the lowest distortion"
            if sharpest is best
            else f"; {sharpest.name} has the lowest distortion, {sharpest.distortion:.1f} nats, "
            f"with a rate of {sharpest.rate:.1f}"
        )
    if collapsed := [point.name for point in points if point.collapsed]:
        text += f"; collapsed, with a rate below {COLLAPSED_RATE} nats: {', '.join(collapsed)}"
    return f"{text}."


def check_names(points: Sequence[RateDistortion]) -> None:
    """Check that there are models, with distinct names.

    Raises:
        ValueError: If there are no models, or names repeat.
    """
    if not points:
        raise ValueError("rate and distortion need at least one model, got none.")
    repeated = [name for name, count in Counter(p.name for p in points).items() if count > 1]
    if repeated:
        raise ValueError(f"names of models must differ, got {repeated[0]!r} more than once.")


def plot_rate_distortion(
    points: Sequence[RateDistortion], log_evidence: float | None = None
) -> "matplotlib.figure.Figure":
    """Models in the plane of rate and distortion, over lines of equal ELBO, which have slope -1.

    Lower left is better. The lower right end, distortion of arbitrarily long codes, is the
    auto-encoding limit; the upper left, rate 0, the auto-decoding limit, where the code is
    collapsed. Bars are two standard errors over data, most of which is common to all models.

    Args:
        points: The models.
        log_evidence: log p(x) of one of the models or of the true distribution, in nats per
            example, if known: no ELBO of that model lies beyond this line.

    Raises:
        ValueError: If there are no models, or names repeat.

    References:
        Fixing a Broken ELBO (Alemi et al., 2018), https://arxiv.org/abs/1711.00464
    """
    check_names(points)
    figure = new_figure(9.0, 6.0)
    ax = figure.subplots()
    centres = np.array([(point.rate, point.distortion) for point in points])
    errors = 2 * np.array([(p.rate_se or 0.0, p.distortion_se or 0.0) for p in points])
    colours = [_COLOURS[index % len(_COLOURS)] for index in range(len(points))]
    _set_limits(ax, np.concatenate([centres - errors, centres + errors]))
    _draw_lines(ax, log_evidence)
    bars: dict[str, Any] = {"fmt": "o", "ms": 7, "capsize": 2, "elinewidth": 1, "zorder": 3}
    for (x, y), (dx, dy), colour in zip(centres, errors, colours, strict=True):
        ax.errorbar(x, y, xerr=dx, yerr=dy, color=colour, **bars)
    ax.set(
        xlabel=f"rate, KL(q(z|x) || p(z)), nats per {noun()}",
        ylabel=f"distortion, -E log p(x|z), nats per {noun()}",
    )
    tidy([ax], grid=None)
    best = max(points, key=lambda point: point.elbo)
    unit = f"nats per {noun()}"
    title = (
        f"{shorten(best.name)} has the highest ELBO, {best.elbo:.2f} {unit}; lower left is better"
    )
    if len(points) == 1:
        parts = f"-(rate {best.rate:.2f} + distortion {best.distortion:.2f})"
        title = f"{shorten(best.name)}: ELBO {best.elbo:.2f} = {parts} {unit}"
    figure.suptitle(wrap_title(title), fontsize=12)
    _label_points(figure, ax, [point.name for point in points], centres, errors, colours)
    return figure


def _set_limits(ax: "matplotlib.axes.Axes", corners: np.ndarray) -> None:
    """Leave room for labels, and for a piece of the line around a single point."""
    low, high = corners.min(0), corners.max(0)
    width = np.maximum(np.maximum(high - low, 0.1 * np.abs(corners).max(0)), 1.0)
    low, high = low - 0.2 * width, high + 0.2 * width
    ax.set_xlim(max(low[0], -0.04 * high[0]), high[0] + 0.12 * width[0])
    ax.set_ylim(low[1], high[1])


def _draw_lines(ax: "matplotlib.axes.Axes", log_evidence: float | None) -> None:
    """Draw rate + distortion = -ELBO at round numbers, labelled where they enter the axes."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    totals = MaxNLocator(_LINES + 4, steps=[1, 2, 5, 10]).tick_values(left + low, right + high)
    for total in totals:
        _draw_line(ax, total, f"ELBO {-total:g}")
    if log_evidence is not None:
        _draw_line(ax, -log_evidence, f"log p(x) {log_evidence:.2f}", truth=True)
    ax.set(xlim=(left, right), ylim=(low, high))


def _draw_line(
    ax: "matplotlib.axes.Axes", total: float, label: str, *, truth: bool = False
) -> None:
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    start, end = max(left, total - high), min(right, total - low)
    # Shorter lines have no room for their label.
    if end - start < 0.12 * (right - left):
        return
    line: dict[str, Any] = {"color": "0.72", "linestyle": "-"}
    text: dict[str, Any] = {"color": "0.45", "ha": "left", "va": "bottom"}
    x, shift = start + 0.02 * (right - left), 0.0
    if truth:  # Labelled at the other end, where no ELBO is.
        line = {"color": GREEN, "linestyle": "--"}
        text = {"color": GREEN, "ha": "right", "va": "top"}
        x, shift = end - 0.02 * (right - left), 0.012 * (high - low)
    ax.plot([start, end], [total - start, total - end], lw=0.9, zorder=1, **line)
    rotated: dict[str, Any] = {"rotation_mode": "anchor", "transform_rotates_text": True}
    ax.text(x, total - x - shift, label, rotation=-45, fontsize=8, zorder=1, **rotated, **text)


def _label_points(
    figure: "matplotlib.figure.Figure",
    ax: "matplotlib.axes.Axes",
    names: Sequence[str],
    centres: np.ndarray,
    errors: np.ndarray,
    colours: Sequence[str],
) -> None:
    """Label each point where the label covers the fewest labels, points, bars and line labels."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    unit = figure.dpi / 72
    frame = ax.get_window_extent()
    occupied = [text.get_window_extent() for text in ax.texts]
    spots = ax.transData.transform(centres)
    bars = ax.transData.transform(centres + errors) - spots
    for spot, (right, up) in zip(spots, bars, strict=True):
        for half in ((6 * unit, 6 * unit), (right + unit, 2 * unit), (2 * unit, up + unit)):
            occupied.append(Bbox([spot - half, spot + half]))
    for name, centre, spot, colour in zip(names, centres, spots, colours, strict=True):
        label = ax.annotate(
            shorten(name),
            centre,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            va="bottom",
            zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )
        size, box, least = label.get_window_extent().size, None, math.inf
        for radius, angle in itertools.product(_RADII, _ANGLES):
            direction = np.array([math.cos(angle), math.sin(angle)])
            # The near edge or corner touches the circle.
            share = np.array([0.5 if abs(direction[0]) < 0.1 else direction[0] < 0, 0.5])
            corner = spot + radius * unit * direction - size * share
            candidate = Bbox.from_bounds(*corner, *size)
            inside = frame.contains(*candidate.min) and frame.contains(*candidate.max)
            nearer = _distances(candidate, spots) < _distances(candidate, spot) - 1e-6
            badness = candidate.count_overlaps(occupied) + nearer.sum() + 1000 * (not inside)
            if badness < least:
                box, least = candidate, badness
        assert box is not None
        label.set_position(tuple((box.min - spot) / unit))
        occupied.append(box)
        if _distances(box, spot) > 14 * unit:
            end = ax.transData.inverted().transform(np.clip(spot, box.min, box.max))
            ax.plot([centre[0], end[0]], [centre[1], end[1]], color=colour, lw=0.9, zorder=2)


def _distances(box: "matplotlib.transforms.Bbox", spots: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(np.clip(spots, box.min, box.max) - spots, axis=-1))
