"""How many labels a representation needs: the probe's accuracy by the number of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from analysis.check import Check, Plot
from analysis.plotting.style import GREY, LINE_COLOURS, new_figure, shorten, tidy, wrap_title
from analysis.representation.codes import (
    LabelledCodes,
    balanced_rows,
    check_sizes,
    spread,
    with_error,
)
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.probes import (
    binomial_error,
    chance_level,
    check_labelled,
    linear_probe,
)
from analysis.representation.transfer import representations
from analysis.result import Result
from analysis.subject import Subject

if TYPE_CHECKING:
    import matplotlib.figure


# A number of labels suffices if it reaches this share of the accuracy with all labels.
ENOUGH = 0.95
# In a diagnosis: numbers of labels besides all of them, and draws of each.
FEW, REPEATS = (10, 100, 1000), 5

# Ticks closer than this ratio have no room for both numbers.
_TICKS_APART = 1.6
_MARKERS = "osD^vP*X<>hp"


@dataclass(frozen=True)
class ProbeAtSize:
    """The probe's accuracy with n labels, over draws of them.

    Args:
        n: The number of labels.
        accuracies: One per draw.
        standard_error: An upper bound of that of their mean, from the choice of test data: as if
            all draws erred on the same data.
        all_labels: Whether these are all available labels, of which there is a single draw.
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
        return spread(self.accuracies)


@dataclass(frozen=True)
class LabelEfficiency(Result):
    """The probe's accuracy by the number of labels it is fitted to.

    Args:
        points: By increasing size.
        left_out: Requested sizes above the number of available labels.
        num_classes: The number of different labels.
        chance: The share of the most frequent test label.
        num_test: The number of test examples.
    """

    FIELDS: ClassVar = ("left_out", "num_classes", "num_test", "chance")

    points: tuple[ProbeAtSize, ...]
    left_out: tuple[int, ...]
    num_classes: int
    chance: float
    num_test: int

    def extra(self) -> dict[str, Any]:
        """Mean and spread of the accuracy at each size."""
        names = ("n", "all_labels", "mean", "spread", "standard_error")
        return {
            "points": [
                {name: getattr(p, name) for name in names} | {"repeats": len(p.accuracies)}
                for p in self.points
            ]
        }

    def at(self, n: int) -> ProbeAtSize:
        """The accuracy with n labels."""
        return next(point for point in self.points if point.n == n)

    def reading(self) -> str:
        """The smallest number of labels that suffices."""
        few, many = self.points[0], self.points[-1]
        enough = next(point for point in self.points if point.mean >= ENOUGH * many.mean)
        if many.mean - self.chance < 2 * many.standard_error:
            verdict = "no better than chance"
        elif enough is many:
            verdict = f"no fewer labels reach {ENOUGH:.0%} of that"
        else:
            verdict = f"{enough.n:,} labels reach {ENOUGH:.0%} of that"
        text = (
            f"A linear probe is right for {with_error(few.mean, few.spread, '.1%')} with "
            f"{few.n:,} labels and "
            f"for {many.mean:.1%} with {many.n:,} (chance {self.chance:.1%}): {verdict}."
        )
        if few.n < self.num_classes:
            text += f" {few.n} labels leave out some of {self.num_classes} classes."
        if self.left_out:
            sizes = ", ".join(f"{size:,}" for size in self.left_out)
            text += f" Left out for lack of labels: {sizes}."
        return text


@dataclass(frozen=True)
class Baselines(Result):
    """The same probe of representations that need no training.

    Args:
        codes: The probe of the codes.
        others: That of raw data, and of codes of the untrained program.
    """

    codes: LabelEfficiency
    others: dict[str, LabelEfficiency]

    def extra(self) -> dict[str, Any]:
        """The result of each baseline."""
        return {name.replace(" ", "_"): each.summary() for name, each in self.others.items()}

    def reading(self) -> str:
        """Whether the codes beat both baselines, at the common size nearest to 100 labels."""
        everything = (self.codes, *self.others.values())
        sizes = set.intersection(*({point.n for point in each.points} for each in everything))
        n = min(sizes, key=lambda size: abs(np.log(size / 100)))
        own, others = self.codes.at(n), {name: each.at(n) for name, each in self.others.items()}
        best_name = max(others, key=lambda name: others[name].mean)
        best = others[best_name]
        difference = own.mean - best.mean
        noise = 2 * max(own.spread or own.standard_error, best.spread or best.standard_error)
        if difference > noise:
            verdict = "the learned codes beat both baselines"
        elif difference < -noise:
            verdict = f"the baseline {best_name} is better"
        else:
            verdict = "the best two differ by no more than draws do"
        accuracies = " and ".join(f"{name} {point.mean:.1%}" for name, point in others.items())
        said = f"With {n:,} labels the probe of codes is right for {own.mean:.1%}"
        return f"{said}, of {accuracies}: {verdict}."


