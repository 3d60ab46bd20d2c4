"""Figures of a comparison: mean log p(x), its differences for each example; and the report."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.comparison.model_comparison import (
    MOST_KHATS_ABOVE,
    STANDARD_ERRORS,
    HeldOut,
    ModelComparison,
)
from analysis.plotting.style import (
    BLUE,
    GREEN,
    GREY,
    LABEL_COLOURS,
    ORANGE,
    arviz_figure,
    new_figure,
    shorten,
    tidy,
    wrap_title,
)
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import khat_threshold

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Differences beyond this share, on either side, are put into a histogram's last bar.
_TAIL = 0.002
_BARS = 50
# The largest difference in nats up to which the axis is linear.
_LINEAR = 30

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)


def plot_model_comparison(comparison: ModelComparison) -> "matplotlib.figure.Figure":
    """Mean log p(x) of each model relative to the best, with 2 paired standard errors.

    A bar that reaches the dashed line is of a model that is not distinguishable from the best. On
    the right are the mean, the share of k-hats above the threshold, and the stacking weight.
    Models whose log p(x) is too low according to k-hat are orange.
    """
    import arviz_plots
    import pandas as pd

    models = comparison.models
    # With these columns plot_compare shows the mean log p(x), and both versions of ArviZ draw them
    # alike.
    table = pd.DataFrame(
        {
            "mlpd": -comparison.differences,
            "se": STANDARD_ERRORS * comparison.difference_standard_errors,
        },
        index=pd.Index([shorten(name) for name in comparison.names]),
    )
    figure = arviz_figure(
        arviz_plots.plot_compare,
        table,
        width=10.0,
        height=2.1 + 0.42 * len(models),
        relative_scale=False,
        visuals={"title": False, "point_estimate": {"color": BLUE}, "ref_line": {"color": GREY}},
    )
    ax = figure.axes[0]
    colours = [ORANGE if model.too_low else BLUE for model in models]
    for line, colour in zip(ax.lines, colours, strict=False):
        line.set_color(colour)
    ax.collections[0].set(facecolor=colours, edgecolor=colours, zorder=3)
    ax.set_ylim(0.4, len(models) + 0.6)
    ax.set_xlabel(
        f"log p(x) minus that of {shorten(comparison.names[0])}, nats per {noun()}, "
        f"± {STANDARD_ERRORS:g} paired standard errors",
        fontsize=10,
    )
    if any(model.too_low for model in models):
        figure.supxlabel(
            f"orange: log p(x) is too low, as k-hat is above its threshold for more than "
            f"{MOST_KHATS_ABOVE:.0%} of {nouns()}",
            fontsize=9,
            color=ORANGE,
        )
    ax.tick_params(labelsize=10)
    numbers = ax.twinx()
    numbers.set_ylim(ax.get_ylim())
    notes = []
    for model, mean, weight in zip(models, comparison.means, comparison.weights, strict=True):
        share = "?" if model.khat_share_above is None else f"{model.khat_share_above:.0%}"
        notes.append(f"{mean:.2f} nats, k-hat high {share}, weight {weight:.2f}")
    numbers.set_yticks(range(len(models), 0, -1), notes, fontsize=9)
    numbers.tick_params(length=0)
    tidy([ax, numbers], grid=None)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    figure.suptitle(
        wrap_title(f"Of {comparison.n:,} {nouns()}: {comparison.title()}"), fontsize=12
    )
    return figure


def plot_paired_differences(comparison: ModelComparison) -> "matplotlib.figure.Figure":
    """A histogram of log p_best(x) - log p_second(x), and the quantiles for all models.

    A mean above 0 with most examples on both sides is a small gain on many; a long tail is a large
    gain on few. Orange examples have a k-hat above the threshold under one of the two models,
    whose log p(x) is too low. A curve crosses 0 at the share of examples that prefer the model to
    the best.
    """
    best, *others = comparison.names
    figure = new_figure(10.0, 4.6 + 0.17 * len(others))
    left, right = figure.subplots(1, 2)
    first, second = comparison.models[:2]
    difference = first.log_evidence.astype(np.float64) - second.log_evidence
    _draw_histogram(left, difference, _trust_mask(first) & _trust_mask(second))
    label = f"log p(x) of {shorten(best)} minus {shorten(others[0])}'s, nats"
    left.set_xlabel(label, fontsize=8)
    share = (np.arange(comparison.n) + 0.5) / comparison.n
    below = comparison.log_evidence[0] - comparison.log_evidence[1:]
    for name, values, colour in zip(others, below, _COLOURS * len(others), strict=False):
        label = f"{shorten(name)}: {(values < 0).mean():.0%} prefer it"
        right.plot(np.sort(values), share, color=colour, lw=1.6, label=label)
    right.axvline(0, color="0.4", linewidth=0.8)
    # One model far behind would press the others into a line.
    if np.abs(np.quantile(below, [_TAIL, 1 - _TAIL])).max() > _LINEAR:
        right.set_xscale("symlog", linthresh=1.0)
    right.set(ylim=(0, 1), ylabel=f"share of {nouns()} at or below")
    right.set_xlabel(f"log p(x) of {shorten(best)} minus the model's, nats", fontsize=8)
    right.set_title("Each model against the best", fontsize=10)
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, fontsize=8)
    tidy([left, right])
    title = (
        f"{(difference > 0).mean():.0%} of {comparison.n:,} {nouns()} have a higher log p(x) "
        f"under {shorten(best)} than under {shorten(others[0])}"
    )
    figure.suptitle(wrap_title(title), fontsize=12)
    return figure


def _trust_mask(model: HeldOut) -> np.ndarray:
    if model.khat is None:
        return np.ones(len(model.log_evidence), bool)
    return model.khat <= khat_threshold(model.num_samples)


def _draw_histogram(
    ax: "matplotlib.axes.Axes", difference: np.ndarray, trusted: np.ndarray
) -> None:
    lowest, highest = np.quantile(difference, [_TAIL, 1 - _TAIL])
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if highest == lowest:
        lowest, highest = -1.0, 1.0
    shown = difference.clip(lowest, highest)
    edges = np.linspace(lowest, highest, _BARS + 1).tolist()
    parts, colours, labels = [shown[trusted]], [BLUE], ["k-hats below the threshold"]
    if poor := int((~trusted).sum()):
        parts.append(shown[~trusted])
        colours.append(ORANGE)
        labels.append(f"k-hat above it: {poor:,} {nouns()}")
    ax.hist(parts, bins=edges, stacked=True, color=colours, label=labels)
    ax.axvline(0, color="0.4", linewidth=0.8)
    mean = float(difference.mean())
    ax.axvline(mean, color=GREEN, linestyle="--", label=f"mean {mean:.2f}")
    ax.set_ylabel(nouns())
    ax.set_title("The best against the next; end bars include the tails", fontsize=10)


def paired_report(comparison: ModelComparison, *, data: str = "held-out data") -> str:
    """The comparison as a plain-text table, best first, in nats per example."""
    rows = [("model", "log p(x)", "below the best", "k-hat above", "weight", "told apart")]
    for rank, model in enumerate(comparison.models):
        share = model.khat_share_above
        gap, error = comparison.differences[rank], comparison.difference_standard_errors[rank]
        rows.append(
            (
                model.name,
                f"{comparison.means[rank]:.2f} +- {comparison.standard_errors[rank]:.2f}",
                "-" if rank == 0 else f"{gap:.3f} +- {error:.3f}",
                "not defined" if share is None else f"{share:.1%}",
                f"{comparison.weights[rank]:.2f}",
                "-" if rank == 0 else "yes" if comparison.differs_from_best[rank] else "no",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"log p(x) of {comparison.n:,} {data}, nats per {noun()} +- standard error"]
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join(["  " + name.ljust(widths[0]), *padded]))
    return "\n".join(lines)
