"""Whether codes help with labels of other data: against the data themselves and an untrained encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.plotting.style import (
    GREY,
    LINE_COLOURS,
    listed,
    new_figure,
    shortened,
    tidy,
    wrapped,
)
from analysis.predictive.model_samples import to_array
from analysis.representation.balanced_draws import balanced_rows, check_sizes
from analysis.representation.codes import Labelled, labelled_codes
from analysis.representation.probes import chance_level, check_labelled, linear_probe
from pyro_vae.evidence.numbers import finite
from pyro_vae.networks import UserUnits

if TYPE_CHECKING:
    import matplotlib.figure

# A mean difference is told apart from 0 by so many standard errors: over five draws chance alone
# goes beyond three with probability 0.04.
TOLD_APART = 3.0


@dataclass(frozen=True)
class Lead:
    """By how much one representation's probe is right more often than another's, at one size.

    Args:
        other: The name of the other.
        n: The number of labels.
        differences: Of the accuracies, for each draw of labels.
        test_error: The standard error of their mean from the choice of test data, which both share.
    """

    other: str
    n: int
    differences: Float[np.ndarray, " repeats"]
    test_error: float

    @property
    def mean(self) -> float:
        """The mean difference over draws."""
        return float(self.differences.mean())

    @property
    def spread(self) -> float:
        """The standard deviation over draws."""
        return float(self.differences.std(ddof=1))

    @property
    def standard_error(self) -> float:
        """Of the mean, from draws and test data together."""
        return float(np.hypot(self.spread / len(self.differences) ** 0.5, self.test_error))

    @property
    def told_apart(self) -> bool:
        """Whether the mean is beyond what chance gives, on either side."""
        return abs(self.mean) > TOLD_APART * self.standard_error


@dataclass(frozen=True)
class Transfer:
    """Accuracies of one probe on several representations, from the same draws of labels.

    Args:
        sizes: Numbers of labels, rising.
        accuracies: By the representation's name.
        leads: Of the first representation over each other, size by size.
        chance: The share of the most frequent label among the test data.
        num_test: The number of test data.
    """

    sizes: tuple[int, ...]
    accuracies: dict[str, Float[np.ndarray, "sizes repeats"]]
    leads: tuple[Lead, ...]
    chance: float
    num_test: int

    @property
    def first(self) -> str:
        """The name of the representation that is judged."""
        return next(iter(self.accuracies))

    def summary(self) -> dict[str, Any]:
        """Mean and spread of each accuracy, and of each paired difference."""
        return {
            "sizes": list(self.sizes),
            "repeats": next(iter(self.accuracies.values())).shape[1],
            "num_test": self.num_test,
            "chance": finite(self.chance),
            "accuracies": {
                name: [
                    {
                        "n": n,
                        "mean": finite(values[row].mean()),
                        "spread": finite(values[row].std(ddof=1)),
                    }
                    for row, n in enumerate(self.sizes)
                ]
                for name, values in self.accuracies.items()
            },
            "leads": [
                {
                    "over": lead.other,
                    "n": lead.n,
                    "mean": finite(lead.mean),
                    "spread": finite(lead.spread),
                    "standard_error": finite(lead.standard_error),
                    "told_apart": lead.told_apart,
                }
                for lead in self.leads
            ],
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the representation carries over, and over what it is better."""
        parts = []
        for n in self.sizes:
            leads = [lead for lead in self.leads if lead.n == n]
            said = listed(
                [
                    f"{lead.mean:+.1%} +- {lead.standard_error:.1%} over {lead.other} "
                    f"({_outcome(lead)})"
                    for lead in leads
                ]
            )
            row = self.sizes.index(n)
            parts.append(
                f"With {n:,} labels a linear probe of {self.first} is right for "
                f"{self.accuracies[self.first][row].mean():.1%} (chance {self.chance:.1%}): {said}."
            )
        behind = sorted(
            {lead.other for lead in self.leads if not (lead.told_apart and lead.mean > 0)}
        )
        parts.append(
            f"Training carried over: {self.first} is better than each other at every size."
            if not behind
            else f"Not better than {listed(behind)} at every size: where that is so, a linear "
            "classifier has no use for the training."
        )
        return " ".join(parts)


