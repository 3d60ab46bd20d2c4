"""Transfer of codes to labels of other data, compared with raw data and an untrained encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.model_samples import to_array
from analysis.plotting.style import (
    GREY,
    LINE_COLOURS,
    list_names,
    new_figure,
    shorten,
    tidy,
    wrap_title,
)
from analysis.representation.codes import (
    LabelledCodes,
    balanced_rows,
    check_sizes,
    class_labels,
    labelled_codes,
    spread,
    with_error,
)
from analysis.representation.inputs import TRAINING, RepresentationInputs
from analysis.representation.probes import chance_level, check_labelled, linear_probe
from analysis.result import Result
from analysis.subject import Subject
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.networks import UserUnits

if TYPE_CHECKING:
    import matplotlib.figure


# A mean difference is clear beyond this many standard errors: over five draws chance alone exceeds
# three with probability 0.04.
CLEAR = 3.0


@dataclass(frozen=True)
class Lead:
    """The paired difference between the accuracies of two representations' probes, at one size.

    Args:
        other: The name of the other representation.
        n: The number of labels.
        differences: One per draw of labels.
        test_error: The standard error of their mean from the choice of test data, which both
            share.
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
        """The standard error of the mean, from draws and test data together."""
        return float(np.hypot(self.spread / len(self.differences) ** 0.5, self.test_error))

    @property
    def is_clear(self) -> bool:
        """Whether the mean differs from 0 by more than chance, in either direction."""
        return abs(self.mean) > CLEAR * self.standard_error

    @property
    def outcome(self) -> str:
        """The first representation is "better", "worse", or "not clearly better"."""
        if not self.is_clear:
            return "not clearly better"
        return "better" if self.mean > 0 else "worse"


@dataclass(frozen=True)
class Transfer(Result):
    """Accuracies of one probe on several representations, from the same draws of labels.

    Args:
        sizes: Numbers of labels, increasing.
        accuracies: By the representation's name; the first is judged.
        leads: Of the first representation over each other one, size by size.
        chance: The share of the most frequent test label.
        num_test: The number of test examples.
        data: The name of the data.
    """

    FIELDS: ClassVar = ("sizes", "repeats", "num_test", "chance")

    sizes: tuple[int, ...]
    accuracies: dict[str, Float[np.ndarray, "sizes repeats"]]
    leads: tuple[Lead, ...]
    chance: float
    num_test: int
    data: str = "other data"

    @property
    def first(self) -> str:
        """The name of the representation that is judged."""
        return next(iter(self.accuracies))

    @property
    def repeats(self) -> int:
        """The number of draws of each size."""
        return self.accuracies[self.first].shape[1]

    def extra(self) -> dict[str, Any]:
        """Mean and spread of each accuracy and of each paired difference."""
        return {
            "accuracies": {
                name: [
                    {"n": n, "mean": row.mean(), "spread": spread(row)}
                    for n, row in zip(self.sizes, values, strict=True)
                ]
                for name, values in self.accuracies.items()
            },
            "leads": [
                {name: getattr(lead, name) for name in ("n", "mean", "spread", "standard_error")}
                | {"over": lead.other, "told_apart": lead.is_clear}
                for lead in self.leads
            ],
        }

    def reading(self) -> str:
        """What the representation is better than, at each size."""
        parts = []
        for n, accuracies in zip(self.sizes, self.accuracies[self.first], strict=True):
            leads = [
                f"{with_error(lead.mean, lead.standard_error, '+.1%')} over {lead.other} "
                f"({lead.outcome})"
                for lead in self.leads
                if lead.n == n
            ]
            parts.append(
                f"With {n:,} labels a linear probe of {self.first} is right for "
                f"{accuracies.mean():.1%} "
                f"(chance {self.chance:.1%}), {list_names(leads)}."
            )
        return " ".join(parts)


