"""Sparse counts in memory, whose rows are made dense on demand."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from pyro_vae.data.memory import require_memory
from pyro_vae.data.values import Extent, as_tensor

if TYPE_CHECKING:
    from scipy import sparse

# Matrices stay sparse when less than this share of their elements is not 0, and the dense array would
# take more than so many bytes.
MAXIMUM_SHARE = 0.25
MINIMUM_DENSE_BYTES = 2**26

# Statistics take so many elements that are not 0 at a time.
_ELEMENTS_AT_A_TIME = 2**22
# The rows of a batch that must fit into memory when dense.
_BATCH_ROWS = 128


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of whole numbers of 0 or more, kept sparse and given as dense tensors.

    Indexing gives a new dense tensor: `rows[3]`, `rows[:100]`, `rows[[4, 2]]` and `rows[mask]` are what
    they are for a dense tensor of the same values. All splits of a data set share one matrix.

    Args:
        matrix: The matrix in CSR format: sorted, without duplicates or stored zeros.
        rows: The row numbers in the matrix of the n rows.
        dtype: The type in which rows are given.
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
        """Whether rows are given as floats."""
        return self.dtype.is_floating_point

    def to(self, dtype: torch.dtype) -> "SparseRows":
        """The same rows, given in another type."""
        return replace(self, dtype=dtype)

    def subset(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> "SparseRows":
        """Some of the rows, sparse as they are."""
        return replace(self, rows=self._numbers(index))

    def __getitem__(
        self, index: int | slice | Tensor | np.ndarray | Sequence[int]
    ) -> Real[Tensor, "*n d"]:
        """A row `(d,)`, or some rows `(k, d)`.

        Raises:
            IndexError: If there are no such rows.
        """
        numbers = self._numbers(index)
        # NumPy has the types that torch has here, by name.
        dtype = np.dtype(str(self.dtype).removeprefix("torch."))
        dense = self.matrix[numbers.reshape(-1).numpy()].astype(dtype).toarray()
        return torch.from_numpy(dense).reshape(*numbers.shape, self.shape[1])

    def __iter__(self) -> Iterator[Real[Tensor, " d"]]:
        return (self[row] for row in range(len(self)))

    def split(self, size: int) -> Iterator[Real[Tensor, "k d"]]:
        """All rows in their order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    @cached_property
    def extent(self) -> Extent:
        """From where to where the values reach."""
        n, d = self.shape
        low, high, stored = np.iinfo(np.int64).max, 0, 0
        for part in self.parts():
            stored += part.nnz
            if part.nnz:
                low, high = min(low, int(part.data.min())), max(high, int(part.data.max()))
        return Extent(low if stored == n * d else 0, high, True)

    def mean(self) -> Float[Tensor, " d"]:
        """The mean of each element over all rows, in float64."""
        d = self.shape[1]
        total = np.zeros(d)
        for part in self.parts():
            total += np.bincount(part.indices, weights=part.data, minlength=d)
        return torch.from_numpy(total / len(self))

    def each_has_a_single_1(self) -> bool:
        """Whether each row is 0 everywhere but for a single 1, as labels that are one-hot."""
        return all(
            bool((np.diff(part.indptr) == 1).all() and (part.data == 1).all())
            for part in self.parts()
        )

    def _numbers(self, index: Any) -> Int[Tensor, "*n"]:
        if isinstance(index, int | slice):
            return self.rows[index]
        index = torch.as_tensor(index, device="cpu")
        # An empty list is one of floats.
        return self.rows[index if index.numel() else index.long()]

    def parts(self) -> "Iterator[sparse.csr_array]":
        """All rows in their order, still sparse, some at a time."""
        of_each = max(1, self.matrix.nnz // max(1, _shape(self.matrix)[0]))
        for numbers in self.rows.split(max(1, _ELEMENTS_AT_A_TIME // of_each)):
            yield self.matrix[numbers.numpy()]


def is_sparse(values: Any) -> bool:
    """Whether values are a sparse matrix or array of SciPy's, which is not imported for this."""
    return hasattr(values, "tocsr") and hasattr(values, "nnz")


def from_scipy(
    matrices: Sequence[Any], what: str, *, counts: bool = True
) -> list[SparseRows | np.ndarray]:
    """Sparse matrices of SciPy's in any format, as sparse rows or dense arrays, all of one type.

    They stay sparse if they hold whole numbers of 0 or more, of which less than 25 % are not 0, and
    one of them would take more than 64 MiB when dense. Matrices given are not changed; the column
    numbers of a CSR matrix in order are shared.

    Args:
        matrices: One matrix, or one for each split.
        what: What they are called in messages.
        counts: Whether they are counts, or binary; others are made dense.

    Raises:
        ValueError: If a matrix is damaged, not of numbers or not of two axes, or it is too large for the
            memory: when dense, or a batch of it.
    """
    ready = [_canonical(matrix, what) for matrix in matrices]
    stored = [as_tensor(matrix.data, what, copy=False) for matrix in ready]
    extents = [Extent.of(values) for values in stored if len(values)]
    extent = Extent.joined([Extent(0, 0, True), *extents])
    whole = extent.low >= 0 and extent.whole and extent.high <= np.iinfo(np.int64).max
    if not (counts and whole):
        return [_dense(matrix, matrix.dtype, what) for matrix in ready]
    types = (np.uint8, np.int16, np.int32, np.int64)
    dtype = next(dtype for dtype in types if extent.high <= np.iinfo(dtype).max)
    sizes = [math.prod(_shape(matrix)) for matrix in ready]
    share = sum(matrix.nnz for matrix in ready) / max(1, sum(sizes))
    if share >= MAXIMUM_SHARE or max(sizes) * np.dtype(dtype).itemsize <= MINIMUM_DENSE_BYTES:
        # uint8 would be taken for pictures.
        plain = np.promote_types(dtype, np.int16)
        return [_dense(matrix, plain, what) for matrix in ready]
    rows: list[SparseRows | np.ndarray] = []
    for matrix in ready:
        n, d = _shape(matrix)
        require_memory((min(n, _BATCH_ROWS), d), np.dtype(dtype).itemsize, f"a batch of {what}")
        narrow = _csr(matrix.data.astype(dtype, copy=False), matrix.indices, matrix.indptr, (n, d))
        # As plain integers are: the type that is kept is the data set's choice.
        rows.append(SparseRows(narrow, torch.arange(n), torch.int64))
    return rows


def _canonical(matrix: Any, what: str) -> "sparse.csr_array":
    """The matrix in CSR format, sorted, without duplicates or stored zeros; sharing what it can."""
    if len(matrix.shape) != 2:
        raise ValueError(f"{what} must be a matrix of rows, got a sparse array of {matrix.shape}.")
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{what} must hold whole numbers or floats, got the type {matrix.dtype}.")
    if matrix.format not in ("csr", "csc") and matrix.dtype.kind != "f":
        # These formats sum duplicates as they are converted, in their own type.
        matrix = matrix.astype(np.int64)
    try:
        # SciPy takes indices on trust, and would write wherever they point.
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
        matrix = matrix.tocsr()
        own = _csr(matrix.data, matrix.indices, matrix.indptr, matrix.shape)
        own.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{what} is a damaged sparse matrix ({error}).") from error
    if not own.has_canonical_format:
        own = _copy(own, own.dtype if own.dtype.kind == "f" else np.int64)
        own.sum_duplicates()
    if not own.data.all():
        own = _copy(own, own.dtype)
        own.eliminate_zeros()
    return own


def _copy(matrix: "sparse.csr_array", dtype: Any) -> "sparse.csr_array":
    arrays = (matrix.data.astype(dtype), matrix.indices.copy(), matrix.indptr.copy())
    return type(matrix)(arrays, shape=_shape(matrix), copy=False)


def _csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> "sparse.csr_array":
    """A CSR matrix of these arrays, not copied, with indices of 32 bits where they are enough."""
    from scipy import sparse

    short = max(*shape, len(indices)) <= np.iinfo(np.int32).max
    dtype = np.int32 if short else np.int64
    indices, indptr = indices.astype(dtype, copy=False), indptr.astype(dtype, copy=False)
    return sparse.csr_array((data, indices, indptr), shape=shape, copy=False)


def _shape(matrix: "sparse.csr_array") -> tuple[int, int]:
    # SciPy's annotation lets it be None.
    n, d = matrix.shape  # pyright: ignore[reportGeneralTypeIssues]
    return int(n), int(d)


def _dense(matrix: "sparse.csr_array", dtype: Any, what: str) -> np.ndarray:
    require_memory(_shape(matrix), np.dtype(dtype).itemsize, f"{what}, made dense,")
    return matrix.astype(dtype).toarray()
