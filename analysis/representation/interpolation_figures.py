"""Pictures of decoded paths between codes."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from analysis.plotting.images import Limits, draw_datum, is_image, strip
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.representation.interpolation_reading import UNLIKELY, Interpolation, Profiles

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# So many points of a path are drawn as images.
COLUMNS = 11


def plot_interpolation(
    found: Interpolation, limits: Limits = (0.0, 1.0)
) -> "matplotlib.figure.Figure":
    """A few decoded paths as strips of images, above log p(x) and log p(z) along all paths.

    Data that are no images have the profiles alone. Where the guide has no density, the lengths and
    the largest steps of the paths are drawn instead.

    Args:
        found: What `interpolation` found.
        limits: The values drawn black and white.
    """
    images = is_image(found.shown.shape[2:])
    rows = len(found.shown) if images else 0
    figure = new_figure(10.0, 0.72 * rows + 3.9)
    if images:
        upper, lower = figure.subfigures(2, 1, height_ratios=[0.72 * rows + 0.5, 3.4])
        _draw_strips(upper, found, limits)
    else:
        lower = figure
    left, right = lower.subplots(1, 2)
    profiles = found.profiles
    if profiles is None:
        _draw_histogram(left, found.ratio, "path length over the distance of its ends", "paths")
        _draw_histogram(right, found.largest_relative_step, "largest step over mean step", "paths")
        lower.suptitle("Left: 1 is a cross-fade in data space. Right: 1 is even speed.")
        return figure
    _draw_evidence(left, profiles)
    if profiles.log_prior is None or profiles.prior_draws is None:
        _draw_histogram(right, found.ratio, "path length over the distance of its ends", "paths")
        right.set_title("1 is a cross-fade in data space", fontsize=10)
    else:
        _draw_prior(right, profiles)
    tidy([left, right])
    return figure


def _draw_strips(
    figure: "matplotlib.figure.SubFigure", found: Interpolation, limits: Limits
) -> None:
    rows, steps = found.shown.shape[:2]
    at = np.linspace(0, steps - 1, min(COLUMNS, steps)).round().astype(int)
    beside = int(found.ends is not None)
    cells = figure.subplots(
        rows,
        len(at) + 2 * beside,
        squeeze=False,
        gridspec_kw={"wspace": 0.02, "hspace": 0.02},
    )
    for row, path in enumerate(found.shown):
        for column, step in enumerate(at):
            draw_datum(cells[row, column + beside], path[step], limits)
        if found.ends is not None:
            draw_datum(cells[row, 0], found.ends[2 * row], limits)
            draw_datum(cells[row, -1], found.ends[2 * row + 1], limits)
    for ax in cells.flat:
        strip(ax)
    if beside:
        for column in (0, len(at) + 1):
            cells[0, column].set_title("datum", fontsize=9)
    cells[0, beside].set_title("t = 0", fontsize=9)
    cells[0, len(at) - 1 + beside].set_title("t = 1", fontsize=9)
    line = "great circles" if found.support == "sphere" else "straight lines"
    figure.suptitle(f"Means of p(x | z) along {line} between codes of test data")


def _draw_evidence(ax: "matplotlib.axes.Axes", profiles: Profiles) -> None:
    t, m = profiles.shares, profiles.middle
    kind = "new data" if profiles.data is None else "real data"
    low, high = np.quantile(profiles.reference, [UNLIKELY, 1 - UNLIKELY])
    ax.axhspan(low, high, color="0.93", label=f"90% of {kind}")
    ax.axhline(float(np.median(profiles.reference)), color=GREY, linewidth=1, label="their median")
    _draw_band(ax, t, profiles.log_evidence, BLUE, "x ~ p(x | z(t))")
    said = f"{profiles.middle_below:.0%}"
    if profiles.cross_fade is not None:
        _draw_band(ax, t, profiles.cross_fade, ORANGE, "cross-fade of the data")
        said += f", cross-fades {profiles.below(profiles.cross_fade[:, m]):.0%}"
    ax.set(xlabel="t", ylabel="log p(x) (nats, lower bound)")
    ax.set_title(f"Middles below the band: {said}, chance {UNLIKELY:.0%}", fontsize=10)
    _legend(ax)


def _draw_prior(ax: "matplotlib.axes.Axes", profiles: Profiles) -> None:
    assert profiles.log_prior is not None and profiles.prior_draws is not None  # noqa: PT018
    low, mid, high = np.quantile(profiles.prior_draws, [UNLIKELY, 0.5, 1 - UNLIKELY])
    ax.axhspan(low, high, color="0.93", label="90% of draws of p(z)")
    ax.axhline(float(mid), color=GREY, linewidth=1, label="their median")
    _draw_band(ax, profiles.shares, profiles.log_prior, BLUE, "z(t)")
    ax.set(xlabel="t", ylabel="log p(z) (nats)")
    flat = float(np.ptp(profiles.prior_draws)) <= 1e-6 * abs(float(mid)) + 1e-9
    ax.set_title(
        "p(z) is uniform: no place is less probable"
        if flat
        else "Codes above the band are as untypical as below",
        fontsize=10,
    )
    _legend(ax)


def _draw_band(
    ax: "matplotlib.axes.Axes",
    t: Float[np.ndarray, " steps"],
    values: Float[np.ndarray, "pairs steps"],
    colour: str,
    label: str,
) -> None:
    low, mid, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
    ax.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(t, mid, "o-", color=colour, markersize=3, label=f"{label}: median, quartiles")


def _draw_histogram(
    ax: "matplotlib.axes.Axes", values: np.ndarray, xlabel: str, ylabel: str
) -> None:
    if len(values):
        ax.hist(values, bins=min(30, max(5, len(values) // 3)), color=BLUE)
        ax.axvline(1, color=ORANGE)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    tidy([ax])


def _legend(ax: "matplotlib.axes.Axes") -> None:
    # Below the panel: curves of a few steps leave no corner that is free for sure.
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
