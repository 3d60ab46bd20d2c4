"""Draws of labelled data that have as many of each class as can be, and how far numbers spread over draws."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def check_sizes(sizes: Sequence[int | None], repeats: int) -> None:
    """Whether numbers of labels and of draws can be meant.

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
    """Rows of `size` data drawn at random, as many of each class as can be.

    Classes take turns in a random order until the draw is full; one that has no more passes. So a draw's
    first rows are balanced, too.

    Args:
        labels: Of the data to draw from.
        size: How many to draw.
        seed: A seed.
        repeat: The number of the draw: each is apart from the others.

    Raises:
        ValueError: If there are fewer data.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"size must be from 1 to the {len(labels)} data, got {size}.")
    generator = np.random.default_rng((seed, size, repeat))
    shuffled = generator.permutation(len(labels))
    classes, codes = np.unique(labels[shuffled], return_inverse=True)
    turn = np.empty(len(labels), np.int64)
    for k in range(len(classes)):
        of_class = codes == k
        turn[of_class] = np.arange(of_class.sum())
    order = np.lexsort((generator.permutation(len(classes))[codes], turn))
    return shuffled[order[:size]]


def held_out_rows(labels: Int[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"] | None:
    """Which labels are held out: of each class its share, the last ones, and never its only one.

    Args:
        labels: In random order within each class.
        share: Of all labels, at least one.

    Returns:
        None if there are too few labels: so many cannot be held out and leave one of each class.
    """
    wanted = max(1, round(share * len(labels)))
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    for k, count in enumerate(counts):
        turn[codes == k] = np.arange(count)
    if (turn > 0).sum() < wanted:
        return None
    # The last of each class come first; of equal ones those that were drawn last.
    place = np.where(turn > 0, (turn + 1) / counts[codes], -1.0)
    held = np.zeros(len(labels), bool)
    held[np.lexsort((-np.arange(len(labels)), -place))[:wanted]] = True
    return held


def spread_over_draws(values: Float[np.ndarray, " draws"]) -> float | None:
    """The standard deviation over draws; None for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
