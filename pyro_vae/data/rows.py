"""Data as they were read, before they are split and prepared."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.values import Layout, Support


@dataclass(frozen=True, eq=False)
class Rows:
    """Data and their labels in the order in which they were read.

    A training set is made of them by `Dataset.from_rows`, which splits them. New data for a trained
    model stay whole: `DataContract.matched` puts their columns in the order of training.

    Args:
        values: `(n, *event_shape)`: a NumPy array, a tensor, or a sparse matrix of SciPy's.
        name: What the data are called in logs and tables.
        labels: A label, or a row of factors, for each row, in any form that `read_labels` takes.
        label_names: What label 0, 1, ... is called, where labels are such numbers already; of factors,
            what the first, second, ... is.
        event_names: What element 0, 1, ... of a row is called: a column, a gene, a word.
        levels: The number of levels of integers 0, ..., levels - 1, where the source says it.
        support: One of `SUPPORTS`, where the source says it.
        splits: "train", "validation" or "test" for each row, where the source is split already.
        groups: A group for each row; rows of a group go into one split.
        source: The file or folder; None for data in memory.
        layout: How the axes of the values are read: see `values.event_shape`.
        notes: What was left out or changed while reading, one line each.
        row_names: The name of each row: a barcode, a sample.
        noun: What a row is called: "image", "row", "cell" or "document"; empty to tell by the shape.
    """

    values: Any = field(repr=False)
    name: str = "array"
    labels: Any = field(default=None, repr=False)
    label_names: tuple[str, ...] = ()
    event_names: tuple[str, ...] = ()
    levels: int | None = None
    support: Support | None = None
    splits: np.ndarray | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    source: Path | None = None
    layout: Layout = "auto"
    notes: tuple[str, ...] = ()
    row_names: tuple[str, ...] = field(default=(), repr=False)
    noun: str = ""

    def __len__(self) -> int:
        return self.values.shape[0]


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the path before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
