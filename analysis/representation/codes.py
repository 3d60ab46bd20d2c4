"""Codes of data: with labels, as classifiers take them, and in balanced draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from analysis.model_samples import embed_data
from analysis.result import UndefinedCheckError


@dataclass(frozen=True)
class LabelledCodes:
    """Codes, or the data themselves as vectors, with a label for each.

    Args:
        codes: One row per example.
        labels: Class labels, from 0.
    """

    codes: Float[np.ndarray, "n dim"]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "LabelledCodes":
        """The given rows."""
        return LabelledCodes(self.codes[rows], self.labels[rows])


def labelled_codes(
    vae: Any, x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]
) -> LabelledCodes:
    """Embed data and attach their labels.

    Args:
        vae: A program with `embed(x)`.
        x: Data in the likelihood's support, on the program's device.
        labels: One label per example.

    Raises:
        ValueError: If the numbers of data and labels differ.
    """
    if len(x) != len(labels):
        raise ValueError(
            f"each example needs a label, got {len(x)} data and {len(labels)} labels."
        )
    return LabelledCodes(embed_data(vae, x), labels.cpu().numpy().astype(np.int64))


def class_labels(
    labels: np.ndarray | None, name: str
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Rows that have a label, or a first factor, and their labels.

    Raises:
        UndefinedCheckError: If there are none, labels are not classes, or all are the same.
    """
    if labels is None:
        raise UndefinedCheckError(f"{name} have no labels.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            f"the labels of {name} are floats, a numeric target: classifiers need classes, given "
            "as words or whole numbers."
        )
    first = labels[:, 0] if labels.ndim == 2 else labels
    rows = np.flatnonzero(first >= 0)
    if len(rows) == 0:
        raise UndefinedCheckError(f"none of {name} has a label.")
    if len(np.unique(first[rows])) < 2:
        raise UndefinedCheckError(f"all of {name} have the same label.")
    return rows, first[rows].astype(np.int64)


def complete_factors(
    labels: np.ndarray | None,
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "m factors"]]:
    """Rows that have all factors, and their factors.

    Raises:
        UndefinedCheckError: If there are no factors, or they are not whole numbers.
    """
    if labels is None or labels.ndim != 2:
        raise UndefinedCheckError("the data have no factors of variation.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            "the factors of variation are floats: the scores need whole numbers."
        )
    rows = np.flatnonzero((labels >= 0).all(1))
    if len(rows) == 0:
        raise UndefinedCheckError("no row of the data has all factors of variation.")
    return rows, labels[rows].astype(np.int64)


def check_sizes(sizes: Sequence[int | None], repeats: int) -> None:
    """Validate numbers of labels and of draws.

    Raises:
        ValueError: If there are no sizes, one is below 2, or `repeats` is below 1.
    """
    if not sizes or any(size is not None and size < 2 for size in sizes):
        raise ValueError(f"sizes must be at least one, each 2 or more or None, got {sizes}.")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")


def balanced_rows(
    labels: Int[np.ndarray, " n"], size: int, *, seed: int, repeat: int = 0
) -> Int[np.ndarray, " size"]:
    """Draw rows at random, with class counts as equal as possible.

    Classes take turns in random order until the draw is full; an exhausted class is skipped. The
    first rows of a draw are therefore balanced as well.

    Args:
        labels: Labels of the data to draw from.
        size: The number of rows to draw.
        seed: The seed of all draws.
        repeat: The index of the draw; draws are independent.

    Raises:
        ValueError: If there are fewer data than `size`.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"size must be from 1 to the {len(labels)} data, got {size}.")
    generator = np.random.default_rng((seed, size, repeat))
    shuffled = generator.permutation(len(labels))
    turn, codes, counts = _turns(labels[shuffled])
    order = np.lexsort((generator.permutation(len(counts))[codes], turn))
    return shuffled[order[:size]]


def held_out_rows(labels: Int[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"] | None:
    """Mark labels to hold out: the last of each class in proportion, never its only one.

    Args:
        labels: In random order within each class.
        share: The fraction of all labels to hold out; at least one label is.

    Returns:
        A mask; None if holding out that many would leave a class without a label.
    """
    wanted = max(1, round(share * len(labels)))
    turn, codes, counts = _turns(labels)
    if (turn > 0).sum() < wanted:
        return None
    # The last of each class come first; among equals, the last drawn.
    place = np.where(turn > 0, (turn + 1) / counts[codes], -1.0)
    held_out = np.zeros(len(labels), bool)
    held_out[np.lexsort((-np.arange(len(labels)), -place))[:wanted]] = True
    return held_out


def _turns(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rank of each label within its class, its class, and the class counts."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    for k, count in enumerate(counts):
        turn[codes == k] = np.arange(count)
    return turn, codes, counts


def spread(values: Float[np.ndarray, " draws"]) -> float | None:
    """The standard deviation over draws; None for a single draw."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def with_error(value: float, error: float | None, form: str = ".3f") -> str:
    """A number and its standard error or spread, as text.

    >>> with_error(0.5, 0.01), with_error(0.5, None, ".1%")
    ('0.500 ± 0.010', '50.0%')
    """
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form.lstrip('+')}}"
