"""Datum by datum: by how much one model's log p(x) is above another's, and for which data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from analysis.comparison.heldout_elpd import HeldOut
from analysis.comparison.model_comparison import ModelComparison
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
from pyro_vae.statistics import khat_threshold

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# What lies beyond this share of differences, on either side, is put into a histogram's last bar.
_TAIL = 0.002
_BARS = 50

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)


@dataclass(frozen=True)
class Preferences:
    """Which data one model prefers, and which another: log p_first(x) - log p_second(x).

    Args:
        first: The name of the one.
        second: The name of the other.
        difference: Of each datum, in nats.
        trusted: Whether no k-hat of either model is above the threshold for the datum. All are, where
            there is no k-hat.
        for_first: The rows with the largest differences, the largest first; none that are not positive.
        for_second: The rows with the smallest, the smallest first; none that are not negative.
    """

    first: str
    second: str
    difference: Float[np.ndarray, " n"]
    trusted: np.ndarray
    for_first: Int[np.ndarray, " some"]
    for_second: Int[np.ndarray, " others"]

    @property
    def share_for_first(self) -> float:
        """The share of data to which the first model gives the higher log p(x)."""
        return float((self.difference > 0).mean())


def preferences(
    comparison: ModelComparison,
    first: str | None = None,
    second: str | None = None,
    *,
    count: int = 8,
) -> Preferences:
    """log p_first(x) - log p_second(x) of each datum, and the rows where it is largest and smallest.

    A lead that a few data make says more of these data than of the model.

    Args:
        comparison: Of two models or more.
        first: A model's name; the best's if it is not given.
        second: Another's; the next best's.
        count: So many rows for each model.

    Raises:
        ValueError: If there is no model of this name.
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
    """On the left log p_best(x) - log p_next(x) of each datum; on the right its quantiles, of all models.

    A mean above 0 with most data on both sides is a small gain on many data; a long tail is a large
    one on few. Orange data have a k-hat above the threshold in one of the two models: there log p(x)
    is too low, and the difference wrong to the side of the other. Where a curve crosses 0 it says the
    share of data that prefer the model to the best.

    Args:
        comparison: Of two models or more.
    """
    best, *others = comparison.names
    figure = new_figure(10.0, 4.6 + 0.17 * len(others))
    left, right = figure.subplots(1, 2)
    pair = preferences(comparison)
    _draw_histogram(left, pair)
    share = (np.arange(comparison.n) + 0.5) / comparison.n
    for name, colour in zip(others, _COLOURS * len(others), strict=False):
        against = preferences(comparison, second=name)
        label = f"{shortened(name)}: {(against.difference < 0).mean():.0%} prefer it"
        right.plot(np.sort(against.difference), share, color=colour, lw=1.6, label=label)
    right.axvline(0, color="0.4", linewidth=0.8)
    smallest, largest = np.quantile(
        comparison.log_evidence[0] - comparison.log_evidence[1:], [_TAIL, 1 - _TAIL]
    )
    # One model far behind would press the others into a line.
    if max(abs(smallest), abs(largest)) > 30:
        right.set_xscale("symlog", linthresh=1.0)
    right.set(ylim=(0, 1), ylabel="share of the data at or below")
    right.set_xlabel(f"log p(x) of {shortened(best)} minus the model's, nats", fontsize=8)
    right.set_title("Each model against the best", fontsize=10)
    right.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        frameon=False,
        fontsize=8,
    )
    tidy([left, right])
    figure.suptitle(
        wrapped(
            f"{pair.share_for_first:.0%} of {comparison.n:,} data have a higher log p(x) under "
            f"{shortened(best)} than under {shortened(others[0])}"
        ),
        fontsize=12,
    )
    return figure


def _draw_histogram(ax: "matplotlib.axes.Axes", pair: Preferences) -> None:
    lowest, highest = np.quantile(pair.difference, [_TAIL, 1 - _TAIL])
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if highest == lowest:
        lowest, highest = -1.0, 1.0
    shown = pair.difference.clip(lowest, highest)
    edges = np.linspace(lowest, highest, _BARS + 1).tolist()
    poor = int((~pair.trusted).sum())
    parts, colours, labels = [shown[pair.trusted]], [BLUE], ["k-hats below the threshold"]
    if poor:
        parts.append(shown[~pair.trusted])
        colours.append(ORANGE)
        labels.append(f"k-hat above it: {poor:,} data")
    ax.hist(parts, bins=edges, stacked=True, color=colours, label=labels)
    ax.axvline(0, color="0.4", linewidth=0.8)
    mean = float(pair.difference.mean())
    ax.axvline(mean, color=GREEN, linestyle="--", label=f"mean {mean:.2f}")
    ax.set_xlabel(
        f"log p(x) of {shortened(pair.first)} minus {shortened(pair.second)}'s, nats", fontsize=8
    )
    ax.set_ylabel("data")
    ax.set_title("The best against the next; end bars hold what lies beyond", fontsize=10)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, fontsize=8)


def paired_report(comparison: ModelComparison, *, data: str = "held-out data") -> str:
    """The comparison as a table of plain text, best first, in nats per datum.

    Args:
        comparison: Of two models or more.
        data: What they are compared on.
    """
    heads: tuple[str, ...] = (
        "model",
        "log p(x)",
        "below the best",
        "k-hat above",
        "weight",
        "told apart",
    )
    rows: list[tuple[str, ...]] = [heads]
    for rank, model in enumerate(comparison.models):
        share = model.khat_share_above
        gap = comparison.differences[rank], comparison.difference_standard_errors[rank]
        rows.append(
            (
                model.name,
                f"{comparison.means[rank]:.2f} +- {comparison.standard_errors[rank]:.2f}",
                "-" if rank == 0 else f"{gap[0]:.3f} +- {gap[1]:.3f}",
                "not defined" if share is None else f"{share:.1%}",
                f"{comparison.weights[rank]:.2f}",
                "-" if rank == 0 else "yes" if comparison.told_apart[rank] else "no",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    title = f"log p(x) of {comparison.n:,} {data}, nats per {noun()} +- standard error"
    return "\n".join([title, *(f"  {line}" for line in lines)])
