"""Differences of log p(x) between two models for each example, and the report of a comparison."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.comparison.heldout_elpd import HeldOut
from analysis.comparison.model_comparison import ModelComparison
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


@dataclass(frozen=True)
class Preferences:
    """The examples that each of two models prefers: log p_first(x) - log p_second(x).

    Args:
        first: The name of the first model.
        second: The name of the second model.
        difference: The difference for each example, in nats.
        trusted: Whether no k-hat of either model is above the threshold; all are where there is no
            k-hat.
        for_first: The rows with the largest positive differences, largest first.
        for_second: The rows with the smallest negative differences, smallest first.
    """

    first: str
    second: str
    difference: Float[np.ndarray, " n"]
    trusted: Bool[np.ndarray, " n"]
    for_first: Int[np.ndarray, " some"]
    for_second: Int[np.ndarray, " others"]

    @property
    def share_for_first(self) -> float:
        """The share of examples with a higher log p(x) under the first model."""
        return float((self.difference > 0).mean())


def preferences(
    comparison: ModelComparison,
    first: str | None = None,
    second: str | None = None,
    *,
    count: int = 8,
) -> Preferences:
    """log p_first(x) - log p_second(x) of each example, and its largest and smallest rows.

    Args:
        comparison: A comparison of at least two models.
        first: The name of a model; by default the best.
        second: The name of another model; by default the second best.
        count: The number of rows for each model.

    Raises:
        ValueError: If there is no model with this name.
    """
    models = {model.name: model for model in comparison.models}
    names = comparison.names
    chosen = (names[0] if first is None else first, names[1] if second is None else second)
    for name in chosen:
        if name not in models:
            raise ValueError(f"a model must be one of {', '.join(names)}, got {name!r}.")
    one, other = (models[name] for name in chosen)
    difference = one.log_evidence.astype(np.float64) - other.log_evidence
    order = np.argsort(-difference, kind="stable")
    falling, rising = order[:count], order[::-1][:count]
    return Preferences(
        *chosen,
        difference=difference,
        trusted=_trusted(one) & _trusted(other),
        for_first=falling[difference[falling] > 0],
        for_second=rising[difference[rising] < 0],
    )


def _trusted(model: HeldOut) -> np.ndarray:
    if model.khat is None:
        return np.ones(len(model.log_evidence), bool)
    return model.khat <= khat_threshold(model.num_samples)


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
    pair = preferences(comparison)
    _draw_histogram(left, pair)
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
        f"{pair.share_for_first:.0%} of {comparison.n:,} {nouns()} have a higher log p(x) under "
        f"{shorten(best)} than under {shorten(others[0])}"
    )
    figure.suptitle(wrap_title(title), fontsize=12)
    return figure


def _draw_histogram(ax: "matplotlib.axes.Axes", pair: Preferences) -> None:
    lowest, highest = np.quantile(pair.difference, [_TAIL, 1 - _TAIL])
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if highest == lowest:
        lowest, highest = -1.0, 1.0
    shown = pair.difference.clip(lowest, highest)
    edges = np.linspace(lowest, highest, _BARS + 1).tolist()
    parts, colours, labels = [shown[pair.trusted]], [BLUE], ["k-hats below the threshold"]
    if poor := int((~pair.trusted).sum()):
        parts.append(shown[~pair.trusted])
        colours.append(ORANGE)
        labels.append(f"k-hat above it: {poor:,} {nouns()}")
    ax.hist(parts, bins=edges, stacked=True, color=colours, label=labels)
    ax.axvline(0, color="0.4", linewidth=0.8)
    mean = float(pair.difference.mean())
    ax.axvline(mean, color=GREEN, linestyle="--", label=f"mean {mean:.2f}")
    label = f"log p(x) of {shorten(pair.first)} minus {shorten(pair.second)}'s, nats"
    ax.set_xlabel(label, fontsize=8)
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
