"""AUROC of each score on each foreign set as a heat map, over histograms of log p(x)."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.plotting.style import BLUE, GREY, new_figure, tidy
from analysis.representation.foreign_scores import DEFINITIONS
from analysis.representation.out_of_distribution import OutOfDistribution

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_LABELS = {
    "likelihood": "likelihood",
    "typicality": "typicality",
    "complexity_ratio": "complexity ratio",
    "background_ratio": "background ratio",
    "rate": "rate KL(q || p)",
    "reconstruction": "reconstruction",
    "mahalanobis": "Mahalanobis, codes",
    "neighbours": "neighbours, codes",
}
# The middle of the colours is grey-white, so that chance has none.
_COLOURS = "RdBu"
# Numbers on a colour as dark as this are white.
_DARK = 0.38
# Data that are farther from own ones than so many of their widths would press all others together.
_REACH = 6
_BINS = 120


def plot_out_of_distribution(result: OutOfDistribution) -> "matplotlib.figure.Figure":
    """How well each score tells own from foreign data, and log p(x) of both.

    A row of the heat map is a score, a column a foreign set: blue is told apart, white is chance, and red
    is the wrong way round, foreign data that look more ordinary than own. Below is log p(x) set by set:
    where a foreign set lies to the right of own data, likelihood alone fails. A guide that is a point has no log p(x):
    the distance of codes to their neighbours takes its place.

    Args:
        result: What `out_of_distribution` gave.
    """
    sets = list(result.foreign)
    rows = [score for score in DEFINITIONS if result.auroc(score)]
    heights = [0.33 * len(rows) + 0.5, 0.36 * (len(sets) + 1) + 0.8]
    figure = new_figure(max(9.0, 4.5 + 0.8 * len(sets)), sum(heights) + 0.5)
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _draw_table(upper, result, rows, sets)
    _draw_histograms(lower, result, sets)
    best = result.best_score
    lowest = min(result.auroc(best).values())
    said = "its lowest AUROC is" if len(sets) > 1 else "AUROC"
    figure.suptitle(
        f"Best at finding foreign data: {_LABELS[best]}, {said} {lowest:.2f} (1 perfect, 0.5 chance)"
    )
    return figure


def _draw_table(
    ax: "matplotlib.axes.Axes", result: OutOfDistribution, rows: list[str], sets: list[str]
) -> None:
    found = [[result.detections[name][score] for name in sets] for score in rows]
    table = np.array([[np.nan if one is None else one.auroc for one in line] for line in found])
    image = ax.imshow(table, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(found):
        for column, one in enumerate(line):
            if one is not None:
                colour = "white" if abs(one.auroc - 0.5) > _DARK else "black"
                ax.text(column, row, f"{one.auroc:.2f}", ha="center", va="center", color=colour)
    ax.set_yticks(range(len(rows)), [_LABELS[score] for score in rows])
    ax.set_xticks(range(len(sets)), sets)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, ticks=[0, 0.5, 1], pad=0.01)
    bar.ax.set_yticklabels(["0, wrong way round", "0.5, chance", "1, told apart"])
    bar.outline.set_visible(False)


def _draw_histograms(
    ax: "matplotlib.axes.Axes", result: OutOfDistribution, sets: list[str]
) -> None:
    """A row for each set, over a band that holds the middle 90 % of own data."""
    density = result.own.scores["likelihood"] is not None
    score, sign = ("likelihood", -1) if density else ("neighbours", 1)
    names = ["own test data", *sets]
    values = [
        sign * np.asarray(scored.scores[score])
        for scored in (result.own, *(result.foreign[name] for name in sets))
    ]
    first, middle, last = np.quantile(values[0], (0.05, 0.5, 0.95))
    reach = _REACH * max(last - first, 1e-9)
    pooled = np.concatenate(values)
    low, high = max(pooled.min(), middle - reach), min(pooled.max(), middle + reach)
    bins = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    ax.axvspan(first, last, color=BLUE, alpha=0.12, linewidth=0)
    for row, v in enumerate(values):
        shares = np.histogram(np.clip(v, bins[0], bins[-1]), bins)[0]
        foot = len(values) - 1 - row
        heights = foot + 0.85 * shares / shares.max()
        # `step="post"` needs the last height twice.
        heights = np.append(heights, heights[-1])
        ax.fill_between(
            bins, foot, heights, step="post", color=GREY if row else BLUE, linewidth=0, zorder=2
        )
        ax.axhline(foot, color="0.85", linewidth=0.8)
    ax.set_yticks(np.arange(len(values)) + 0.3, names[::-1])
    ax.tick_params(axis="y", length=0)
    beyond = (
        " (what lies beyond the edges is piled up there)" if np.ptp(pooled) > high - low else ""
    )
    ax.set(xlim=(bins[0], bins[-1]), ylim=(0, len(values)))
    if density:
        fooled = "Band: 90 % of own data. A set to the right of it is more probable, and fools likelihood"
        ax.set(xlabel=f"log p(x), nats{beyond}", title=fooled)
    else:
        nearest = "Band: 90 % of own data. The guide is a point, without log p(x): distances of codes instead"
        ax.set(xlabel=f"mean distance to the nearest training codes{beyond}", title=nearest)
    tidy([ax], grid="x")
    ax.spines["left"].set_visible(False)
