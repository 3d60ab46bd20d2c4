"""Digests of rows and files, to detect changed data and test rows that repeat training rows."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real, UInt64
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.splits import SPLITS

# Number of values hashed at a time, to stay in a processor's cache, and read at a time.
_BLOCK_VALUES = 2**16
_READ_VALUES = 2**22

# Files up to this size are hashed whole; larger ones by their length and evenly spaced pieces.
_WHOLE_BYTES = 2**30
_PIECES, _PIECE = 256, 2**16

# Whole floats below this magnitude are hashed as integers.
_EXACT = 2.0**53

# Training data with more values are not searched for duplicates.
_MAX_SEARCHED = 500_000_000
# Numbers of rows and of training values searched for near duplicates; and the fewest rows.
_TEST_ROWS, _TRAIN_ROWS, _TRAIN_VALUES = 200, 10_000, 5_000_000
_MIN_TEST_ROWS, _MIN_TRAIN_ROWS = 10, 100
# A row is a near duplicate if it is nearer than this share of the distance to the 20th nearest. In
# one dimension chance makes 2 % of all rows such, in more dimensions fewer.
_NEAR, _RANK, _NEAR_SHARE = 1e-3, 20, 0.05
# Distance in the file up to which rows are neighbours.
_NEIGHBOUR_DISTANCE = 2


def row_digests(values: Any, *, double: bool = False) -> UInt64[np.ndarray, " n"]:
    """mix(sum_j c_j v_j mod 2^64): a 64-bit digest of each row, equal for equal rows.

    It depends on the numbers and their order alone: not on their dtype, the split, the row's
    shape, or sparsity. v_j is a whole number itself, and the mixed bits of any other; c_j are
    fixed odd numbers, one for each element. Distinct rows collide with a probability of about
    2^-64.

    Args:
        values: `(n, *event_shape)`: a NumPy array, a tensor, a SciPy sparse matrix, `SparseRows`,
            or anything with a shape whose slices are one of these, such as rows on disk.
        double: Whether to hash float64 unrounded. Otherwise floats are rounded to float32, as in a
            data set that keeps float32.

    Raises:
        ValueError: If there is no event shape.
    """
    shape = tuple(values.shape)
    if len(shape) < 2:
        raise ValueError(f"rows must have the shape (n, *event_shape), got {shape}.")
    if hasattr(values, "parts"):
        # Sparse rows stay sparse.
        return np.concatenate([row_digests(part, double=double) for part in values.parts()])
    constants = _mix(np.arange(1, math.prod(shape[1:]) + 1, dtype=np.uint64)) | np.uint64(1)
    in_memory = isinstance(values, np.ndarray | Tensor)
    # Reading a slice, or making it dense, costs more than hashing.
    rows = max(1, (_BLOCK_VALUES if in_memory else _READ_VALUES) // max(1, len(constants)))
    digests = np.empty(shape[0], dtype=np.uint64)
    for start in range(0, shape[0], rows):
        block = values[start : start + rows]
        digests[start : start + rows] = _weighted_sums(block, constants, double)
    return _mix(digests)


def path_digest(path: Path) -> str:
    """The SHA-256 of a file; of a folder, that of its files' names and lengths.

    For a file above 1 GiB, that of its length and of 256 evenly spaced pieces.
    """
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                total.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        return total.hexdigest()
    if not path.is_file():
        return ""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        total.update(str(size).encode())
        for offset in np.linspace(0, size - _PIECE, _PIECES).astype(int).tolist():
            file.seek(offset)
            total.update(file.read(_PIECE))
    return total.hexdigest()


def _weighted_sums(values: Any, constants: np.ndarray, double: bool) -> np.ndarray:
    """sum_j c_j v_j of each row."""
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    if isinstance(values, np.ndarray):
        return _to_uint64(values.reshape(len(values), -1), double) @ constants
    from scipy import sparse

    matrix = sparse.csr_array(values)
    # Duplicate entries add up; their mixed bits do not.
    matrix.sum_duplicates()
    data = _to_uint64(matrix.data, double)
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape) @ constants


def _to_uint64(values: np.ndarray, double: bool) -> np.ndarray:
    """Each value as 64 bits: itself if it is whole, mixed bits otherwise."""
    if values.dtype.kind != "f":
        return values.astype(np.uint64)
    if not double:
        # Values too large for float32 become infinite.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    exact = values.astype(np.float64)
    whole = (exact == np.rint(exact)) & (np.abs(exact) < _EXACT)
    if whole.all():
        return exact.astype(np.int64).view(np.uint64)
    integers = exact[whole].astype(np.int64)
    # A NaN has many bit patterns.
    exact[np.isnan(exact)] = np.nan
    bits = exact.view(np.uint64)
    # Few floats have low bits set, and a sum of multiples of a power of two is one, too.
    bits ^= bits >> np.uint64(32)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(32)
    bits[whole] = integers.view(np.uint64)
    return bits


def _mix(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a permutation of the 64-bit numbers.

    References:
        Fast splittable pseudorandom number generators (Steele et al., 2014),
        https://doi.org/10.1145/2660193.2660195
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def split_digests(dataset: Dataset) -> dict[str, Tensor]:
    """The sorted digests of the rows of each split in memory."""
    splits = {split: getattr(dataset, split) for split in SPLITS}
    return {
        split: sorted_digests(values, dataset.units.double)
        for split, values in splits.items()
        if not isinstance(values, MemoryMapped)
    }


def sorted_digests(values: Tensor | SparseRows, double: bool) -> Int[Tensor, " n"]:
    """The sorted digests of rows as int64, which torch can sort and compare."""
    return torch.from_numpy(row_digests(values, double=double).view(np.int64)).sort().values


def same_rows(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether all splits together have the same rows."""
    rows, other = (torch.cat([*splits.values()]).sort().values for splits in (some, others))
    return torch.equal(rows, other)


