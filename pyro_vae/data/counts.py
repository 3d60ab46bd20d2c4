"""The user's own counts: a sparse matrix, as `scipy.sparse.save_npz` writes it."""

import math
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.reader_helpers import beside
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.values import Extent, Support, as_tensor

if TYPE_CHECKING:
    from scipy import sparse

# What a file that SciPy wrote holds, whatever the matrix's format.
_SPARSE_ARRAYS = {"format.npy", "shape.npy", "data.npy"}
# Files are read so many values at a time.
_VALUES_AT_A_TIME = 2**22


def count_file(
    path: str | Path,
    support: Support | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Counts from a sparse matrix, one row a datum, in a `.npz` file of SciPy's.

    A large matrix stays sparse, and its rows are made dense batch by batch; see `SparseRows`. It is
    split as in `Dataset.from_array`.

    Args:
        path: The file.
        support: "counts" for counts among which there is no 2; a matrix of 0 and 1 alone is binary
            otherwise. "real" for values that are not counts, which are made dense.
        group: A .npy, .csv or .txt file that holds a group for each row, such as a patient or site:
            all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.

    Raises:
        ValueError: If the file cannot be read, is not consistent, holds anything but whole numbers
            of 0 or more without being "real", or is too large for the memory.
    """
    path = Path(path)
    rows = count_rows(path, support)
    with named(path):
        return Dataset.from_rows(beside(rows, group, split))


def count_rows(
    path: str | Path,
    support: Support | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Rows:
    """The rows of a sparse matrix of new counts, with the arguments of `count_file`.

    Groups and splits are not read.
    """
    path = Path(path)
    matrix = _read(path)
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{path}: counts must be whole numbers, got the type {matrix.dtype}.")
    values = as_tensor(matrix.data, path.stem, copy=False)
    extent = Extent.joined([Extent(0, 0, True), *([Extent.of(values)] if len(values) else [])])
    if support in (None, "binary", "counts"):
        # NaN has no order, and an infinite one no fraction.
        if not (extent.low >= 0 and extent.whole and extent.high < math.inf):
            raise ValueError(
                f"{path}: counts must be whole numbers of 0 or more; say so if they are real "
                "(--data.support real), which makes them dense."
            )
        if extent.high > np.iinfo(np.int64).max:
            raise ValueError(f"{path}: counts must fit in 64 bits, got {extent.high:g}.")
    if support is None:
        support = "binary" if extent.high <= 1 else "counts"
    return Rows(matrix, name=path.stem, support=support, source=path)


def is_sparse(path: str | Path) -> bool:
    """Whether a file is a `.npz` of SciPy's, by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as file:
            return set(file.namelist()) >= _SPARSE_ARRAYS
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _read(path: Path) -> "sparse.csr_array":
    """The matrix, with equal places summed."""
    from scipy import sparse

    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a .npz file, but there is no such file.")
    try:
        # Opened here, because NumPy leaves a file that it finds damaged open.
        with path.open("rb") as file:
            return _loaded(file, sparse)
    # NumPy, SciPy, zipfile and zlib raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} must be a sparse matrix as scipy.sparse.save_npz writes it, but is damaged or "
            f"something else ({' '.join(str(error).split())})."
        ) from error


def _loaded(file: Any, sparse: Any) -> "sparse.csr_array":
    """What `scipy.sparse.load_npz` gives, with one narrow copy of each array in memory."""
    with np.load(file, allow_pickle=False) as arrays:
        form = arrays["format"].item()
        form = form if isinstance(form, str) else form.decode("ascii")
        if form in ("csr", "csc"):
            n, d = map(int, arrays["shape"])
            parts = tuple(_narrow(arrays, name) for name in ("data", "indices", "indptr"))
            loaded = {"csr": sparse.csr_array, "csc": sparse.csc_array}[form](parts, shape=(n, d))
        else:
            file.seek(0)
            loaded = sparse.load_npz(file)
    if form not in ("csr", "csc", "dia") and loaded.dtype.kind in "bui":
        # Equal places are summed as it is converted, in its own type.
        loaded = loaded.astype(np.int64)
    # SciPy takes a file's indices on trust, and would write with them wherever they point.
    if hasattr(loaded, "check_format"):
        loaded.check_format(full_check=True)
    matrix = sparse.csr_array(loaded)
    if not matrix.has_canonical_format:
        if matrix.dtype.kind in "bui":
            matrix = matrix.astype(np.int64)
        matrix.sum_duplicates()
    return matrix


def _narrow(arrays: Any, name: str) -> np.ndarray:
    """A vector of a `.npz`, read some at a time; whole numbers of 0 or more in a narrow type."""
    with arrays.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            return arrays[name]
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        (size,) = shape
        values = np.empty(0, np.uint8)
        for start in range(0, size, _VALUES_AT_A_TIME):
            stop = min(start + _VALUES_AT_A_TIME, size)
            part = np.frombuffer(file.read((stop - start) * dtype.itemsize), dtype)
            part = part.astype(_narrow_type(part), copy=False)
            if start == 0 or part.dtype != values.dtype:
                wider = np.empty(size, np.result_type(part, *([values] if start else [])))
                wider[:start] = values[:start]
                values = wider
            values[start:stop] = part
    return values


def _narrow_type(part: np.ndarray) -> np.dtype:
    """uint8 or int32 where they hold all values, else the type that they have."""
    if part.dtype.kind == "b":
        return np.dtype(np.uint8)
    if part.dtype.kind in "uif" and len(part):
        low, high = part.min(), part.max()
        for dtype in (np.uint8, np.int32):
            if (
                low >= 0
                and high <= np.iinfo(dtype).max
                and (part.dtype.kind != "f" or (part == np.rint(part)).all())
            ):
                return np.dtype(dtype)
    return part.dtype.newbyteorder("=")
