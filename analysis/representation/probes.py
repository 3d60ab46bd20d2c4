"""Simple classifiers of codes: a linear probe, and a vote of the nearest neighbours."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from analysis.check import Check
from analysis.plotting.style import list_names
from analysis.representation.codes import LabelledCodes, with_error
from analysis.representation.inputs import RepresentationInputs
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


# An accuracy counts as above chance beyond this many standard errors.
STANDARD_ERRORS = 2.0

# scikit-learn's C, for codes scaled to a mean squared length of 1. On MNIST and Fashion-MNIST, in
# codes and in pixels, 10 is within 0.025 of the best accuracy from 10 labels to 1,000.
DEFAULT_REGULARISATION = 10.0
REGULARISATIONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# With fewer labels, choosing C on held-out labels was no better than the default; the upper bound
# limits the time.
MIN_LABELS_TO_CHOOSE = 500
MAX_LABELS_TO_CHOOSE = 5000
HELD_OUT = 0.2
MAX_ITERATIONS = 1000

# Number of training codes that vote in a diagnosis.
VOTES = 5


@dataclass(frozen=True)
class Accuracy(Result):
    """Which of m test examples a classifier labels correctly. Abstract.

    Args:
        correct: Whether each test example is labelled correctly.
        chance: The share of the most frequent test label.
    """

    correct: Bool[np.ndarray, " m"]
    chance: float

    @property
    def accuracy(self) -> float:
        """The share of test examples labelled correctly."""
        return float(self.correct.mean())

    @property
    def standard_error(self) -> float:
        """sqrt(p (1 - p) / m): the error from the choice of test data, not of training data."""
        return binomial_error(self.accuracy, self.num_test)

    @property
    def num_test(self) -> int:
        """The number m of test examples."""
        return len(self.correct)

    @property
    def above_chance(self) -> bool:
        """Whether the accuracy exceeds chance by more than `STANDARD_ERRORS` standard errors."""
        return self.accuracy - self.chance > STANDARD_ERRORS * self.standard_error

    def _sentence(self, classifier: str) -> str:
        accuracy = with_error(self.accuracy, self.standard_error, ".1%")
        verdict = "above chance" if self.above_chance else "no better than chance"
        return (
            f"{classifier} is right for {accuracy} of {self.num_test:,} test data, {verdict} "
            f"({self.chance:.1%})."
        )


@dataclass(frozen=True)
class Probe(Accuracy):
    """Accuracy of a linear classifier of codes on data it has not seen.

    Args:
        correct: Whether each test example is labelled correctly.
        chance: The share of the most frequent test label.
        num_train: The number of training labels.
        num_classes: The number of different training labels.
        unseen: The share of test data whose label is not in the training data; they count as
            wrong.
        regularisation: C, the weight of the labels relative to that of small coefficients.
        regularisation_chosen: Whether C was chosen on held-out labels, or is the default.
        converged: Whether the optimiser converged within `MAX_ITERATIONS`.
        classifier: The fitted classifier of codes, with `predict` and `predict_proba`.
        unseen_labels: The test labels that are not in the training data.
    """

    FIELDS: ClassVar = (
        *("accuracy", "standard_error", "chance", "num_train", "num_test", "num_classes"),
        *("unseen", "regularisation", "regularisation_chosen", "converged"),
    )

    num_train: int
    num_classes: int
    unseen: float
    regularisation: float
    regularisation_chosen: bool
    converged: bool
    classifier: "Pipeline"
    unseen_labels: tuple[int, ...] = ()

    def reading(self) -> str:
        """Whether the probe is above chance, and what may be wrong with it."""
        parts = [self._sentence(f"A linear classifier fitted to {self.num_train:,} labels")]
        if self.unseen:
            names = list_names([str(label) for label in self.unseen_labels])
            parts.append(
                f"{self.unseen:.1%} of the test labels are missing from the training data "
                f"({names})."
            )
        if not self.converged:
            parts.append(f"The fit did not converge in {MAX_ITERATIONS} iterations.")
        return " ".join(parts)


@dataclass(frozen=True)
class NeighbourVote(Accuracy):
    """Accuracy of a vote of the nearest training codes.

    Args:
        correct: Whether each test example is labelled correctly.
        chance: The share of the most frequent test label.
        neighbours: The number of votes.
        num_train: The number of labelled training codes.
    """

    FIELDS: ClassVar = (
        *("accuracy", "standard_error", "chance", "neighbours", "num_train", "num_test"),
    )

    neighbours: int
    num_train: int

    def reading(self) -> str:
        """Whether nearby codes share a label."""
        return self._sentence(
            f"A vote of the {self.neighbours} nearest of {self.num_train:,} codes"
        )


def linear_probe(
    train: LabelledCodes,
    test: LabelledCodes,
    *,
    seed: int = 0,
    regularisation: float | None = None,
) -> Probe:
    """Accuracy of argmax_k (w_k z + b_k), fitted by argmin C sum_i -log p(y_i | z_i) + |w|^2 / 2.

    p(y | z) is the softmax. Codes are centred and divided by a single number, so that their mean
    squared length is 1. Scaling each coordinate separately would amplify those that the model does
    not use: with 100 labels on MNIST that costs 0.08 of accuracy in a 50-dimensional code. The
    probe is invariant to rotations of the code.

    C is chosen by the log-likelihood of a held-out fifth of at least 500 and at most 5,000
    training labels, increasing C until it falls; with fewer labels it is 10.

    Args:
        train: Codes and labels to fit.
        test: Codes and labels to evaluate.
        seed: The seed of the choice of held-out labels.
        regularisation: C; None to choose it.

    Returns:
        The accuracy, to be read beside `chance` and beside that of raw data.

    Raises:
        UndefinedCheckError: If the training data have a single label.
        ValueError: If there are no data, a code is not finite, dimensions differ, or C is not
            positive.

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
    chosen = regularisation is None and len(train) >= MIN_LABELS_TO_CHOOSE
    if chosen:
        regularisation = _choose_regularisation(train, seed)
    elif regularisation is None:
        regularisation = DEFAULT_REGULARISATION
    classifier, converged = _fit(train, regularisation)
    # A class that is not in the training data is never predicted.
    return Probe(
        correct=classifier.predict(test.codes.astype(np.float64)) == test.labels,
        chance=chance_level(test.labels),
        num_train=len(train),
        num_classes=len(classes),
        unseen=float((~np.isin(test.labels, classes)).mean()),
        regularisation=float(regularisation),
        regularisation_chosen=chosen,
        converged=converged,
        classifier=classifier,
        unseen_labels=tuple(np.setdiff1d(test.labels, classes).tolist()),
    )


