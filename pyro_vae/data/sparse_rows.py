"""Sparse counts in memory, whose rows are made dense on demand."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from pyro_vae.data.memory_mapped import require_memory
from pyro_vae.data.validation import ValueRange, as_tensor

if TYPE_CHECKING:
    from scipy import sparse

# The supports of counts, and of what replaces them after normalisation.
CellSupport = Literal["binary", "counts", "unit", "real"]

# Matrices stay sparse if less than this share of their elements is nonzero and the dense array
# would take more than this number of bytes.
MAXIMUM_SHARE = 0.25
MINIMUM_DENSE_BYTES = 2**26

# Number of nonzero elements processed at a time.
_BLOCK_ELEMENTS = 2**22
# Number of rows of a batch that must fit into memory when dense.
_BATCH_ROWS = 128


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of non-negative whole numbers, stored sparse and returned as dense tensors.

    Indexing with `rows[3]`, `rows[:100]`, `rows[[4, 2]]` or `rows[mask]` works as for a dense
    tensor and returns a new dense tensor. All splits of a data set share one matrix.

    Args:
        matrix: The matrix in CSR format: sorted, without duplicates or stored zeros.
        rows: The indices in the matrix of the n rows.
        dtype: The dtype of the rows that are returned.
    """

    matrix: "sparse.csr_array" = field(repr=False)
    rows: Int[Tensor, " n"] = field(repr=False)
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the dense tensor, `(n, d)`."""
        return (len(self), _shape(self.matrix)[1])

    def is_floating_point(self) -> bool:
        """Whether rows are returned as floats."""
        return self.dtype.is_floating_point

    def to(self, dtype: torch.dtype) -> "SparseRows":
        """The same rows in another dtype."""
        return replace(self, dtype=dtype)

    def subset(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> "SparseRows":
        """Select rows without making them dense."""
        return replace(self, rows=self._row_indices(index))

    def __getitem__(
        self, index: int | slice | Tensor | np.ndarray | Sequence[int]
    ) -> Real[Tensor, "*n d"]:
        """A row `(d,)`, or several rows `(k, d)`.

        Raises:
            IndexError: If there are no such rows.
        """
        rows = self._row_indices(index)
        # NumPy has the same types by name.
        dtype = np.dtype(str(self.dtype).removeprefix("torch."))
        dense = self.matrix[rows.reshape(-1).numpy()].astype(dtype).toarray()
        return torch.from_numpy(dense).reshape(*rows.shape, self.shape[1])

    def __iter__(self) -> Iterator[Real[Tensor, " d"]]:
        return (self[row] for row in range(len(self)))

    def split(self, size: int) -> Iterator[Real[Tensor, "k d"]]:
        """All rows in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    @cached_property
    def value_range(self) -> ValueRange:
        """The range of the values."""
        n, d = self.shape
        low, high, stored = np.iinfo(np.int64).max, 0, 0
        for part in self.parts():
            stored += part.nnz
            if part.nnz:
                low, high = min(low, int(part.data.min())), max(high, int(part.data.max()))
        return ValueRange(low if stored == n * d else 0, high, True)

    def mean(self) -> Float[Tensor, " d"]:
        """The mean of each element over all rows, in float64."""
        d = self.shape[1]
        total = np.zeros(d)
        for part in self.parts():
            total += np.bincount(part.indices, weights=part.data, minlength=d)
        return torch.from_numpy(total / len(self))

    def is_one_hot(self) -> bool:
        """Whether each row is 0 except for a single 1."""
        return all(
            bool((np.diff(part.indptr) == 1).all() and (part.data == 1).all())
            for part in self.parts()
        )

    def _row_indices(self, index: Any) -> Int[Tensor, "*n"]:
        if isinstance(index, int | slice):
            return self.rows[index]
        index = torch.as_tensor(index, device="cpu")
        # An empty list is one of floats.
        return self.rows[index if index.numel() else index.long()]

    def parts(self) -> "Iterator[sparse.csr_array]":
        """All rows in order as sparse blocks."""
        mean_nonzero = max(1, self.matrix.nnz // max(1, _shape(self.matrix)[0]))
        for rows in self.rows.split(max(1, _BLOCK_ELEMENTS // mean_nonzero)):
            yield self.matrix[rows.numpy()]


def is_sparse(values: Any) -> bool:
    """Whether values are a sparse SciPy matrix or array, without importing SciPy."""
    return hasattr(values, "tocsr") and hasattr(values, "nnz")


def from_scipy(
    matrices: Sequence[Any], what: str, *, counts: bool = True
) -> list[SparseRows | np.ndarray]:
    """Convert SciPy matrices in any format to sparse rows or dense arrays, all of one type.

    They stay sparse if they hold non-negative whole numbers, less than 25 % of which are nonzero,
    and one of them would take more than 64 MiB when dense. The inputs are not changed.

    Args:
        matrices: One matrix, or one for each split.
        what: Their name in messages.
        counts: Whether they are counts or binary; others are made dense.

    Raises:
        ValueError: If a matrix is damaged, not numeric or not two-dimensional, or it does not fit
            into memory when dense, or a batch of it does not.
    """
    canonical = [canonical_csr(matrix, what) for matrix in matrices]
    stored = [as_tensor(matrix.data, what, copy=False) for matrix in canonical]
    ranges = [ValueRange.from_values(values) for values in stored if len(values)]
    value_range = ValueRange.union([ValueRange(0, 0, True), *ranges])
    whole = value_range.low >= 0 and value_range.whole and not value_range.missing
    if not (counts and whole and value_range.high <= np.iinfo(np.int64).max):
        return [_dense(matrix, matrix.dtype, what) for matrix in canonical]
    types = (np.uint8, np.int16, np.int32, np.int64)
    dtype = next(dtype for dtype in types if value_range.high <= np.iinfo(dtype).max)
    sizes = [math.prod(_shape(matrix)) for matrix in canonical]
    share = sum(matrix.nnz for matrix in canonical) / max(1, sum(sizes))
    if share >= MAXIMUM_SHARE or max(sizes) * np.dtype(dtype).itemsize <= MINIMUM_DENSE_BYTES:
        # uint8 would be taken for images.
        plain = np.promote_types(dtype, np.int16)
        return [_dense(matrix, plain, what) for matrix in canonical]
    rows: list[SparseRows | np.ndarray] = []
    for matrix in canonical:
        n, d = _shape(matrix)
        require_memory((min(n, _BATCH_ROWS), d), np.dtype(dtype).itemsize, f"a batch of {what}")
        data = matrix.data.astype(dtype, copy=False)
        narrow = _csr(data, matrix.indices, matrix.indptr, (n, d))
        # Returned like plain integers; the data set chooses the type that is kept.
        rows.append(SparseRows(narrow, torch.arange(n), torch.int64))
    return rows


def canonical_csr(matrix: Any, what: str) -> "sparse.csr_array":
    """Convert to CSR: sorted, without duplicates or stored zeros, sharing arrays where possible.

    Raises:
        ValueError: If the matrix is damaged, not numeric or not two-dimensional.
    """
    if len(matrix.shape) != 2:
        raise ValueError(f"{what} must be a matrix of rows, got a sparse array of {matrix.shape}.")
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{what} must hold whole numbers or floats, got the type {matrix.dtype}.")
    if matrix.format not in ("csr", "csc") and matrix.dtype.kind != "f":
        # These formats sum duplicates in their own type while they are converted.
        matrix = matrix.astype(np.int64)
    require_memory((matrix.shape[0] + 1,), 8, f"the row pointers of {what}")
    try:
        # SciPy does not check indices, and would write out of bounds.
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
        matrix = matrix.tocsr()
        csr = _csr(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
        csr.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{what} is a damaged sparse matrix ({error}).") from error
    if not csr.has_canonical_format:
        csr = _copy(csr, csr.dtype if csr.dtype.kind == "f" else np.int64)
        csr.sum_duplicates()
    if not csr.data.all():
        csr = _copy(csr, csr.dtype)
        csr.eliminate_zeros()
    return csr


def stored_values(values: Any) -> np.ndarray:
    """The values of an array, or the stored ones of a sparse matrix."""
    return values if isinstance(values, np.ndarray) else values.data


def are_counts(values: Any) -> bool:
    """Whether all values are non-negative whole numbers of at most 64 bits."""
    entries = stored_values(values)
    return entries.dtype.kind in "bu" or bool(
        entries.dtype.kind in "if"
        and np.isfinite(entries).all()
        and (entries >= 0).all()
        and (entries < 2.0**63).all()
        and (entries == np.rint(entries)).all()
    )


def count_support(values: Any, support: CellSupport | None) -> CellSupport | None:
    """The support of values that are whole or declared as real; None for others."""
    if support in ("real", "unit"):
        return support
    if not are_counts(values):
        return None
    return support or ("counts" if stored_values(values).max(initial=0) > 1 else "binary")


def _copy(matrix: "sparse.csr_array", dtype: Any) -> "sparse.csr_array":
    arrays = (matrix.data.astype(dtype), matrix.indices.copy(), matrix.indptr.copy())
    return type(matrix)(arrays, shape=_shape(matrix), copy=False)


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> "sparse.csr_array":
    """A CSR matrix that shares these arrays, with 32-bit indices where they suffice."""
    from scipy import sparse

    short = max(*shape, len(indices)) <= np.iinfo(np.int32).max
    dtype = np.int32 if short else np.int64
    indices, indptr = indices.astype(dtype, copy=False), indptr.astype(dtype, copy=False)
    return sparse.csr_array((data, indices, indptr), shape=shape, copy=False)


def _shape(matrix: "sparse.csr_array") -> tuple[int, int]:
    # SciPy's annotation allows None.
    n, d = matrix.shape  # pyright: ignore[reportGeneralTypeIssues]
    return int(n), int(d)


def _dense(matrix: "sparse.csr_array", dtype: Any, what: str) -> np.ndarray:
    require_memory(_shape(matrix), np.dtype(dtype).itemsize, f"{what}, made dense,")
    return matrix.astype(dtype).toarray()
