"""What simple classifiers make of codes: a linear probe, and a vote of the nearest neighbours."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from analysis.plotting.style import listed
from analysis.predictive.model_samples import UndefinedCheckError
from analysis.representation.codes import Labelled
from analysis.representation.quiet import quiet
from analysis.representation.softmax_regression import (
    DEFAULT_REGULARISATION,
    FEWEST_TO_CHOOSE,
    MOST_ITERATIONS,
    choose_regularisation,
    fit,
)
from pyro_vae.evidence.numbers import finite

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# An accuracy is told apart from chance by so many standard errors.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Answers:
    """Which of m test data a classifier is right about. Abstract: what a classifier was, its class says.

    Args:
        correct: Whether each test datum is given its label.
        chance: The share of the most frequent label among the test data.
    """

    correct: Bool[np.ndarray, " m"]
    chance: float

    @property
    def accuracy(self) -> float:
        """The share of test data that are given their label."""
        return float(self.correct.mean())

    @property
    def standard_error(self) -> float:
        """sqrt(p (1 - p) / m), from the choice of m test data; not from that of training data."""
        return binomial_error(self.accuracy, len(self.correct))


@dataclass(frozen=True)
class Probe(Answers):
    """The accuracy of a linear classifier of codes on data it has not seen.

    Args:
        correct: Whether each test datum is given its label.
        chance: The share of the most frequent label among the test data.
        num_train: The number of labels it was fitted to.
        num_classes: The number of different ones.
        unseen: The share of test data whose label no training datum has; they count as wrong.
        regularisation: C, the weight of the labels against that of small coefficients.
        chosen: Whether C was chosen by held-out labels, or is the default.
        converged: Whether the fit came to its end within the iterations allowed.
        classifier: Fitted, from codes as they are to labels; with `predict` and `predict_proba`.
        unseen_labels: The labels of test data that no training datum has.
    """

    num_train: int
    num_classes: int
    unseen: float
    regularisation: float
    chosen: bool
    converged: bool
    classifier: "Pipeline"
    unseen_labels: tuple[int, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The accuracy with its standard error and chance level, and how the probe was fitted."""
        return {
            "accuracy": finite(self.accuracy),
            "standard_error": finite(self.standard_error),
            "chance": finite(self.chance),
            "num_train": self.num_train,
            "num_test": len(self.correct),
            "num_classes": self.num_classes,
            "unseen": finite(self.unseen),
            "regularisation": finite(self.regularisation),
            "regularisation_chosen": self.chosen,
            "converged": self.converged,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the labels can be read off the codes by a line, and what to compare it with."""
        said = (
            f"A linear classifier fitted to {self.num_train:,} labels is right for "
            f"{_accuracy_said(self.accuracy, self.standard_error, len(self.correct), self.chance)}"
        )
        if self.accuracy - self.chance > STANDARD_ERRORS * self.standard_error:
            parts = [
                (
                    f"{said}. What the model adds is its lead over the same probe of the raw data "
                    "and of an untrained encoder's codes."
                )
            ]
        else:
            parts = [
                (
                    f"{said}: no better than chance. See whether the code is used at all (rate and "
                    "active units), and whether nearest neighbours, which bend, do better."
                )
            ]
        if self.unseen:
            parts.append(
                f"{self.unseen:.1%} of the test data have a label that training lacks "
                f"({listed([str(label) for label in self.unseen_labels])}), and count as wrong."
                if self.unseen_labels
                else f"{self.unseen:.1%} of the test data have a label that training lacks, and count as "
                "wrong."
            )
        if not self.converged:
            parts.append(
                f"The fit was stopped after {MOST_ITERATIONS} iterations; a little may be missing."
            )
        return " ".join(parts)


@dataclass(frozen=True)
class Neighbours(Answers):
    """The accuracy of a vote of the nearest training codes.

    Args:
        correct: Whether each test datum is given its label.
        chance: The share of the most frequent label among the test data.
        neighbours: How many vote.
        num_train: The number of labelled codes they are taken from.
    """

    neighbours: int
    num_train: int

    def summary(self) -> dict[str, Any]:
        """The accuracy with its standard error and chance level."""
        return {
            "accuracy": finite(self.accuracy),
            "standard_error": finite(self.standard_error),
            "chance": finite(self.chance),
            "neighbours": self.neighbours,
            "num_train": self.num_train,
            "num_test": len(self.correct),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether codes that are near one another share a label."""
        said = (
            f"A vote of the {self.neighbours} nearest of {self.num_train:,} codes is right for "
            f"{_accuracy_said(self.accuracy, self.standard_error, len(self.correct), self.chance)}"
        )
        scale = "Distances are Euclidean, in codes as they are: wide coordinates count most."
        if self.accuracy - self.chance > STANDARD_ERRORS * self.standard_error:
            return (
                f"{said}. Near codes share labels; far above a linear probe, it says that classes "
                f"are bent or in pieces. {scale}"
            )
        return f"{said}: no better than chance, nearness of codes says nothing of labels. {scale}"


def linear_probe(
    train: Labelled, test: Labelled, *, seed: int = 0, regularisation: float | None = None
) -> Probe:
    """Accuracy of argmax_k (w_k z + b_k), fitted by argmin C sum_i -log p(y_i | z_i) + |w|^2 / 2.

    p(y | z) is the softmax. Codes are centred, and divided by one number, so that their mean squared
    length is 1. Scaling each coordinate by itself would blow up those that the model does not use:
    with 100 labels on MNIST that costs 0.08 of accuracy in a code of 50 dimensions. It follows that
    a rotation of the code changes nothing.

    C is chosen by the log-likelihood of a held-out fifth of at least 500 and at most 5,000 training
    labels, from the smallest C on until it falls; with fewer labels it is 10.

    Args:
        train: Codes and labels to fit to.
        test: Codes and labels to be right about.
        seed: Of the choice of labels held out.
        regularisation: C, if it is not to be chosen.

    Returns:
        The accuracy, to be read beside `chance` and beside that of raw data.

    Raises:
        UndefinedCheckError: If the training data have one label only.
        ValueError: If there are no data, a code is not finite, dimensions differ, or C is not above 0.

    References:
        Understanding intermediate layers using linear classifier probes (Alain & Bengio, 2016),
        https://arxiv.org/abs/1610.01644
    """
    check_labelled(train, test)
    if regularisation is not None and not regularisation > 0:
        raise ValueError(f"regularisation must be above 0, got {regularisation}.")
    classes = np.unique(train.labels)
    if len(classes) == 1:
        raise UndefinedCheckError(
            f"a probe needs training data of two labels or more, got {classes[0]} alone."
        )
    chosen = regularisation is None and len(train) >= FEWEST_TO_CHOOSE
    if chosen:
        used = choose_regularisation(train, seed)
    else:
        used = DEFAULT_REGULARISATION if regularisation is None else regularisation
    classifier, converged = fit(train, used)
    # A class that training lacks is never predicted.
    correct = classifier.predict(test.codes.astype(np.float64)) == test.labels
    return Probe(
        correct=correct,
        chance=chance_level(test.labels),
        num_train=len(train),
        num_classes=len(classes),
        unseen=float((~np.isin(test.labels, classes)).mean()),
        regularisation=float(used),
        chosen=chosen,
        converged=converged,
        classifier=classifier,
        unseen_labels=tuple(np.setdiff1d(test.labels, classes).tolist()),
    )


def nearest_neighbours(train: Labelled, test: Labelled, *, neighbours: int = 5) -> Neighbours:
    """Accuracy of the most frequent label among the k training codes at the least |z - z_i|.

    Distances are Euclidean, in codes as they are. Of labels with as many votes the smallest wins.

    Args:
        train: Codes and labels that vote.
        test: Codes and labels to be right about.
        neighbours: The number k of votes.

    Returns:
        The accuracy, to be read beside `chance` and beside that of raw data.

    Raises:
        ValueError: If there are no data, a code is not finite, dimensions differ, or there are fewer
            training data than neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    check_labelled(train, test)
    if not 1 <= neighbours <= len(train):
        raise ValueError(
            f"neighbours must be from 1 to the {len(train)} training data, got {neighbours}."
        )
    # In some ten dimensions or more a tree is slower than all distances.
    with quiet():
        vote = KNeighborsClassifier(neighbours, algorithm="brute").fit(train.codes, train.labels)
    correct = vote.predict(test.codes) == test.labels
    return Neighbours(correct, chance_level(test.labels), neighbours, len(train))


def chance_level(labels: Int[np.ndarray, " m"]) -> float:
    """The share of the most frequent label: what a constant answer is right for."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def binomial_error(accuracy: float, m: int) -> float:
    """sqrt(p (1 - p) / m): the standard error of a share p of m data."""
    return math.sqrt(accuracy * (1 - accuracy) / m)


def check_labelled(*parts: Labelled) -> None:
    """Whether there are data to fit to and to be right about.

    Raises:
        ValueError: If there are none, a code is not finite, or dimensions differ.
    """
    sizes = [part.codes.shape for part in parts]
    if min(min(size) for size in sizes) == 0 or len({size[1] for size in sizes}) > 1:
        raise ValueError(
            "codes must be at least one, of the same dimension, got arrays of shapes "
            f"{', '.join(map(str, sizes))}."
        )
    if not all(np.isfinite(part.codes).all() for part in parts):
        raise ValueError("codes must be finite, got some that are not.")


def _accuracy_said(accuracy: float, error: float, m: int, chance: float) -> str:
    return (
        f"{accuracy:.1%} +- {error:.1%} of {m:,} other data; always saying the most frequent label "
        f"would be right for {chance:.1%}"
    )
