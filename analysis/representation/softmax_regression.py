"""Softmax regression of labels on codes, and the choice of how much it trusts them."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.representation.codes import Labelled
from analysis.representation.quiet import quiet

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# C of scikit-learn, for codes scaled to a mean squared length of 1. On MNIST and Fashion-MNIST, in
# codes and in pixels, 10 is within 0.025 of the best accuracy from 10 labels to 1,000.
DEFAULT_REGULARISATION = 10.0
REGULARISATIONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# With fewer labels a choice by those held out was no better than the default; the latter number
# bounds the time.
FEWEST_TO_CHOOSE = 500
MOST_TO_CHOOSE = 5000
HELD_OUT = 0.2
MOST_ITERATIONS = 1000


def choose_regularisation(train: Labelled, seed: int) -> float:
    """The C with the highest log-likelihood of held-out labels: the first peak from below."""
    from sklearn.metrics import log_loss

    fitted, held_out = _split(train, seed)
    # Rare classes may be in none of so many.
    if len(held_out) == 0 or len(np.unique(fitted.labels)) == 1:
        return DEFAULT_REGULARISATION
    best, lowest = DEFAULT_REGULARISATION, math.inf
    start = None
    for value in REGULARISATIONS:
        classifier, _ = fit(fitted, value, start)
        start = classifier[-1]
        probabilities = classifier.predict_proba(held_out.codes.astype(np.float64))
        loss = log_loss(held_out.labels, probabilities, labels=classifier.classes_)
        # Larger values take longest, and are not needed past the peak.
        if loss >= lowest:
            break
        best, lowest = value, loss
    return best


def _split(train: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Labels to fit to and labels held out: of each class its share, and none of the rarest."""
    rows = np.random.default_rng(seed).permutation(len(train))[:MOST_TO_CHOOSE]
    labels = train.labels[rows]
    held_out = np.zeros(len(rows), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        held_out[of_class[: int(HELD_OUT * len(of_class))]] = True
    return train.taken(rows[~held_out]), train.taken(rows[held_out])


def fit(train: Labelled, regularisation: float, start: Any = None) -> tuple["Pipeline", bool]:
    """The classifier, and whether its fit converged; from the coefficients of another, if given."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    codes = train.codes.astype(np.float64)
    scaler = StandardScaler().fit(codes)
    # One scale for all coordinates: a mean variance of 1, beside which the intercepts, too, converge
    # fast. C is divided to mean what it does at a squared length of 1. Equal codes have no scale.
    dim = codes.shape[1]
    scale = math.sqrt(float(codes.var(axis=0).mean()))
    scaler.scale_ = np.full(dim, scale if scale > 0 else 1.0)
    regression = LogisticRegression(
        C=regularisation / dim, max_iter=MOST_ITERATIONS, warm_start=start is not None
    )
    if start is not None:
        regression.coef_, regression.intercept_ = start.coef_.copy(), start.intercept_.copy()
        regression.classes_ = start.classes_
    with quiet():
        regression.fit(scaler.transform(codes), train.labels)
    converged = bool(np.max(regression.n_iter_) < MOST_ITERATIONS)
    return Pipeline([("scale", scaler), ("regression", regression)]), converged
