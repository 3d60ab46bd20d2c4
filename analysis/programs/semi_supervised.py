"""Accuracy and calibration of a semi-supervised program's classes, and its samples by class."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from analysis.calibration.reliability import calibration
from analysis.plotting.images import draw_grid
from analysis.plotting.style import BLUE, new_figure, tidy
from pyro_vae.data.labels import UNLABELLED, are_classes
from pyro_vae.data.nouns import nouns
from pyro_vae.rng import evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

# The bins of the expected calibration error, of equal width.
BINS = 15
# The styles z of the figure of samples, and the rows of a forward pass.
STYLES, CHUNK = 10, 1000


def scores(program: Any, held_out: Any) -> dict[str, float | None]:
    """Accuracy and calibration of q(y | x) on held-out rows with labels.

    Args:
        program: A `SemiSupervised`.
        held_out: Held-out data, with x prepared for the program and y or None.

    Returns:
        `accuracy`, the share of rows whose most probable class is their label;
        `calibration_error`, see `expected_calibration_error`; `mean_confidence`, the mean of the
        largest q(y | x): above the accuracy the classes are overconfident; and
        `class_log_density`, the mean of log q(label | x), in nats. None without labels.
    """
    names = ("accuracy", "calibration_error", "mean_confidence", "class_log_density")
    found = _labelled(program, held_out)
    if found is None:
        return dict.fromkeys(names)
    q, y = found
    confidence, correct = q.max(1), q.argmax(1) == y
    # A class that training did not know has probability 0, whose logarithm is not finite.
    own = (q * (y[:, None] == np.arange(q.shape[1]))).sum(1).clip(np.finfo(np.float32).tiny)
    error = expected_calibration_error(confidence, correct)
    values = (correct.mean(), error, confidence.mean(), np.log(own).mean())
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = BINS
) -> float:
    """sum_b n_b / n |accuracy_b - confidence_b| over bins b of the confidence, of equal width.

    >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4

    Args:
        confidence: The largest class probability of each row.
        correct: Whether that class is the label.
        bins: The number of bins.

    References:
        On Calibration of Modern Neural Networks (Guo et al., 2017),
        https://arxiv.org/abs/1706.04599
    """
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(index, correct - confidence.astype(np.float64), bins)
    return float(np.abs(gap).sum() / len(confidence))


def figures(program: Any, held_out: Any) -> dict[str, Callable[[], "matplotlib.figure.Figure"]]:
    """The figures by file name: samples by class, and the reliability of the classes."""
    drawn = {"samples_by_class": lambda: plot_samples_by_class(program, held_out)}
    found = _labelled(program, held_out)
    if found is not None and len(found[1]) > 1:
        q, y = found
        drawn["class_reliability"] = lambda: plot_class_reliability(q.max(1), q.argmax(1) == y)
    return drawn


def plot_class_reliability(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> "matplotlib.figure.Figure":
    """The accuracy of rows against the probability of their most probable class.

    On the diagonal the probabilities come true; below it the classes are overconfident. Bars are
    95 %, by bootstrap over rows. The panel below shows the rows in each bin.

    Args:
        confidence: The largest class probability of each row.
        correct: Whether that class is the label.
    """
    found = calibration(
        np.minimum(confidence.astype(np.float64), 1.0)[:, None], correct[:, None].astype(int)
    )
    figure = new_figure(6.4, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    ends = np.stack([found.observed - found.low, found.high - found.observed])
    upper.errorbar(found.forecast, found.observed, ends, fmt="o-", color=BLUE, ms=4, lw=1.2)
    upper.set(xlim=(0, 1.01), ylim=(0, 1.02), ylabel="share of rows that are right")
    error = expected_calibration_error(confidence, correct)
    upper.set_title(
        f"{len(correct):,} {nouns()}: accuracy {correct.mean():.3f}, expected calibration error "
        f"{error:.3f}",
        fontsize=10,
    )
    lower.bar(found.forecast, found.count, width=0.02, color=BLUE)
    # Bars on a logarithmic axis start at one row, so that their lengths compare.
    lower.set(yscale="log", ylim=(1, None), xlabel="largest q(y | x)", ylabel="rows")
    tidy((upper, lower), grid="both")
    figure.suptitle("Class probabilities: on the diagonal they come true")
    return figure


def plot_samples_by_class(program: Any, held_out: Any) -> "matplotlib.figure.Figure":
    """The mean of p(x | y, z): a row for each class, a column for each style z ~ p(z).

    A column shows one z under every class. If y and z are apart, it keeps its style.

    Args:
        program: A `SemiSupervised`.
        held_out: Held-out data, for the names of the classes and the limits of values.
    """
    with evaluation_mode(program, seed=0):
        z = program.prior().sample((STYLES,))
        drawn = program.decode(z, program.numbers.unsqueeze(-1)).numpy(force=True)
    names = [*held_out.label_names] or [str(k) for k in range(program.classes)]
    limits = (0.0, 1.0)
    if program.likelihood.support not in ("binary", "unit"):
        limits = (float(drawn.min()), float(drawn.max()) + 1e-9)
    figure = new_figure(0.75 * STYLES + 1.5, 0.75 * len(drawn) + 0.7)
    draw_grid(figure, [*drawn], limits, names=names)
    figure.suptitle("The mean of p(x | y, z): a class in each row, a style z in each column")
    return figure


def class_probabilities(program: Any, x: torch.Tensor) -> Float[np.ndarray, "n classes"]:
    """q(y | x) of rows of any number, in evaluation mode."""
    with evaluation_mode(program):
        parts = [program.class_probabilities(rows) for rows in x.split(CHUNK)]
    return torch.cat(parts).numpy(force=True)


def _labelled(
    program: Any, held_out: Any
) -> tuple[Float[np.ndarray, "n classes"], Int[np.ndarray, " n"]] | None:
    """q(y | x) and the label of the held-out rows that have one; None if none has."""
    y = held_out.y
    if y is None or not are_classes(y):
        return None
    known = y != UNLABELLED
    if not known.any():
        return None
    q = class_probabilities(program, held_out.x[known.to(held_out.x.device)])
    return q, y[known].numpy(force=True)
