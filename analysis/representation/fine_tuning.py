"""Is a trained encoder a better start for a classifier of few labels than an untrained one, or than none moved?"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.plotting.style import BLUE, GREEN, ORANGE, new_figure, tidy
from analysis.representation.balanced_draws import (
    balanced_rows,
    held_out_rows,
    spread_over_draws,
)
from analysis.representation.classifier import VALIDATION, Classifier, afresh, trained
from pyro_vae.evidence.numbers import finite
from pyro_vae.rng import as_floats

if TYPE_CHECKING:
    import matplotlib.figure

METHODS = ("fine-tuned", "from scratch", "frozen")

# The data of a step.
_BATCH = 32

# A method wins if its mean difference is so many standard errors over repeats, and so much accuracy.
CLEAR = 2.0
WORTH = 0.005

# If more than this share of a method's trainings were best at their last step, it had too few.
MOST_UNFINISHED = 0.5

# So many data, without labels, say where an encoder's codes lie and how wide.
_STANDARDISED = 2000


@dataclass(frozen=True)
class FineTuning:
    """Accuracy on test data by number of labels, for three ways to train the same classifier.

    Args:
        sizes: The numbers of labels.
        accuracy: Of each method, a row for each size and a column for each draw of labels, which all methods
            share.
        stopped: The step that each was stopped at; NaN where labels were too few to hold any out, and all
            steps were taken.
        steps: The steps that each had.
        chance: The share of the most frequent label among test data.
    """

    sizes: tuple[int, ...]
    accuracy: dict[str, Float[np.ndarray, "sizes repeats"]]
    stopped: dict[str, Float[np.ndarray, "sizes repeats"]]
    steps: int
    chance: float

    @property
    def unfinished(self) -> dict[str, float]:
        """The share of each method's trainings that were best at their last step: more might gain."""
        chosen = {name: at[np.isfinite(at)] for name, at in self.stopped.items()}
        return {
            name: float((at == self.steps).mean()) if len(at) else 0.0
            for name, at in chosen.items()
        }

    @property
    def too_few(self) -> tuple[int, ...]:
        """The numbers of labels of which none were held out in some draw."""
        missing = np.atleast_1d(np.isnan(self.stopped["fine-tuned"]).any(axis=1))
        return tuple(size for size, few in zip(self.sizes, missing, strict=True) if few)

    def summary(self) -> dict[str, Any]:
        """Mean and standard deviation over draws of labels, by size and method."""
        return {
            "sizes": [
                {
                    "labels": size,
                    **{
                        method: {
                            "accuracy": finite(values[index].mean()),
                            "spread": spread_over_draws(values[index]),
                            "repeats": values.shape[1],
                        }
                        for method, values in self.accuracy.items()
                    },
                }
                for index, size in enumerate(self.sizes)
            ],
            "chance": self.chance,
            "steps": self.steps,
            "unfinished": self.unfinished,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Who wins at each number of labels, by how much, and what to do with that."""
        said = []
        tuned = self.accuracy["fine-tuned"]
        for index, size in enumerate(self.sizes):
            against = []
            for other in METHODS[1:]:
                gain = tuned[index] - self.accuracy[other][index]
                spread = spread_over_draws(gain)
                error = None if spread is None else spread / len(gain) ** 0.5
                clear = (
                    abs(gain.mean()) >= max(WORTH, CLEAR * (error or 0.0)) and error is not None
                )
                worth = "" if clear else ", no clear difference"
                give = "" if error is None else f" +- {100 * error:.1f}"
                against.append(f"{100 * gain.mean():+.1f}{give} points against {other}{worth}")
            said.append(
                f"With {size} labels fine-tuning reaches {tuned[index].mean():.1%}: {'; '.join(against)}."
            )
        if self.too_few:
            said.append(
                f"{' and '.join(map(str, self.too_few))} labels are too few for their classes to hold out "
                f"{VALIDATION:.0%} of them and keep one of each class: there, training took all {self.steps} "
                "steps."
            )
        short = [name for name, share in self.unfinished.items() if share > MOST_UNFINISHED]
        if short:
            said.append(
                f"Still improving at step {self.steps} in more than {MOST_UNFINISHED:.0%} of trainings: "
                f"{', '.join(short)}; give more steps."
            )
        return (
            f"{' '.join(said)} A gain over training from scratch is what learning without labels was "
            "worth; where the frozen encoder does as well, its codes are enough and cheaper."
        )


def fine_tuning(
    vae: Any,
    train_x: Real[Tensor, " n *event"],
    train_labels: Int[Tensor, " n"],
    test_x: Real[Tensor, " m *event"],
    test_labels: Int[Tensor, " m"],
    *,
    untrained: Callable[[], Any] | None = None,
    sizes: Sequence[int] = (100, 1000),
    steps: int = 300,
    repeats: int = 3,
    seed: int = 0,
) -> FineTuning:
    """softmax(W s(embed(x)) + b), s to mean 0 and deviation 1, trained by cross-entropy on few labels.

    Three ways, on the same labels and with the same minibatches of 32: encoder and head from the trained
    encoder; from an untrained one; the head alone, on the trained encoder's codes. s is fixed from each
    encoder's own codes of unlabelled training data. A fifth of the labels, of each class its share, chooses
    Adam's rate, of 0.01 and 0.001, and the step to stop at, by errors and among equals by cross-entropy, in
    all three alike. Labels that are too few to hold out a fifth and keep one of each class are all trained
    on, for all steps, at the smallest rate with the fewest errors on them. The head starts from 0.

    Args:
        vae: A program with `embed(x)` that has gradients. It stays as it is: a copy is trained.
        train_x: Data that labels are drawn from.
        train_labels: Their labels, from 0 on.
        test_x: Data that accuracy is measured on.
        test_labels: Their labels.
        untrained: Makes the program as its training found it; None for a copy whose layers start afresh.
        sizes: The numbers of labels, drawn with as equal numbers of each as there are; more than there are
            data are left out.
        steps: The steps of each training.
        repeats: The number of draws of labels.
        seed: Of these, of minibatches, and of a fresh start.

    Returns:
        Read the differences between methods against their standard errors over draws.

    Raises:
        UndefinedCheckError: If `embed` has no gradient, or layers cannot start afresh and `untrained` is
            not given.
        ValueError: If no size can be drawn: each needs 5 labels at least; or a label is below 0.
    """
    fitting = tuple(size for size in sizes if 5 <= size <= len(train_x))
    if not fitting or steps < 1 or repeats < 1 or len(train_x) != len(train_labels):
        raise ValueError(
            f"sizes must be from 5 to {len(train_x)}, with a label for each datum, a step and a repeat at "
            f"least, got {list(sizes)}, {len(train_labels)} labels, {steps} and {repeats}."
        )
    labels = train_labels.cpu().numpy()
    lowest = int(min(labels.min(), int(test_labels.min())))
    if lowest < 0:
        raise ValueError(f"labels must be from 0 on, got {lowest}.")
    classes = int(max(labels.max(), int(test_labels.max()))) + 1
    test_labels = test_labels.to(test_x.device)
    rng = np.random.default_rng(seed)
    devices = [train_x.device] if train_x.device.type == "cuda" else []
    found = {method: np.zeros((len(fitting), repeats)) for method in METHODS}
    stopped = {method: np.zeros((len(fitting), repeats)) for method in METHODS}
    # Dropout and noise draw from the global stream: from one of our own.
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        known = train_x[:_STANDARDISED]
        tuned = Classifier(copy.deepcopy(vae), known, classes)
        scratch = Classifier(
            afresh(vae, tuned.moved) if untrained is None else untrained(), known, classes
        )
        for index, size in enumerate(fitting):
            for repeat in range(repeats):
                drawn = balanced_rows(labels, size, seed=seed, repeat=repeat)
                mask = held_out_rows(labels[drawn], VALIDATION)
                held = 0 if mask is None else int(mask.sum())
                if mask is not None:
                    drawn = np.concatenate([drawn[mask], drawn[~mask]])
                rows = torch.as_tensor(drawn)
                x = as_floats(train_x[rows.to(train_x.device)])
                y = train_labels[rows.to(train_labels.device)].to(x.device).long()
                batches = _batches(size - held, steps, rng)
                for method, start, frozen in (
                    ("fine-tuned", tuned, False),
                    ("from scratch", scratch, False),
                    ("frozen", tuned, True),
                ):
                    net, at = trained(start, x, y, batches, held=held, frozen=frozen)
                    hits = net.predicted(test_x) == test_labels
                    found[method][index, repeat] = float(hits.double().mean())
                    stopped[method][index, repeat] = at if held else np.nan
    chance = float(torch.bincount(test_labels.long()).max() / len(test_labels))
    return FineTuning(fitting, found, stopped, steps, chance)


def plot_fine_tuning(found: FineTuning) -> "matplotlib.figure.Figure":
    """Accuracy by number of labels for each method: the mean, every draw, and one spread either way."""
    figure = new_figure(7.2, 4.2)
    ax = figure.subplots()
    place = np.arange(len(found.sizes))
    colours = (BLUE, ORANGE, GREEN)
    for index, (method, values) in enumerate(found.accuracy.items()):
        at = place + 0.18 * (index - 1)
        spread = [spread_over_draws(row) or 0.0 for row in values]
        ax.errorbar(
            at, values.mean(1), spread, fmt="o", color=colours[index], capsize=4, label=method
        )
        ax.plot(at[:, None] + 0.05, values, ".", color=colours[index], alpha=0.5, markersize=5)
    ax.axhline(found.chance, color="0.5", linestyle="--", label="most frequent label")
    ax.set_xticks(place, [f"{size:,} labels" for size in found.sizes])
    ax.set(xlim=(-0.5, len(place) - 0.5), ylabel="accuracy on test data")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    gain = found.accuracy["fine-tuned"][0] - found.accuracy["from scratch"][0]
    spread = spread_over_draws(gain)
    give = "" if spread is None else f" ± {100 * spread / len(gain) ** 0.5:.1f}"
    ax.set_title(
        f"With {found.sizes[0]:,} labels a trained encoder is worth {100 * gain.mean():+.1f}{give} points "
        "over scratch",
        fontsize=11,
    )
    tidy([ax])
    return figure


def _batches(n: int, steps: int, rng: np.random.Generator) -> list[Tensor]:
    """Rows of n data for each step, each epoch in a new order."""
    batch = min(_BATCH, n)
    epochs = -(-steps * batch // n)
    rows = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return list(torch.as_tensor(rows[: steps * batch]).split(batch))
