"""Hashes of rows and files, used to detect duplicate rows and changed data."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64
from torch import Tensor

# What is hashed at a time: small enough to stay in a processor's cache.
_VALUES_AT_A_TIME = 2**16
_VALUES_READ_AT_A_TIME = 2**22

# A file is hashed whole up to so many bytes; beyond, its length and pieces spread over it.
_HASHED_WHOLE = 2**30
_PIECES, _PIECE = 256, 2**16

# Floats below this magnitude that have no fraction are hashed as the integers they are.
_EXACT = 2.0**53


def row_digests(values: Any, *, double: bool = False) -> UInt64[np.ndarray, " n"]:
    """mix(sum_j c_j v_j mod 2^64): a number of 64 bits for each row, equal where the rows are equal.

    It depends on the numbers and their order alone: not on the type that holds them, on the split,
    on the row's shape, or on whether the rows are dense or sparse. v_j is a whole number itself, and
    the mixed bits of any other; c_j are fixed odd numbers, one for each element. Distinct rows have
    the same digest with a probability of about 2^-64.

    Args:
        values: `(n, *event_shape)`: a NumPy array, a tensor, a sparse matrix of SciPy's, `SparseRows`, or
            anything with a shape whose slices are one of these, such as rows on the disk.
        double: Whether float64 is hashed as it is. Otherwise floats are rounded to float32, so that a
            row has the digest that it will have in a data set that keeps float32.

    Raises:
        ValueError: If there is no event shape.
    """
    shape = tuple(values.shape)
    if len(shape) < 2:
        raise ValueError(f"rows must have the shape (n, *event_shape), got {shape}.")
    if hasattr(values, "parts"):
        # Sparse rows, without being made dense.
        return np.concatenate([row_digests(part, double=double) for part in values.parts()])
    constants = _mixed(np.arange(1, math.prod(shape[1:]) + 1, dtype=np.uint64)) | np.uint64(1)
    rows = max(1, _VALUES_AT_A_TIME // max(1, len(constants)))
    if not isinstance(values, np.ndarray | Tensor):
        # Each slice is read or made dense, which costs more than hashing.
        rows = max(1, _VALUES_READ_AT_A_TIME // max(1, len(constants)))
    digests = np.empty(shape[0], dtype=np.uint64)
    for start in range(0, shape[0], rows):
        part = values[start : start + rows]
        digests[start : start + rows] = _weighted(part, constants, double)
    return _mixed(digests)


def path_digest(path: Path) -> str:
    """The SHA-256 of a file; of a folder, that of its files' names and lengths.

    Of a file above 1 GiB, it is that of its length and of 256 pieces spread over it.
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
        if size <= _HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        total.update(str(size).encode())
        for place in np.linspace(0, size - _PIECE, _PIECES).astype(int).tolist():
            file.seek(place)
            total.update(file.read(_PIECE))
    return total.hexdigest()


def _weighted(values: Any, constants: np.ndarray, double: bool) -> np.ndarray:
    """sum_j c_j v_j of each row."""
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    if isinstance(values, np.ndarray):
        return _whole(values.reshape(len(values), -1), double) @ constants
    from scipy import sparse

    matrix = sparse.csr_array(values)
    # Entries of one place add up, and not their mixed bits.
    matrix.sum_duplicates()
    whole = _whole(matrix.data, double)
    return sparse.csr_array((whole, matrix.indices, matrix.indptr), shape=matrix.shape) @ constants


def _whole(values: np.ndarray, double: bool) -> np.ndarray:
    """Each value as a number of 64 bits: itself if it is whole, mixed bits otherwise."""
    if values.dtype.kind != "f":
        return values.astype(np.uint64)
    if not double:
        # What float32 cannot hold becomes infinite.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    exact = values.astype(np.float64)
    whole = (exact == np.rint(exact)) & (np.abs(exact) < _EXACT)
    if whole.all():
        return exact.astype(np.int64).view(np.uint64)
    integers = exact[whole].astype(np.int64)
    bits = exact.view(np.uint64)
    # Few floats have low bits set, and a sum of multiples of a power of two is one, too.
    bits ^= bits >> np.uint64(32)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(32)
    bits[whole] = integers.view(np.uint64)
    return bits


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a permutation of the numbers of 64 bits.

    References:
        Fast splittable pseudorandom number generators (Steele et al., 2014),
        https://doi.org/10.1145/2660193.2660195
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
