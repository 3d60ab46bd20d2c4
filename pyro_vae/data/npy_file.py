"""A `.npy` file whose rows are read a few at a time."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class NpyFile:
    """Where the rows of a `.npy` lie, and what they are.

    Rows are read from the file, not through a long-lived map of it: the pages of a map count as the
    process's memory as long as the map is there.

    Args:
        path: The file.
        offset: The byte at which the first row begins.
        shape: The array's shape.
        dtype: The type of its elements, in the file's byte order.
        stamp: The file's length in bytes and when it was last written, so that a change is seen.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stamp: tuple[int, int] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "NpyFile":
        """Read the header of a file, and make sure that its rows are there.

        Raises:
            ValueError: If it is not a `.npy`, is cut short, holds pickles or is in Fortran order.
        """
        if not is_npy(path):
            raise ValueError(
                f"{path} must be a .npy file to be memory-mapped: write its one array with numpy.save."
            )
        try:
            # Knows every version of the header. The map goes at once.
            array = np.lib.format.open_memmap(path, mode="r")
            offset, shape, dtype, rows_first = (
                int(array.offset),
                array.shape,
                array.dtype,
                array.flags.c_contiguous,
            )
            del array
            status = path.stat()
            if status.st_size < offset + math.prod(shape) * dtype.itemsize:
                raise ValueError("the file is shorter than its header says")
        # NumPy raises a dozen types for damaged headers.
        except Exception as error:
            raise ValueError(
                f"{path} must be a .npy file that NumPy reads without pickles, but is damaged or "
                f"something else ({error})."
            ) from error
        if not rows_first:
            raise ValueError(
                f"{path} is in Fortran order, its first elements before its second ones, and cannot be "
                "read row by row: save it again with numpy.ascontiguousarray."
            )
        return cls(path, offset, shape, dtype, (status.st_size, status.st_mtime_ns))

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, first: int, stop: int) -> np.ndarray:
        """The rows `first`, ..., `stop - 1`, in memory of their own.

        Raises:
            OSError: If the file cannot be read any more, or was changed since it was opened.
        """
        try:
            status = os.stat(self.path)
            count = (stop - first) * math.prod(self.shape[1:])
            start = self.offset + first * self.row_bytes
            values = np.fromfile(self.path, self.dtype, count, offset=start)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{self.path} cannot be read any more: {reason}.") from error
        if (status.st_size, status.st_mtime_ns) != self.stamp or len(values) < count:
            raise OSError(f"{self.path} was changed since it was opened: go on with the old file.")
        return values.reshape(stop - first, *self.shape[1:])


def is_npy(path: Path) -> bool:
    """Whether a file begins as a `.npy` does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