def nearest_neighbours(
    train: LabelledCodes, test: LabelledCodes, *, neighbours: int = 5
) -> NeighbourVote:
    """Accuracy of the most frequent label among the k training codes with the smallest |z - z_i|.

    Distances are Euclidean, in the codes' own units. Ties between labels go to the smallest.

    Args:
        train: Codes and labels that vote.
        test: Codes and labels to evaluate.
        neighbours: The number k of votes.

    Returns:
        The accuracy, to be read beside `chance` and beside that of raw data.

    Raises:
        ValueError: If there are no data, a code is not finite, dimensions differ, or there are
            fewer training data than neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    check_labelled(train, test)
    if not 1 <= neighbours <= len(train):
        raise ValueError(
            f"neighbours must be from 1 to the {len(train)} training data, got {neighbours}."
        )
    # Beyond about ten dimensions a tree is slower than all distances.
    with ignore_fit_warnings():
        vote = KNeighborsClassifier(neighbours, algorithm="brute").fit(train.codes, train.labels)
    correct = vote.predict(test.codes) == test.labels
    return NeighbourVote(correct, chance_level(test.labels), neighbours, len(train))


def _diagnose_probe(subject: Subject) -> Probe:
    inputs = subject.compute(RepresentationInputs)
    return linear_probe(inputs.all_train, inputs.test, seed=subject.seed_of("probe"))


def _diagnose_neighbours(subject: Subject) -> NeighbourVote:
    inputs = subject.compute(RepresentationInputs)
    neighbours = min(VOTES, len(inputs.train))
    return nearest_neighbours(inputs.train, inputs.test, neighbours=neighbours)


PROBE = Check(
    "probe",
    _diagnose_probe,
    headline=lambda found: {
        "linear probe, all labels": with_error(found.accuracy, found.standard_error)
    },
    shared=("codes", "codes of training data"),
)
NEIGHBOURS = Check(
    "neighbours",
    _diagnose_neighbours,
    headline=lambda found: {
        "nearest neighbours": with_error(found.accuracy, found.standard_error)
    },
)


def chance_level(labels: Int[np.ndarray, " m"]) -> float:
    """The share of the most frequent label: the accuracy of a constant answer."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def binomial_error(accuracy: float, m: int) -> float:
    """sqrt(p (1 - p) / m): the standard error of a share p of m examples."""
    return math.sqrt(accuracy * (1 - accuracy) / m)