def transfer(
    train: Mapping[str, LabelledCodes],
    test: Mapping[str, LabelledCodes],
    *,
    sizes: Sequence[int] = (100, 1000),
    repeats: int = 5,
    seed: int = 0,
) -> Transfer:
    """Mean of accuracy(first) - accuracy(other) over draws, both fitted to the same n labels.

    The draws are those of `label_efficiency` with the same seed.

    Args:
        train: By name, representations of the same data in the same order; the first is judged.
        test: By the same names, of the test data.
        sizes: Numbers of labels; those above the available number count as all of them.
        repeats: The number of draws of each size, at least two.
        seed: The seed of the draws.

    Returns:
        Accuracies, and paired differences with their standard errors.

    Raises:
        UndefinedCheckError: If the training data have a single label.
        ValueError: If names or labels differ, there are fewer than two representations, or for
            sizes and codes that `label_efficiency` refuses.
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
    labels, test_labels = _common_labels(train), _common_labels(test)
    numbers = sorted({min(size, len(labels)) for size in sizes})
    accuracies = {name: np.empty((len(numbers), repeats)) for name in names}
    leads = []
    for row, n in enumerate(numbers):
        correct = {name: np.empty((repeats, len(test_labels))) for name in names}
        for repeat in range(repeats):
            rows = balanced_rows(labels, n, seed=seed, repeat=repeat)
            for name in names:
                probe = linear_probe(train[name].subset(rows), test[name], seed=seed)
                correct[name][repeat] = probe.correct
        for name in names:
            accuracies[name][row] = correct[name].mean(axis=1)
        for other in names[1:]:
            difference = correct[names[0]] - correct[other]
            by_example = difference.mean(axis=0)
            error = float(by_example.std() / len(by_example) ** 0.5)
            leads.append(Lead(other, n, difference.mean(axis=1), error))
    return Transfer(
        tuple(numbers), accuracies, tuple(leads), chance_level(test_labels), len(test_labels)
    )


def representations(
    vae: Any, untrained: Any, x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]
) -> dict[str, LabelledCodes]:
    """The codes of data, the data as vectors, and the codes of an untrained encoder.

    Real data are scaled as the encoder reads them: a probe of columns in their own units would
    depend only on the column with the largest numbers.

    Args:
        vae: A program with `embed(x)`, trained on data of the same shape and support.
        untrained: The same program with its initial parameters.
        x: Data in the likelihood's support, on the programs' device.
        labels: One label per example.

    Returns:
        By the names "codes", "raw data" and "untrained encoder", as `transfer` takes them.

    Raises:
        ValueError: If the numbers of data and labels differ.
    """
    codes = labelled_codes(vae, x, labels)
    units = next((m for m in vae.modules() if isinstance(m, UserUnits)), None)
    vectors = to_array(x if units is None else units.inside(x)).reshape(len(x), -1)
    return {
        "codes": codes,
        "raw data": LabelledCodes(vectors.astype(np.float32), codes.labels),
        "untrained encoder": labelled_codes(untrained, x, labels),
    }


def plot_transfer(result: Transfer) -> "matplotlib.figure.Figure":
    """Draw each representation's accuracy by size: dots are draws of labels, bars their means."""
    names = list(result.accuracies)
    figure = new_figure(10.0, 4.6)
    ax = figure.subplots()
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        values = result.accuracies[name]
        at = np.arange(len(result.sizes)) + (place - (len(names) - 1) / 2) * width
        colour = LINE_COLOURS[place % len(LINE_COLOURS)]
        ax.bar(at, values.mean(axis=1), 0.9 * width, color=colour, alpha=0.55, label=shorten(name))
        offsets = np.linspace(-0.25, 0.25, values.shape[1]) * width
        ax.plot(at[:, None] + offsets, values, "o", ms=3.5, color="0.2")
        for left, mean, highest in zip(at, values.mean(axis=1), values.max(axis=1), strict=True):
            ax.text(left, highest + 0.02, f"{mean:.1%}", ha="center", va="bottom", fontsize=9)
    ax.axhline(result.chance, color=GREY, linestyle="--", linewidth=1.1, label="chance")
    ax.set_xticks(range(len(result.sizes)), [f"{n:,} labels" for n in result.sizes])
    ax.set(ylim=(0, 1.08), ylabel=f"accuracy of a linear probe, {result.num_test:,} test data")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9.5)
    tidy([ax])
    leads = [lead for lead in result.leads if lead.n == result.sizes[0]]
    outcomes = "; ".join(f"{lead.outcome} than {lead.other}" for lead in leads)
    title = f"With {result.sizes[0]:,} labels, {shorten(result.first)}: {outcomes}"
    figure.suptitle(wrap_title(title), fontsize=12)
    return figure


def _common_labels(parts: Mapping[str, LabelledCodes]) -> Int[np.ndarray, " n"]:
    first, *others = parts.values()
    if not all(np.array_equal(first.labels, other.labels) for other in others):
        raise ValueError("representations must be of the same data: their labels differ.")
    return first.labels


def _diagnose(subject: Subject) -> Transfer:
    foreign = subject.compute(RepresentationInputs).foreign
    names = (foreign.name, f"the training data of {foreign.name}")
    (known, labels), (train_known, train_labels) = (
        class_labels(each, name)
        for each, name in zip((foreign.labels, foreign.train_labels), names, strict=True)
    )
    rows = fixed_rows(len(train_labels), TRAINING).numpy()
    untrained = subject.untrained()
    train, test = (
        representations(subject.vae, untrained, x.to(subject.x.device), torch.from_numpy(each))
        for x, each in (
            (foreign.train[train_known[rows]], train_labels[rows]),
            (foreign.x[known], labels),
        )
    )
    found = transfer(train, test, seed=subject.seed_of("transfer"))
    return replace(found, data=foreign.name)


TRANSFER = Check(
    "transfer",
    _diagnose,
    (
        Plot(
            "transfer",
            "Are the codes useful for data that the model was not trained on?",
            lambda found, _: plot_transfer(found),
        ),
    ),
    headline=lambda found: {
        f"{found.data}, {n:,} labels": with_error(row.mean(), spread(row))
        for n, row in zip(found.sizes, found.accuracies[found.first], strict=True)
    },
)
