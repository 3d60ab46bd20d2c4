"""Training data that stay on the disk."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.npy_file import NpyFile
from pyro_vae.data.values import Extent, as_tensor


@dataclass(frozen=True, eq=False)
class MemoryMapped:
    """Rows of a `.npy` file, all but those held out, which are read when they are asked for.

    It is as much of a tensor as a training split needs: a length, a shape, a type, and slices, each
    of which is a tensor newly read. Reading is safe from any thread.

    Args:
        file: The file.
        event_shape: The shape of a datum.
        held_out: The numbers in the file of the rows left out, ascending; `(k,)`, int64.
        dtype: The type in which rows are given.
        extent: From where to where its values reach, of whatever type.
    """

    file: NpyFile
    event_shape: tuple[int, ...]
    held_out: np.ndarray = field(repr=False)
    dtype: torch.dtype
    extent: Extent

    def __len__(self) -> int:
        return self.file.shape[0] - len(self.held_out)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that it has as a tensor, `(n, *event_shape)`."""
        return (len(self), *self.event_shape)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row in memory."""
        return math.prod(self.event_shape) * self.dtype.itemsize

    def to(self, dtype: torch.dtype) -> "MemoryMapped":
        """The same rows, given in another type."""
        return replace(self, dtype=dtype)

    def __getitem__(self, rows: slice | Tensor) -> Real[Tensor, " n *event"]:
        """Neighbouring rows, or rows by their numbers.

        Raises:
            ValueError: If the slice has a step.
            OSError: If the file cannot be read any more, or was changed.
        """
        if isinstance(rows, Tensor):
            return torch.cat([self[row : row + 1] for row in rows.tolist()] or [self[:0]])
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(
                f"memory-mapped rows are read one after another, got a step of {step}."
            )
        if stop <= start:
            return torch.empty((0, *self.event_shape), dtype=self.dtype)
        first, last = self.place(start), self.place(stop - 1)
        values = self.file.read(first, last + 1)
        low, high = np.searchsorted(self.held_out, [first, last])
        if low < high:
            values = np.delete(values, self.held_out[low:high] - first, axis=0)
        values = as_tensor(values, str(self.file.path), copy=False).numpy()
        # NumPy's, as torch would start a second set of threads for a reader's.
        numpy_type = torch.empty(0, dtype=self.dtype).numpy().dtype
        tensor = torch.from_numpy(values.astype(numpy_type, copy=False))
        return tensor.reshape(-1, *self.event_shape)

    def place(self, row: int) -> int:
        """The number in the file of a row."""
        # Before the j-th row held out lie held_out[j] - j others.
        before = self.held_out - np.arange(len(self.held_out))
        return row + int(np.searchsorted(before, row, side="right"))