def check_labelled(*parts: LabelledCodes) -> None:
    """Validate codes to fit or to evaluate.

    Raises:
        ValueError: If an array is empty, a code is not finite, or dimensions differ.
    """
    shapes = [part.codes.shape for part in parts]
    if min(min(shape) for shape in shapes) == 0 or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(
            "expected non-empty code arrays of the same dimension, got shapes "
            f"{', '.join(map(str, shapes))}."
        )
    if not all(np.isfinite(part.codes).all() for part in parts):
        raise ValueError("codes must be finite, got some that are not.")


@contextmanager
def ignore_fit_warnings() -> Iterator[None]:
    """Silence scikit-learn's warnings about convergence and about many classes.

    Results record whether a fit converged, and labels are classes, however many there are.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        yield


def _choose_regularisation(train: LabelledCodes, seed: int) -> float:
    """The C with the highest log-likelihood of held-out labels: the first peak."""
    from sklearn.metrics import log_loss

    # Each class is held out in proportion, the rarest ones not at all.
    rows = np.random.default_rng(seed).permutation(len(train))[:MAX_LABELS_TO_CHOOSE]
    labels = train.labels[rows]
    mask = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        mask[of_class[: int(HELD_OUT * len(of_class))]] = True
    fitted, held_out = train.subset(rows[~mask]), train.subset(rows[mask])
    if len(held_out) == 0 or len(np.unique(fitted.labels)) == 1:
        return DEFAULT_REGULARISATION
    best, lowest, start = DEFAULT_REGULARISATION, math.inf, None
    for value in REGULARISATIONS:
        classifier, _ = _fit(fitted, value, start)
        start = classifier[-1]
        probabilities = classifier.predict_proba(held_out.codes.astype(np.float64))
        loss = log_loss(held_out.labels, probabilities, labels=classifier.classes_)
        # Larger values take longest, and are not needed past the peak.
        if loss >= lowest:
            break
        best, lowest = value, loss
    return best


def _fit(
    train: LabelledCodes, regularisation: float, start: Any = None
) -> tuple["Pipeline", bool]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    codes = train.codes.astype(np.float64)
    scaler = StandardScaler().fit(codes)
    # One scale for all coordinates, to a mean variance of 1, at which the intercepts converge
    # fast, too. C is divided so that it refers to a squared length of 1. Constant codes have no
    # scale.
    dim = codes.shape[1]
    scale = math.sqrt(float(codes.var(axis=0).mean()))
    scaler.scale_ = np.full(dim, scale if scale > 0 else 1.0)
    regression = LogisticRegression(
        C=regularisation / dim, max_iter=MAX_ITERATIONS, warm_start=start is not None
    )
    if start is not None:
        regression.coef_, regression.intercept_ = start.coef_.copy(), start.intercept_.copy()
        regression.classes_ = start.classes_
    with ignore_fit_warnings():
        regression.fit(scaler.transform(codes), train.labels)
    converged = bool(np.max(regression.n_iter_) < MAX_ITERATIONS)
    return Pipeline([("scale", scaler), ("regression", regression)]), converged