def count_common(rows: Tensor, others: Tensor) -> int:
    """Count the rows that are among others, by their digests."""
    return int(torch.isin(rows, others).sum())


def labels_digest(dataset: Dataset) -> str:
    """The SHA-256 of all labels; empty without labels."""
    if not dataset.labels:
        return ""
    total = hashlib.sha256()
    for split, labels in sorted(dataset.labels.items()):
        total.update(split.encode() + labels.double().numpy().tobytes())
    return total.hexdigest()


# ---- duplicates of training rows --------------------------------------------------------------


def duplicates_of_training(dataset: Dataset) -> dict[str, int]:
    """Count the test and validation rows that equal a training row.

    Empty for training data too large to be searched.
    """
    matrix = getattr(dataset.train, "matrix", None)
    if (math.prod(dataset.train.shape) if matrix is None else matrix.nnz) > _MAX_SEARCHED:
        return {}
    double = dataset.support == "real" and dataset.units.double
    train = np.unique(row_digests(dataset.train, double=double))
    return {
        split: int(np.isin(row_digests(getattr(dataset, split), double=double), train).sum())
        for split in ("test", "validation")
    }


@dataclass(frozen=True)
class NearDuplicates:
    """The similarity of test rows to training rows that they do not equal.

    Args:
        n: Number of test rows examined.
        near: Number that almost equal a training row; 0 if that may be chance.
        neighbours: Number whose most similar training row is next to them in the file.
    """

    n: int = 0
    near: int = 0
    neighbours: int = 0


def near_duplicates(dataset: Dataset) -> NearDuplicates:
    """Compare a contiguous part of the file, or of each split if the file's order is unknown.

    Distances are Euclidean, of columns with standard deviation 1 or of raw pixels. Counts and
    binary data, and data with missing values, are not compared.
    """
    train, test = dataset.train, dataset.test
    if not isinstance(train, Tensor) or dataset.missing:
        return NearDuplicates()
    if dataset.support in ("counts", "binary"):
        return NearDuplicates()
    width = train[0].numel()
    m = min(len(train), _TRAIN_ROWS, _TRAIN_VALUES // width)
    if width < 2 or m < _MIN_TRAIN_ROWS:
        return NearDuplicates()
    rows = dataset.rows.get("train", torch.arange(len(train)))
    chosen = rows.argsort()[:m]
    test_rows = dataset.rows.get("test", torch.arange(len(test)))
    order = test_rows.argsort()
    if "test" in dataset.rows:
        order = order[test_rows[order] < rows[chosen[-1]]]
    if len(order) < _MIN_TEST_ROWS:
        return NearDuplicates()
    order = order[torch.linspace(0, len(order) - 1, min(len(order), _TEST_ROWS)).long()]
    x, y = _standardize(train[chosen], test[order])
    # Centered, so that little precision is lost; the smallest distance is computed from the rows.
    squares = (y**2).sum(1, keepdim=True) + (x**2).sum(1) - 2 * y @ x.T
    nearest = squares.topk(_RANK, largest=False)
    index = nearest.indices[:, 0]
    distance = (x[index] - y).norm(dim=1)
    different = distance > 0
    near = different & (distance < _NEAR * nearest.values[:, -1].clamp(min=0).sqrt())
    gap = (rows[chosen[index]] - test_rows[order]).abs()
    neighbours = different & (gap <= _NEIGHBOUR_DISTANCE)
    return NearDuplicates(
        len(order),
        int(near.sum()) if near.sum() > max(2, _NEAR_SHARE * len(order)) else 0,
        int(neighbours.sum()) if {"train", "test"} <= set(dataset.rows) else 0,
    )


def _standardize(
    x: Real[Tensor, " n *event"], y: Real[Tensor, " m *event"]
) -> tuple[Float[Tensor, " n d"], Float[Tensor, " m d"]]:
    """Both minus the mean of x; columns in units of its standard deviation."""
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
