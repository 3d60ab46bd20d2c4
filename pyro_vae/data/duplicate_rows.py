"""Detection of test rows that duplicate, or nearly duplicate, training rows."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.digests import row_digests

# Rows compared with one another, and values of the training rows at most.
_TEST_ROWS, _TRAINING_ROWS, _VALUES = 200, 10_000, 5_000_000
# Fewer rows are too few to tell.
_FEWEST = 10, 100
# Values of training data that are read to the end for exact twins.
_READ_VALUES = 500_000_000
# A row is almost another if it is nearer by this factor than its 20th nearest. In one dimension chance
# makes 2 % of all rows such, in more dimensions fewer: a larger share is taken for a fault.
_NEAR, _RANK, _SHARE = 1e-3, 20, 0.05
# Places in the file from a test row at which a training row is beside it.
_BESIDE = 2


def duplicates_of_training(dataset: Dataset) -> dict[str, int]:
    """How many test and validation rows are equal to a row of the training data.

    Empty where the training data are too large to be read to the end.
    """
    if _stored(dataset.train) > _READ_VALUES:
        return {}
    double = dataset.support == "real" and dataset.units.double
    train = np.unique(row_digests(dataset.train, double=double))
    return {
        split: int(np.isin(row_digests(getattr(dataset, split), double=double), train).sum())
        for split in ("test", "validation")
    }


def _stored(values: Any) -> int:
    """The number of values, or that of a sparse matrix's entries."""
    matrix = getattr(values, "matrix", None)
    return math.prod(values.shape) if matrix is None else matrix.nnz


@dataclass(frozen=True)
class NearDuplicates:
    """How like training rows some test rows are that are equal to none.

    Args:
        n: The number of test rows looked at.
        near: How many are almost a training row; 0 if that may be chance.
        beside: How many are most like a training row that is next to them in the file.
    """

    n: int = 0
    near: int = 0
    beside: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> "NearDuplicates":
        """That of a stretch of rows of the file, or of each split where the file's order is unknown.

        Distances are Euclidean, of columns with standard deviation 1 or of raw pixels. Counts and
        binary data are not compared.
        """
        train, test = dataset.train, dataset.test
        if not isinstance(train, Tensor) or dataset.support in ("counts", "binary"):
            return cls()
        width = train[0].numel()
        m = min(len(train), _TRAINING_ROWS, _VALUES // width)
        if width < 2 or m < _FEWEST[1]:
            return cls()
        numbers = dataset.rows.get("train", torch.arange(len(train)))
        chosen = numbers.argsort()[:m]
        test_numbers = dataset.rows.get("test", torch.arange(len(test)))
        order = test_numbers.argsort()
        if "test" in dataset.rows:
            order = order[test_numbers[order] < numbers[chosen[-1]]]
        if len(order) < _FEWEST[0]:
            return cls()
        order = order[torch.linspace(0, len(order) - 1, min(len(order), _TEST_ROWS)).long()]
        x, y = _standardised(train[chosen], test[order])
        # Centred, so that little is lost: the nearest distance itself is taken from the rows.
        squares = (y**2).sum(1, keepdim=True) + (x**2).sum(1) - 2 * y @ x.T
        nearest = squares.topk(_RANK, largest=False)
        place = nearest.indices[:, 0]
        distance = (x[place] - y).norm(dim=1)
        different = distance > 0
        near = different & (distance < _NEAR * nearest.values[:, -1].clamp(min=0).sqrt())
        beside = different & ((numbers[chosen[place]] - test_numbers[order]).abs() <= _BESIDE)
        return cls(
            len(order),
            int(near.sum()) if near.sum() > max(2, _SHARE * len(order)) else 0,
            int(beside.sum()) if {"train", "test"} <= set(dataset.rows) else 0,
        )


def _standardised(
    x: Real[Tensor, " n *event"], y: Real[Tensor, " m *event"]
) -> tuple[Float[Tensor, " n d"], Float[Tensor, " m d"]]:
    """Both about the means of x, and columns in units of its standard deviation."""
    columns = x.dim() == 2
    x, y = x.flatten(1), y.flatten(1)
    x, y = (x.double(), y.double()) if columns else (x.float(), y.float())
    center = x.mean(0)
    x, y = x - center, y - center
    if columns:
        spread = x.std(0)
        spread = torch.where(spread > 0, spread, 1)
        x, y = x / spread, y / spread
    return x.float(), y.float()
