"""Figures of `predictive.checks`: statistics, profiles, spectrum and nearest neighbours."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Real

from analysis.data_statistics import Nearest
from analysis.hypothesis_tests import p_text
from analysis.plotting.images import draw_grid
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.plotting.vectors import Elements, draw_vectors, is_long
from analysis.predictive.permutation_tests import ProfileComparison, SpectrumComparison
from analysis.predictive.two_sample import Comparison
from analysis.result import UndefinedCheckError
from analysis.verdicts import SMALL_DISTANCE
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Panels side by side, and in all.
_COLUMNS, _PANELS = 4, 12
_BINS = 30
# Pairs drawn of images and short vectors, of long vectors; names of elements in a scatter plot.
_PAIRS, _SCATTERED, _NAMED = 10, 4, 8
TEST, NEW = "test data", "new, z ~ p(z)"


def plot_comparisons(comparisons: Sequence[Comparison]) -> "matplotlib.figure.Figure":
    """The distribution of each statistic and score over real and over generated data.

    Args:
        comparisons: From `compare_statistics`. Of more than 12 those furthest off are drawn.
    """
    ranked = sorted(comparisons, key=lambda c: -c.ks_distance)[:_PANELS]
    shown = [c for c in comparisons if c in ranked]
    rows = math.ceil(len(shown) / _COLUMNS)
    columns = math.ceil(len(shown) / rows)
    figure = new_figure(max(3.1 * columns, 9.3), 3.0 * rows + 0.9)
    cells = figure.subplots(rows, columns, squeeze=False)
    panels = list(cells.flat)
    for ax, comparison in zip(panels, shown, strict=False):
        _draw_histograms(ax, comparison.real, comparison.generated)
        ax.set_title(_title(comparison), fontsize=9)
        ax.set_xlabel(_wrap_label(comparison.label), fontsize=9)
        real, generated = comparison.non_finite
        if real or generated:
            text = f"not finite: {real} test, {generated} new"
            ax.text(0.98, 0.98, text, transform=ax.transAxes, ha="right", va="top", fontsize=8)
    for ax in panels[len(shown) :]:
        ax.set_axis_off()
    for ax in cells[:, 0]:
        ax.set_ylabel(f"share of the {nouns()}")
    tidy(panels[: len(shown)])
    _add_legend(figure, panels[0])
    worst = ranked[0]
    small = "The distances are small; f" if worst.ks_distance <= SMALL_DISTANCE else "F"
    figure.suptitle(
        f"Does the model make {nouns()} like the test {nouns()}? The curves should coincide.\n"
        f"{small}urthest off: {worst.title}, KS distance {worst.ks_distance:.2f}"
    )
    return figure


def plot_profiles(
    profiles: Sequence[ProfileComparison], elements: Elements | None = None
) -> "matplotlib.figure.Figure":
    """Means and standard deviations of each profile's elements over real and over generated data.

    Long vectors are drawn as points, one per element: its mean over generated against over real
    data.

    Args:
        profiles: From `predictive_checks`.
        elements: Names and scale of the elements of vectors.
    """
    from matplotlib.ticker import MaxNLocator

    if len(profiles) == 1 and is_long(profiles[0].t.shape):
        return _plot_elements(profiles[0], elements)
    figure = new_figure(5.6 * max(2, len(profiles)), 4.4)
    panels = figure.subplots(1, len(profiles), squeeze=False)[0]
    center, scale = (0.0, 1.0) if elements is None else (elements.center, elements.spread)
    for ax, profile in zip(panels, profiles, strict=True):
        places = np.arange(len(profile.t))
        for name, mean, spread, colour in (
            (TEST, profile.real, profile.real_deviation, BLUE),
            (NEW, profile.generated, profile.generated_deviation, ORANGE),
        ):
            mean, spread = (mean - center) / scale, spread / scale
            ax.fill_between(places, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            ax.plot(places, mean, color=colour, label=name, marker="o", ms=3)
        ax.axvline(profile.worst, color=GREY, ls=":", lw=1)
        ax.set_xlabel(profile.label)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if elements is not None:
            elements.draw_ticks(ax)
        worst = profile.worst if elements is None else elements.label(profile.worst)
        name = profile.name.replace("_", " ")
        ax.set_title(
            f"{name}: furthest off at {worst} (dotted),\n{_significance(profile)}", fontsize=10
        )
    unit = ""
    if elements is not None and (elements.spread != 1).any():
        unit = f",\nin standard deviations of test {nouns()}"
    panels[0].set_ylabel(f"mean over {nouns()} ± 1 standard deviation{unit}")
    tidy(panels)
    _add_legend(figure, panels[0])
    figure.suptitle(f"Where do new {nouns()} differ? Lines and bands should coincide")
    return figure


def plot_spectrum(spectrum: SpectrumComparison | None) -> "matplotlib.figure.Figure":
    """The eigenvalues of the covariance by rank, and their ratio with its band by chance.

    Args:
        spectrum: From `predictive_checks`.

    Raises:
        UndefinedCheckError: If there is no spectrum: too few data, or none that vary.
    """
    if spectrum is None:
        raise UndefinedCheckError("no spectrum: there are too few data, or they do not vary.")
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    ranks = np.arange(1, len(spectrum.real) + 1)
    left.plot(ranks, spectrum.real, "o-", ms=3, color=BLUE, label=TEST)
    left.plot(ranks, spectrum.generated, "o-", ms=3, color=ORANGE, label=NEW)
    left.set(xlabel="rank", ylabel="eigenvalue of the covariance", yscale="log")
    # A range of less than a decade would otherwise have one number.
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    explained = f"{len(ranks)} axes with {spectrum.explained:.0%} of the variance of all data"
    left.set_title(explained, fontsize=10)
    right.fill_between(
        ranks, spectrum.low, spectrum.high, color=GREY, alpha=0.25, lw=0, label="95 % by chance"
    )
    right.axhline(0, color=GREY, lw=1)
    right.plot(ranks, spectrum.log_ratio, "o-", ms=3, color=ORANGE, label="new over test data")
    right.set(xlabel="rank", ylabel="log ratio of the eigenvalues")
    right.set_title(
        f"new data have {spectrum.total_ratio:.2f} times the variance, p "
        f"{p_text(spectrum.p_value)}",
        fontsize=10,
    )
    for ax in (left, right):
        ax.legend(frameon=False)
    tidy([left, right])
    figure.suptitle(
        f"Do new {nouns()} vary along as many directions, and as much? The lines should coincide"
    )
    return figure


def plot_nearest(
    generated: Real[np.ndarray, " n *event"],
    train: Real[np.ndarray, " t *event"],
    nearest: Nearest,
    real: Nearest | None = None,
    elements: Elements | None = None,
) -> "matplotlib.figure.Figure":
    """The generated examples nearest to the training data, with those, and all distances.

    Args:
        generated: Data from the model.
        train: Its training data.
        nearest: From `nearest_training`, for the generated data.
        real: The same for test data, to compare the distances.
        elements: Names and scale of the elements of vectors.
    """
    long = is_long(generated.shape[1:])
    shown = np.argsort(nearest.distance, kind="stable")[: _SCATTERED if long else _PAIRS]
    new, known = generated[shown], train[nearest.row[shown]]
    elements = elements or Elements.from_data(train)
    # A row of a heat map is 0.22 inches high.
    height = 0.22 * len(elements.names) + 1.4 if elements is not None and not long else 2.8
    figure = new_figure(11.0, height + 3.4)
    upper, lower = figure.subfigures(2, 1, height_ratios=(height, 3.4))
    distances = [f"{distance:.3g}" for distance in nearest.distance[shown]]
    if long:
        _draw_scatters(upper, new, known, distances)
    elif elements is not None:
        panels = {"new, by distance": new, f"nearest training {nouns()}": known}
        draw_vectors(upper, panels, elements, labels=dict.fromkeys(panels, distances), paired=True)
    else:
        _draw_pairs(upper, new, known, distances)
    ax = lower.subplots()
    _draw_histograms(ax, None if real is None else real.distance, nearest.distance)
    ax.set(
        xlabel=f"distance to the nearest training {noun()} (root mean square)",
        ylabel=f"share of the {nouns()}",
    )
    ax.legend(frameon=False)
    tidy([ax])
    if real is not None:
        median, usual = (float(np.median(each.distance)) for each in (nearest, real))
        ax.set_title(
            f"Medians: new {median:.3g}, test {usual:.3g}. New {nouns()} much nearer are copies, "
            "much farther are unlike the data",
            fontsize=10,
        )
    figure.suptitle(
        f"Does the model copy? The new {nouns()} nearest to a training {noun()}, with it, and "
        "their distance"
    )
    return figure


def _draw_pairs(
    sheet: "matplotlib.figure.SubFigure",
    new: np.ndarray,
    known: np.ndarray,
    distances: Sequence[str],
) -> None:
    low = min(0.0, float(new.min()), float(known.min()))
    limits = (low, max(low + 1e-9, float(new.max()), float(known.max())))
    titles = dict(enumerate(distances))
    draw_grid(sheet, [new, known], limits, names=("new", "training"), titles=titles, size=9)


def _draw_scatters(
    sheet: "matplotlib.figure.SubFigure",
    new: np.ndarray,
    known: np.ndarray,
    distances: Sequence[str],
) -> None:
    """Draw the elements of generated against nearest training examples: copies lie on the line."""
    cells = sheet.subplots(1, len(new), squeeze=False)[0]
    for ax, x, y, distance in zip(cells, known, new, distances, strict=True):
        ax.plot(x, y, "o", ms=3, color=ORANGE, alpha=0.3)
        ax.axline((0, 0), slope=1, color=GREY, lw=1)
        if min(x.min(), y.min()) >= 0:
            # Counts of 0 or 1 beside hundreds.
            ax.set_xscale("symlog", linthresh=1)
            ax.set_yscale("symlog", linthresh=1)
        ax.set_title(distance, fontsize=9)
        ax.set_xlabel(f"training {noun()}", fontsize=9)
    cells[0].set_ylabel(f"new {noun()}, by element")
    tidy(cells, grid="both")


def _plot_elements(
    profile: ProfileComparison, elements: Elements | None
) -> "matplotlib.figure.Figure":
    figure = new_figure(8.0, 6.0)
    ax = figure.subplots()
    ax.plot(profile.real, profile.generated, "o", ms=4, color=BLUE, alpha=0.4)
    both = np.concatenate([profile.real, profile.generated])
    i = profile.worst
    ax.plot(profile.real[i], profile.generated[i], "o", ms=8, mfc="none", color=ORANGE)
    top = float(both.max())
    ax.axline((top, top), slope=1, color=GREY, lw=1)
    # Positive means range from rare to frequent elements.
    if (both >= 0).all() and (both > 0).any():
        least = float(both[both > 0].min())
        ax.set_xscale("symlog", linthresh=least)
        ax.set_yscale("symlog", linthresh=least)
    ax.set(
        xlabel=f"mean of the element over test {nouns()}",
        ylabel=f"mean over new {nouns()}, z ~ p(z)",
    )
    for worst in np.argsort(-np.abs(np.nan_to_num(profile.t)))[:_NAMED]:
        name = str(worst) if elements is None else elements.names[worst]
        at = (float(profile.real[worst]), float(profile.generated[worst]))
        ax.annotate(name, at, (5, -3), textcoords="offset points", fontsize=8)
    name = f"element {i}" if elements is None else elements.label(i)
    ax.set_title(
        f"Each of {len(profile.t)} elements should lie on the line. Furthest off: {name} "
        f"(circle),\n{_significance(profile)}",
        fontsize=11,
    )
    tidy([ax], grid="both")
    return figure


def _significance(profile: ProfileComparison) -> str:
    return f"{profile.t[profile.worst]:+.1f} standard errors, p {p_text(profile.p_value)}"


def _title(comparison: Comparison) -> str:
    means = [
        f"{values.mean():.4g}" if len(values := sample[np.isfinite(sample)]) else "not finite"
        for sample in (comparison.generated, comparison.real)
    ]
    return (
        f"KS distance {comparison.ks_distance:.2f}, p {p_text(comparison.p_value)}\n"
        f"mean: {means[0]} new, {means[1]} test"
    )


def _draw_histograms(
    ax: "matplotlib.axes.Axes", real: np.ndarray | None, generated: np.ndarray
) -> None:
    from matplotlib.ticker import MaxNLocator

    samples = [(f"{len(generated)} {NEW}", generated, ORANGE)]
    if real is not None:
        samples.insert(0, (f"{len(real)} test {nouns()}", real, BLUE))
    finite = [values[np.isfinite(values)] for _, values, _ in samples]
    edges = _bin_edges(np.concatenate(finite))
    for (name, values, colour), inside in zip(samples, finite, strict=True):
        # Values beyond the range are drawn at its ends.
        inside = np.clip(inside, edges[0], edges[-1])
        style: dict[str, Any] = {"bins": edges, "weights": np.full(len(inside), 1 / len(values))}
        ax.hist(inside, **style, histtype="stepfilled", color=colour, alpha=0.2)
        ax.hist(inside, **style, histtype="step", color=colour, lw=1.6, label=name)
    ax.margins(x=0.02)
    if all((values == np.round(values)).all() for values in finite):
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _bin_edges(pooled: np.ndarray) -> list[float]:
    """Edges of at most 31 bins, each with equally many of the values that a count can take.

    Otherwise the ink of small binary images, a count over 64, would look like a comb. A long tail
    is cut where it would leave the rest in a few bins.
    """
    if not len(pooled):
        return [-0.5, 0.5]
    q1, q99 = np.quantile(pooled, [0.01, 0.99])
    reach = q99 - q1
    if reach > 0:
        pooled = np.clip(pooled, q1 - reach, q99 + reach)
    scale = max(float(np.abs(pooled).max()), 1e-300)
    values = np.unique(np.round(pooled / scale, 9)) * scale
    low, high = values[0], values[-1]
    if low == high:
        return [low - 0.5, low + 0.5]
    step = np.diff(values).min()
    width = step * math.ceil((high - low) / step / _BINS)
    count = math.floor((high - low + step / 2) / width) + 1
    return [low - step / 2 + width * index for index in range(count + 1)]


def _wrap_label(label: str) -> str:
    head, colon, tail = label.partition(": ")
    if not colon:
        return label
    return f"{head}:\n{tail.replace(', ', ',' + chr(10), 1) if len(tail) > 34 else tail}"


def _add_legend(figure: "matplotlib.figure.Figure", ax: "matplotlib.axes.Axes") -> None:
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