def transfer(
    train: Mapping[str, Labelled],
    test: Mapping[str, Labelled],
    *,
    sizes: Sequence[int] = (100, 1000),
    repeats: int = 5,
    seed: int = 0,
) -> Transfer:
    """E over draws of accuracy(first) - accuracy(other), both fitted to the same n labels.

    The draws are those of `label_efficiency` under the same seed.

    Args:
        train: By name, representations of the same data in the same order; the first is judged.
        test: By the same names, of the test data.
        sizes: Numbers of labels; those above the number there are count as all of them.
        repeats: The number of draws of each size, at least two.
        seed: Of the draws.

    Returns:
        Accuracies, and paired differences: a lead is one if it is told apart from 0.

    Raises:
        UndefinedCheckError: If the training data have one label only.
        ValueError: If names or labels differ, there are fewer than two representations, or for sizes
            and codes that `label_efficiency` refuses.
    """
    names = list(train)
    if len(names) < 2 or names != list(test):
        raise ValueError(
            f"train and test must have the same two names or more, got {names} and {list(test)}."
        )
    for name in names:
        check_labelled(train[name], test[name])
    check_sizes(sizes, repeats)
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 for a spread, got {repeats}.")
    labels, test_labels = _common(train), _common(test)
    numbers = sorted({min(size, len(labels)) for size in sizes})
    accuracies = {name: np.empty((len(numbers), repeats)) for name in names}
    leads = []
    for row, n in enumerate(numbers):
        correct = {name: np.empty((repeats, len(test_labels))) for name in names}
        for repeat in range(repeats):
            drawn = balanced_rows(labels, n, seed=seed, repeat=repeat)
            for name in names:
                probe = linear_probe(train[name].taken(drawn), test[name], seed=seed)
                correct[name][repeat] = probe.correct
        for name in names:
            accuracies[name][row] = correct[name].mean(axis=1)
        for other in names[1:]:
            difference = correct[names[0]] - correct[other]
            by_datum = difference.mean(axis=0)
            error = float(by_datum.std() / len(by_datum) ** 0.5)
            leads.append(Lead(other, n, difference.mean(axis=1), error))
    return Transfer(
        tuple(numbers), accuracies, tuple(leads), chance_level(test_labels), len(test_labels)
    )


def representations(
    vae: Any, untrained: Any, x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]
) -> dict[str, Labelled]:
    """The codes of data, the data as vectors, and the codes of an encoder that was never trained.

    Real data are scaled as the encoder reads them: a probe of columns in their own units would see the
    one with the largest numbers alone.

    Args:
        vae: A program with `embed(x)`, trained on other data of the same shape and support.
        untrained: A program of the same make, with the parameters it starts from.
        x: Data in the likelihood's support, on the programs' device.
        labels: A label for each.

    Returns:
        By the names "codes", "raw data" and "untrained encoder", as `transfer` takes them.

    Raises:
        ValueError: If the numbers of data and labels differ.
    """
    codes = labelled_codes(vae, x, labels)
    units = next((m for m in vae.modules() if isinstance(m, UserUnits)), None)
    read = x if units is None else units.inside(x)
    vectors = to_array(read).reshape(len(x), -1).astype(np.float32)
    return {
        "codes": codes,
        "raw data": Labelled(vectors, codes.labels),
        "untrained encoder": labelled_codes(untrained, x, labels),
    }


def plot_transfer(result: Transfer) -> "matplotlib.figure.Figure":
    """Each representation's accuracy at each size: dots are draws of labels, bars their means."""
    names = list(result.accuracies)
    figure = new_figure(10.0, 4.6)
    ax = figure.subplots()
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        values = result.accuracies[name]
        at = np.arange(len(result.sizes)) + (place - (len(names) - 1) / 2) * width
        colour = LINE_COLOURS[place % len(LINE_COLOURS)]
        ax.bar(
            at, values.mean(axis=1), 0.9 * width, color=colour, alpha=0.55, label=shortened(name)
        )
        spots = np.linspace(-0.25, 0.25, values.shape[1]) * width
        ax.plot(at[:, None] + spots, values, "o", ms=3.5, color="0.2")
        for left, mean, highest in zip(at, values.mean(axis=1), values.max(axis=1), strict=True):
            ax.text(left, highest + 0.02, f"{mean:.1%}", ha="center", va="bottom", fontsize=9)
    ax.axhline(result.chance, color=GREY, linestyle="--", linewidth=1.1, label="chance")
    ax.set_xticks(range(len(result.sizes)), [f"{n:,} labels" for n in result.sizes])
    ax.set(ylim=(0, 1.08), ylabel=f"accuracy of a linear probe, {result.num_test:,} test data")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9.5)
    tidy([ax])
    figure.suptitle(wrapped(_title(result)), fontsize=12)
    return figure


def _title(result: Transfer) -> str:
    lead = [lead for lead in result.leads if lead.n == result.sizes[0]]
    ahead = [each.other for each in lead if each.told_apart and each.mean > 0]
    behind = [each.other for each in lead if each.told_apart and each.mean < 0]
    parts = []
    if ahead:
        parts.append(f"ahead of {listed(ahead)}")
    if behind:
        parts.append(f"behind {listed(behind)}")
    level = [each.other for each in lead if not each.told_apart]
    if level:
        parts.append(f"not told apart from {listed(level)}")
    return f"With {result.sizes[0]:,} labels, {shortened(result.first)}: {'; '.join(parts)}"


def _outcome(lead: Lead) -> str:
    if not lead.told_apart:
        return "not told apart"
    return "better" if lead.mean > 0 else "worse"


def _common(parts: Mapping[str, Labelled]) -> Int[np.ndarray, " n"]:
    """The labels that all have.

    Raises:
        ValueError: If they differ.
    """
    first, *others = parts.values()
    if not all(np.array_equal(first.labels, other.labels) for other in others):
        raise ValueError("representations must be of the same data: their labels differ.")
    return first.labels
