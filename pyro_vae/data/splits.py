"""Which rows train, which validate and which test a model."""

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pyro_vae.data.orders import permutation

SPLITS = ("train", "validation", "test")

_SPLIT_SEED = 20140501


def split_rows(
    n: int,
    *,
    labels: Tensor | None = None,
    groups: np.ndarray | None = None,
    splits: np.ndarray | None = None,
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """The numbers of the rows of each split, and the rule in words.

    Args:
        n: The number of rows.
        labels: A label for each row, by which rows are stratified.
        groups: A group for each row; the rows of a group go into one split.
        splits: The name of a split for each row, where they are given.

    Raises:
        ValueError: If there are fewer than 10 rows to be split.
    """
    if n < 10:
        raise ValueError(f"there must be at least 10 rows to be split, got {n}.")
    n_validation, n_test = n // 10, n // 5
    order = permutation(n, seed=_SPLIT_SEED)
    parts = order.split([n - n_validation - n_test, n_validation, n_test])
    return dict(zip(SPLITS, parts, strict=True)), "70 / 10 / 20 by a fixed permutation"


def validation_rows(
    n: int, *, labels: Tensor | None = None, groups: np.ndarray | None = None
) -> Int[Tensor, " _"]:
    """The numbers of the training rows that validate: a tenth of them by a fixed permutation."""
    return permutation(n, seed=_SPLIT_SEED)[: max(1, n // 10)].sort().values
