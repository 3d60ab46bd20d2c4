"""The user's own counts: a sparse matrix, as `scipy.sparse.save_npz` writes it."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.memory import require_memory
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.splits import row_words

if TYPE_CHECKING:
    from scipy import sparse

# What a file that SciPy wrote holds, whatever the matrix's format.
_SPARSE_ARRAYS = {"format.npy", "shape.npy", "data.npy"}


def count_file(path: str | Path, group: str | None = None, split: str | None = None) -> Dataset:
    """Counts from a sparse matrix, one row a datum, in a `.npz` file of SciPy's.

    The matrix is made dense in the narrowest type that holds it, and split as in
    `Dataset.from_array`. A matrix of 0 and 1 alone is binary data.

    Args:
        path: The file.
        group: A .npy, .csv or .txt file that holds a group for each row, such as a patient or site:
            all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.

    Raises:
        ValueError: If the file cannot be read, is not consistent, holds anything but whole numbers
            of 0 or more, or is too large for the memory when dense.
    """
    path = Path(path)
    rows = count_rows(path)
    with named(path):
        groups, splits = (
            None if each is None else row_words(each, len(rows)) for each in (group, split)
        )
        return Dataset.from_rows(replace(rows, groups=groups, splits=splits))


def count_rows(path: str | Path, group: str | None = None, split: str | None = None) -> Rows:
    """The rows of a sparse matrix of new counts, with the arguments of `count_file`.

    Groups and splits are not read.
    """
    path = Path(path)
    matrix = _read(path)
    if matrix.dtype.kind not in "buif":
        raise ValueError(f"{path}: counts must be whole numbers, got the type {matrix.dtype}.")
    values = matrix.data
    highest = values.max(initial=0)
    # NaN fails the comparison too.
    if not (
        np.isfinite(values).all() and (values >= 0).all() and (values == np.rint(values)).all()
    ):
        raise ValueError(
            f"{path}: counts must be whole numbers of 0 or more; give other data as a dense .npy file."
        )
    if highest > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: counts must fit in 64 bits, got {highest:g}.")
    types = (np.int16, np.int32, np.int64)
    dtype = next(dtype for dtype in types if highest <= np.iinfo(dtype).max)
    assert matrix.shape is not None
    require_memory(matrix.shape, np.dtype(dtype).itemsize, f"{path}: the dense matrix")
    return Rows(
        matrix.astype(dtype).toarray(),
        name=path.stem,
        support="binary" if highest <= 1 else "counts",
        source=path,
    )


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
            loaded = sparse.load_npz(file)
        # SciPy takes a file's indices on trust, and would write with them wherever they point.
        if hasattr(loaded, "check_format"):
            loaded.check_format(full_check=True)
        matrix = sparse.csr_array(loaded)
        matrix.sum_duplicates()
    # NumPy, SciPy, zipfile and zlib raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} must be a sparse matrix as scipy.sparse.save_npz writes it, but is damaged or "
            f"something else ({' '.join(str(error).split())})."
        ) from error
    return matrix