def label_efficiency(
    train: LabelledCodes,
    test: LabelledCodes,
    *,
    sizes: Sequence[int | None] = (10, 100, 1000, None),
    repeats: int = 5,
    seed: int = 0,
) -> LabelEfficiency:
    """Mean accuracy of the linear probe over draws of n labels, by n.

    Draws depend on the labels and the seed only: representations of the same data are fitted to
    the same examples. Draws are balanced; one smaller than the number of classes has a single
    example of some classes, chosen at random.

    Args:
        train: Codes and labels to draw from.
        test: Codes and labels to evaluate, the same for all draws.
        sizes: Numbers of labels; None for all of them, once.
        repeats: The number of draws of each size.
        seed: The seed of the draws.

    Returns:
        Mean and spread at each size.

    Raises:
        UndefinedCheckError: If the training data have a single label.
        ValueError: If there are no sizes, one is below 2, or `repeats` is below 1; for codes that
            `linear_probe` refuses.
    """
    check_labelled(train, test)
    check_sizes(sizes, repeats)
    numbers = sorted({len(train) if size is None else size for size in sizes})
    # If no size is within reach, all labels are used.
    possible = [n for n in numbers if n <= len(train)] or [len(train)]
    points = []
    for n in possible:
        draws = [
            train.subset(balanced_rows(train.labels, n, seed=seed, repeat=repeat))
            for repeat in range(1 if n == len(train) else repeats)
        ]
        accuracies = np.array([linear_probe(draw, test, seed=seed).accuracy for draw in draws])
        error = binomial_error(float(accuracies.mean()), len(test))
        points.append(ProbeAtSize(n, accuracies, error, n == len(train)))
    return LabelEfficiency(
        points=tuple(points),
        left_out=tuple(n for n in numbers if n > len(train)),
        num_classes=len(np.unique(train.labels)),
        chance=chance_level(test.labels),
        num_test=len(test),
    )


def plot_label_efficiency(results: Mapping[str, LabelEfficiency]) -> "matplotlib.figure.Figure":
    """Draw the probe's accuracy by the number of labels.

    Args:
        results: By the representation's name. Bars are one standard deviation over draws; for a
            single draw, one standard error from the choice of test data.

    Raises:
        ValueError: If there are none.
    """
    if not results:
        raise ValueError("at least one representation must be given, got none.")
    figure = new_figure(10.0, 5.2)
    ax = figure.subplots()
    # The legend is in the order of the lines' right ends.
    ranked = sorted(results.items(), key=lambda item: -item[1].points[-1].mean)
    offsets = np.linspace(-0.5, 0.5, len(ranked)) if len(ranked) > 1 else np.zeros(1)
    shift = min(0.04 * len(ranked), 0.2)
    for place, (name, result) in enumerate(ranked):
        points = result.points
        ax.errorbar(
            # Side by side, so that bars do not hide one another.
            np.array([point.n for point in points]) * 10 ** (shift * offsets[place]),
            [point.mean for point in points],
            yerr=[p.standard_error if p.spread is None else p.spread for p in points],
            color=LINE_COLOURS[place % len(LINE_COLOURS)],
            marker=_MARKERS[place % len(_MARKERS)],
            ms=5.5,
            lw=1.6,
            capsize=2.5,
            elinewidth=1.1,
            label=shorten(name, 34),
        )
    first = ranked[0][1]
    ax.axhline(first.chance, color=GREY, linestyle="--", linewidth=1.1, label="chance")
    ticks = sorted({point.n for result in results.values() for point in result.points})
    ax.set_xscale("log")
    labels = [
        "" if n * _TICKS_APART > following else f"{n:,}"
        for n, following in zip(ticks, [*ticks[1:], np.inf], strict=True)
    ]
    ax.set_xticks(ticks, labels)
    ax.minorticks_off()
    ax.set(
        xlabel="number of labels (log scale)",
        ylabel=f"accuracy of a linear probe on {first.num_test:,} test data",
        ylim=(0, 1.02),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9.5)
    tidy([ax])
    few, many = first.points[0], first.points[-1]
    title = f"{few.mean:.1%} right with {few.n:,} labels, {many.mean:.1%} with {many.n:,}"
    title = f"{shorten(ranked[0][0])}: {title}"
    figure.suptitle(
        wrap_title(title if len(ranked) == 1 else f"Best with most labels, {title}"), fontsize=12
    )
    return figure


def _diagnose(subject: Subject) -> LabelEfficiency:
    inputs = subject.compute(RepresentationInputs)
    return _efficiency(subject, inputs.train, inputs.test, (*FEW, None))


def _efficiency(
    subject: Subject, train: LabelledCodes, test: LabelledCodes, sizes: Sequence[int | None]
) -> LabelEfficiency:
    seed = subject.seed_of("labels")
    return label_efficiency(train, test, sizes=sizes, repeats=REPEATS, seed=seed)


def _diagnose_baselines(subject: Subject) -> Baselines:
    inputs, untrained = subject.compute(RepresentationInputs), subject.untrained()
    train, test = (
        representations(subject.vae, untrained, x, torch.from_numpy(labels))
        for x, labels in (
            (inputs.labelled_train_x, inputs.train.labels),
            (inputs.labelled_x, inputs.labels),
        )
    )
    others = {
        name: _efficiency(subject, train[name], test[name], FEW)
        for name in ("raw data", "untrained encoder")
    }
    return Baselines(subject.compute(_diagnose), others)


LABEL_EFFICIENCY = Check(
    "label_efficiency",
    _diagnose,
    headline=lambda found: {
        f"linear probe, {point.n:,} labels": with_error(point.mean, point.spread)
        for point in found.points[:-1]
    },
)


BASELINES = Check(
    "baselines",
    _diagnose_baselines,
    (
        Plot(
            "label_efficiency",
            "How many labels does a classifier of codes need, and how many one of raw data?",
            lambda found, _: plot_label_efficiency({"this run": found.codes, **found.others}),
        ),
    ),
    requires=(LABEL_EFFICIENCY,),
)
