"""How many labels a representation needs: the probe's accuracy by the number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.plotting.style import GREY, LINE_COLOURS, new_figure, shortened, tidy, wrapped
from analysis.representation.balanced_draws import balanced_rows, check_sizes, spread_over_draws
from analysis.representation.codes import Labelled
from analysis.representation.probes import (
    binomial_error,
    chance_level,
    check_labelled,
    linear_probe,
)
from pyro_vae.evidence.numbers import finite

if TYPE_CHECKING:
    import matplotlib.figure

# A size is enough if it comes within this share of the accuracy that all labels give.
ENOUGH = 0.95

# Ticks nearer than this ratio have no room for both numbers.
_TICKS_APART = 1.6
_MARKERS = "osD^vP*X<>hp"


@dataclass(frozen=True)
class AtSize:
    """The probe's accuracy with n labels, over draws of them.

    Args:
        n: The number of labels.
        accuracies: One for each draw.
        standard_error: Of their mean, from the choice of test data, at most: as if all draws erred
            on the same data.
        all_labels: Whether these are all labels there are, of which there is one draw only.
    """

    n: int
    accuracies: Float[np.ndarray, " repeats"]
    standard_error: float
    all_labels: bool

    @property
    def mean(self) -> float:
        """The mean accuracy over draws."""
        return float(self.accuracies.mean())

    @property
    def spread(self) -> float | None:
        """The standard deviation over draws; None for one."""
        return spread_over_draws(self.accuracies)

    @property
    def repeats(self) -> int:
        """The number of draws."""
        return len(self.accuracies)


@dataclass(frozen=True)
class LabelEfficiency:
    """The probe's accuracy by the number of labels it is fitted to.

    Args:
        points: By rising size.
        left_out: Sizes that were asked for, and are above the number of labels there are.
        num_classes: The number of different labels.
        chance: The share of the most frequent label among the test data.
        num_test: The number of test data.
    """

    points: tuple[AtSize, ...]
    left_out: tuple[int, ...]
    num_classes: int
    chance: float
    num_test: int

    def summary(self) -> dict[str, Any]:
        """Mean and spread of the accuracy at each size."""
        return {
            "points": [
                {
                    "n": point.n,
                    "all_labels": point.all_labels,
                    "mean": finite(point.mean),
                    "spread": finite(point.spread),
                    "standard_error": finite(point.standard_error),
                    "repeats": point.repeats,
                }
                for point in self.points
            ],
            "left_out": list(self.left_out),
            "num_classes": self.num_classes,
            "num_test": self.num_test,
            "chance": finite(self.chance),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """What few labels give of what many give."""
        few, many = self.points[0], self.points[-1]
        spread = "" if few.spread is None else f" +- {few.spread:.1%} over {few.repeats} draws"
        said = (
            f"A linear probe is right for {few.mean:.1%}{spread} with {few.n:,} labels, and for "
            f"{many.mean:.1%} with {many.n:,}; always saying the most frequent label would be right "
            f"for {self.chance:.1%}."
        )
        parts = [said]
        enough = next(point for point in self.points if point.mean >= ENOUGH * many.mean)
        if many.mean - self.chance < 2 * many.standard_error:
            parts.append("That is no better than chance: the labels cannot be read off linearly.")
        elif enough is many and len(self.points) > 1:
            parts.append(f"No smaller size reaches {ENOUGH:.0%} of that: labels are worth buying.")
        elif len(self.points) > 1:
            parts.append(f"{enough.n:,} labels reach {ENOUGH:.0%} of that.")
        parts.append("A good representation is above raw data where labels are few.")
        if few.n < self.num_classes:
            parts.append(
                f"{few.n} labels leave some of {self.num_classes} classes out, which count as wrong."
            )
        if self.left_out:
            parts.append(
                f"Left out, for want of labels: {', '.join(f'{size:,}' for size in self.left_out)}."
            )
        return " ".join(parts)


def label_efficiency(
    train: Labelled,
    test: Labelled,
    *,
    sizes: Sequence[int | None] = (10, 100, 1000, None),
    repeats: int = 5,
    seed: int = 0,
) -> LabelEfficiency:
    """E over draws of n labels of the linear probe's accuracy, by n.

    The draws depend on the labels and the seed alone: representations of the same data are fitted to
    the same data. A draw has as many of each class as can be; one smaller than the number of classes
    has one each of some, drawn anew.

    Args:
        train: Codes and labels that draws are taken from.
        test: Codes and labels to be right about, for all draws.
        sizes: Numbers of labels; None for all of them, once.
        repeats: The number of draws of each size.
        seed: Of the draws.

    Returns:
        Mean and spread at each size.

    Raises:
        UndefinedCheckError: If the training data have one label only.
        ValueError: If there are no sizes, one is below 2, or `repeats` is below 1; for codes that
            `linear_probe` refuses.
    """
    check_labelled(train, test)
    check_sizes(sizes, repeats)
    numbers = sorted({len(train) if size is None else size for size in sizes})
    # Where no size is within reach, all labels are.
    possible = [n for n in numbers if n <= len(train)] or [len(train)]
    points = []
    for n in possible:
        draws = 1 if n == len(train) else repeats
        accuracies = np.array(
            [
                linear_probe(
                    train.taken(balanced_rows(train.labels, n, seed=seed, repeat=repeat)),
                    test,
                    seed=seed,
                ).accuracy
                for repeat in range(draws)
            ]
        )
        error = binomial_error(float(accuracies.mean()), len(test))
        points.append(AtSize(n, accuracies, error, n == len(train)))
    return LabelEfficiency(
        points=tuple(points),
        left_out=tuple(n for n in numbers if n > len(train)),
        num_classes=len(np.unique(train.labels)),
        chance=chance_level(test.labels),
        num_test=len(test),
    )


def plot_label_efficiency(results: Mapping[str, LabelEfficiency]) -> "matplotlib.figure.Figure":
    """The probe's accuracy by the number of labels: higher to the left is what one hopes for.

    Args:
        results: By the representation's name. Bars are one standard deviation over draws; for one
            draw, one standard error from the choice of test data.

    Raises:
        ValueError: If there are none.
    """
    if not results:
        raise ValueError("at least one representation must be given, got none.")
    figure = new_figure(10.0, 5.2)
    ax = figure.subplots()
    # By the height of the line's end, as the eye meets them.
    ranked = sorted(results.items(), key=lambda item: -item[1].points[-1].mean)
    offsets = np.linspace(-0.5, 0.5, len(ranked)) if len(ranked) > 1 else np.zeros(1)
    shift = min(0.04 * len(ranked), 0.2)
    for place, (name, result) in enumerate(ranked):
        sizes = np.array([point.n for point in result.points])
        ax.errorbar(
            # Side by side, so that bars do not hide one another.
            sizes * 10 ** (shift * offsets[place]),
            [point.mean for point in result.points],
            yerr=[
                point.standard_error if point.spread is None else point.spread
                for point in result.points
            ],
            color=LINE_COLOURS[place % len(LINE_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            ms=5.5,
            lw=1.6,
            capsize=2.5,
            elinewidth=1.1,
            label=shortened(name, 34),
        )
    first = ranked[0][1]
    ax.axhline(first.chance, color=GREY, linestyle="--", linewidth=1.1, label="chance")
    ticks = sorted({point.n for result in results.values() for point in result.points})
    ax.set_xscale("log")
    # A number beside the next one is not written over it.
    words = [
        "" if n * _TICKS_APART > following else f"{n:,}"
        for n, following in zip(ticks, [*ticks[1:], np.inf], strict=True)
    ]
    ax.set_xticks(ticks, words)
    ax.minorticks_off()
    ax.set(
        xlabel="number of labels, on a log axis",
        ylabel=f"accuracy of a linear probe on {first.num_test:,} test data",
        ylim=(0, 1.02),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9.5)
    tidy([ax])
    figure.suptitle(wrapped(_title(results)), fontsize=12)
    return figure


def _title(results: Mapping[str, LabelEfficiency]) -> str:
    """Which representation leads where labels are few, and whether draws tell it apart."""
    if len(results) == 1:
        ((name, result),) = results.items()
        few, many = result.points[0], result.points[-1]
        return (
            f"{shortened(name)}: {few.mean:.1%} right with {few.n:,} labels, {many.mean:.1%} "
            f"with {many.n:,}"
        )
    shared = set.intersection(*({point.n for point in r.points} for r in results.values()))
    if not shared:
        return "A linear probe's accuracy by the number of labels"
    sizes = sorted(shared)
    # The smallest size tells little: a draw of one label each is mostly luck.
    n = next((size for size in sizes if size >= 100), sizes[-1])
    at = {
        name: next(point for point in result.points if point.n == n)
        for name, result in results.items()
    }
    (best, first), (_, second) = sorted(at.items(), key=lambda item: -item[1].mean)[:2]
    lead, spread = first.mean - second.mean, max(first.spread or 0.0, second.spread or 0.0)
    if lead <= max(spread, first.standard_error):
        return (
            f"With {n:,} labels the best, {shortened(best)}, is right for {first.mean:.1%}: no more "
            "above the next than draws differ"
        )
    return (
        f"With {n:,} labels {shortened(best)} is right for {first.mean:.1%}, the next for "
        f"{second.mean:.1%}"
    )
