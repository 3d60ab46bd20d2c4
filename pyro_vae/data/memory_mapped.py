"""Arrays on disk: `.npy` files read row by row, and the block order of training."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Real
from torch import Tensor

from pyro_vae.data.layout import are_labels, labels_error
from pyro_vae.data.splits import SPLIT_SEED, permutation
from pyro_vae.data.validation import ValueRange, as_tensor
from pyro_vae.notebooks import progress_bar

_MAGIC = b"\x93NUMPY"

# While a file is split, memory holds two or three copies of it.
_IN_MEMORY_SHARE = 0.25

# A block is what a disk reads in one go; the blocks of a pool are shuffled together. A reader
# holds two pools: the one that batches are taken from, and the next.
BLOCK_BYTES = 2**20
POOL_BYTES = 2**27

# Largest size of the validation and of the test split; otherwise a tenth and a fifth of the rows.
HELD_OUT_ROWS = 10_000
HELD_OUT_BYTES = 2**27

# Bytes checked at a time, and size of the files that get a progress bar.
_CHECK_BYTES = 2**22
_BAR_BYTES = 2**32


def fits_in_memory(num_bytes: int) -> bool:
    """Whether a file of this size is small enough to be read as a whole."""
    return num_bytes <= _IN_MEMORY_SHARE * _memory_bytes()


def require_memory(shape: Sequence[int], itemsize: int, what: str) -> None:
    """Raise unless an array and the copy made by splitting it fit into memory.

    Raises:
        ValueError: If they need more than this machine has; the message gives both numbers.
    """
    needed = 2 * math.prod(shape) * itemsize
    if needed > (available := _memory_bytes()):
        raise ValueError(
            f"{what} would be an array of shape {tuple(shape)}, which takes {needed / 2**30:,.1f} "
            f"GiB while it is split; this machine has {available / 2**30:,.1f} GiB. Keep fewer "
            "rows or columns."
        )


def _memory_bytes() -> float:
    """This machine's memory in bytes; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def is_npy(path: Path) -> bool:
    """Whether a file begins like a `.npy` file."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@dataclass(frozen=True)
class NpyFile:
    """The position and type of the rows of a `.npy` file.

    Rows are read from the file and not through a long-lived memory map, whose pages would count as
    the process's memory.

    Args:
        path: The file.
        offset: The byte at which the first row begins.
        shape: The array's shape.
        dtype: The dtype of its elements, in the file's byte order.
        stamp: The file's length in bytes and modification time, used to detect changes.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stamp: tuple[int, int] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> "NpyFile":
        """Read a file's header and check that its rows are there.

        Raises:
            ValueError: If it is not a `.npy`, is cut short, holds pickles or is in Fortran order.
        """
        if not is_npy(path):
            raise ValueError(
                f"{path} must be a .npy file to be memory-mapped: write its array with numpy.save."
            )
        try:
            # This reads every version of the header. The map itself is dropped.
            array = np.lib.format.open_memmap(path, mode="r")
            offset, shape, dtype = int(array.offset), array.shape, array.dtype
            rows_first = array.flags.c_contiguous
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
                f"{path} is in Fortran order and cannot be read row by row: save it again with "
                "numpy.ascontiguousarray."
            )
        return cls(path, offset, shape, dtype, (status.st_size, status.st_mtime_ns))

    @property
    def row_bytes(self) -> int:
        """The size of a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read the rows `start`, ..., `stop - 1`.

        Raises:
            OSError: If the file can no longer be read, or was changed since it was opened.
        """
        try:
            status = os.stat(self.path)
            count = (stop - start) * math.prod(self.shape[1:])
            offset = self.offset + start * self.row_bytes
            values = np.fromfile(self.path, self.dtype, count, offset=offset)
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"{self.path} cannot be read any more: {reason}.") from error
        if (status.st_size, status.st_mtime_ns) != self.stamp or len(values) < count:
            raise OSError(f"{self.path} was changed since it was opened: restore the old file.")
        return values.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True, eq=False)
class MemoryMapped:
    """The rows of a `.npy` file without the held-out ones, read on demand.

    It behaves like a tensor as far as a training split needs: it has a length, a shape and a
    dtype, and each slice is a newly read tensor. Reading is thread-safe.

    Args:
        file: The file.
        event_shape: The event shape.
        dtype: The dtype of the rows that are returned.
        held_out: The indices in the file of the rows left out, ascending; `(k,)`, int64.
        known_range: The range of the values; None to read all of them when it is needed.
    """

    file: NpyFile
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    known_range: ValueRange | None = None

    def __len__(self) -> int:
        return self.file.shape[0] - len(self.held_out)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as a tensor, `(n, *event_shape)`."""
        return (len(self), *self.event_shape)

    @property
    def row_bytes(self) -> int:
        """The size of a row in memory."""
        return math.prod(self.event_shape) * self.dtype.itemsize

    @cached_property
    def value_range(self) -> ValueRange:
        """The range of the values."""
        if self.known_range is not None:
            return self.known_range
        step = max(1, _CHECK_BYTES // self.file.row_bytes)
        blocks = (self[start : start + step] for start in range(0, len(self), step))
        return ValueRange.union(ValueRange.from_values(block) for block in blocks)

    def to(self, dtype: torch.dtype) -> "MemoryMapped":
        """The same rows in another dtype."""
        return replace(self, dtype=dtype)

    def __getitem__(self, rows: slice | Tensor) -> Real[Tensor, " n *event"]:
        """Read a slice of rows, or rows by index.

        Raises:
            ValueError: If the slice has a step.
            OSError: If the file can no longer be read, or was changed.
        """
        if isinstance(rows, Tensor):
            return torch.cat([self[row : row + 1] for row in rows.tolist()] or [self[:0]])
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"slices of memory-mapped rows must have step 1, got {step}.")
        if stop <= start:
            return torch.empty((0, *self.event_shape), dtype=self.dtype)
        first, last = self.file_index(start), self.file_index(stop - 1)
        values = self.file.read(first, last + 1)
        low, high = np.searchsorted(self.held_out, [first, last])
        if low < high:
            values = np.delete(values, self.held_out[low:high] - first, axis=0)
        values = as_tensor(values, str(self.file.path), copy=False).numpy()
        # NumPy converts, as torch would start a second set of threads for a reading thread.
        numpy_type = torch.empty(0, dtype=self.dtype).numpy().dtype
        tensor = torch.from_numpy(values.astype(numpy_type, copy=False))
        return tensor.reshape(-1, *self.event_shape)

    def file_index(self, row: int) -> int:
        """The index of a row in the file."""
        # Before the j-th held-out row there are held_out[j] - j others.
        before = self.held_out - np.arange(len(self.held_out))
        return row + int(np.searchsorted(before, row, side="right"))

    def hold_out(self) -> tuple[dict[str, "Tensor | MemoryMapped"], dict[str, Tensor]]:
        """Split off validation and test rows in one pass that also finds the range of the rest.

        Returns:
            The splits, of which training stays on disk, and the rows of validation and test.

        Raises:
            ValueError: If there are fewer than 10 rows, or they look like labels.
            OSError: If the file is changed or removed while it is read.
        """
        name, n, row_bytes = self.file.path.stem, len(self), self.file.row_bytes
        if n < 10:
            raise ValueError(f"{name} must have at least 10 rows to be split, got {n}.")
        rows = held_out_rows(n, row_bytes)
        held_out = np.sort(np.concatenate([*rows.values()]))
        # Allocated first: small pieces between the blocks would fragment memory.
        splits: dict[str, Tensor | MemoryMapped] = {
            split: torch.empty((len(index), *self.event_shape), dtype=self.dtype)
            for split, index in rows.items()
        }
        value_range: ValueRange | None = None
        labels = len(self.file.shape) == 2
        step, size = max(1, _CHECK_BYTES // row_bytes), n * row_bytes
        with progress_bar(
            size >= _BAR_BYTES,
            total=size,
            unit="B",
            unit_scale=True,
            desc=f"checking {self.file.path}",
        ) as bar:
            for start in range(0, n, step):
                values = self[start : start + step]
                stop = start + len(values)
                labels = labels and are_labels(values)
                for split, index in rows.items():
                    here = slice(*np.searchsorted(index, [start, stop]))
                    splits[split][here] = values[torch.from_numpy(index[here] - start)]  # pyright: ignore[reportIndexIssue]
                train = torch.ones(len(values), dtype=torch.bool)
                here = slice(*np.searchsorted(held_out, [start, stop]))
                train[torch.from_numpy(held_out[here] - start)] = False
                if train.any():
                    block = ValueRange.from_values(values[train])
                    value_range = ValueRange.union([value_range or block, block])
                bar.update(len(values) * row_bytes)
        if labels:
            raise labels_error(self.file.shape, name)
        splits["train"] = replace(self, held_out=held_out, known_range=value_range)
        return splits, {split: torch.from_numpy(index) for split, index in rows.items()}


def held_out_rows(n: int, row_bytes: int) -> dict[str, np.ndarray]:
    """The indices, ascending, of the validation and test rows of a file.

    The file is divided into stretches; one row is drawn from each with a fixed seed and assigned
    to one of the two splits, so that both are spread over the file in any order of its rows.

    Args:
        n: Number of rows in the file, at least 10.
        row_bytes: The size of a row.
    """
    most = max(1, min(HELD_OUT_ROWS, HELD_OUT_BYTES // row_bytes))
    n_validation, n_test = min(most, n // 10), min(most, n // 5)
    k = n_validation + n_test
    edges = np.arange(k + 1) * n // k
    generator = torch.Generator("cpu").manual_seed(SPLIT_SEED)
    uniform = torch.rand(k, generator=generator, dtype=torch.float64, device="cpu").numpy()
    drawn = edges[:-1] + (uniform * np.diff(edges)).astype(np.int64)
    which = permutation(k, seed=SPLIT_SEED).numpy()
    return {
        "validation": np.sort(drawn[which[:n_validation]]),
        "test": np.sort(drawn[which[n_validation:]]),
    }


@dataclass(frozen=True)
class Pool:
    """Blocks of rows that are read and shuffled together.

    Args:
        start: The position of its first row in the epoch.
        size: Number of its rows.
        blocks: The indices of its blocks.
        seed: The seed of the order of its rows.
        order: The block order that it is part of.
    """

    start: int
    size: int
    blocks: Int[Tensor, " blocks"]
    seed: int
    order: "BlockOrder"

    def ranges(self) -> Iterator[range]:
        """The rows of each block, in the order in which they are read."""
        for block in self.blocks.tolist():
            first = block * self.order.block_rows
            yield range(first, min(first + self.order.block_rows, self.order.rows))

    def shuffled(self) -> Int[Tensor, " size"]:
        """The order of training, as positions among the rows read."""
        return permutation(self.size, seed=self.seed)

    def rows(self) -> Int[Tensor, " size"]:
        """The indices of its rows, in the order of training."""
        rows = [torch.arange(r.start, r.stop, device="cpu") for r in self.ranges()]
        return torch.cat(rows)[self.shuffled()]


@dataclass(frozen=True)
class BlockOrder:
    """A shuffle for disks: blocks of rows in random order, shuffled within pools of blocks.

    Only one pool is held in memory at a time. With one pool it is a shuffle of all rows.

    >>> BlockOrder(rows=7, block_rows=2, pool_blocks=2).epoch(seed=0)
    tensor([3, 2, 0, 1, 4, 6, 5])

    Args:
        rows: Number of rows.
        block_rows: Number of rows in a block; the last one may have fewer.
        pool_blocks: Number of blocks in a pool; the last one of an epoch may have fewer.

    Raises:
        ValueError: If one of them is below 1.
    """

    rows: int
    block_rows: int
    pool_blocks: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    @classmethod
    def for_row_bytes(cls, rows: int, row_bytes: int) -> "BlockOrder":
        """Blocks of `BLOCK_BYTES`, or of one row if that is longer, in pools of `POOL_BYTES`."""
        block_rows = max(1, BLOCK_BYTES // row_bytes)
        return cls(rows, block_rows, max(1, POOL_BYTES // (block_rows * row_bytes)))

    def pools(self, seed: int) -> list[Pool]:
        """The pools of an epoch in order; the seed determines it."""
        generator = torch.Generator("cpu").manual_seed(seed)
        n_blocks = -(-self.rows // self.block_rows)
        blocks = torch.randperm(n_blocks, generator=generator, device="cpu")
        parts = blocks.split(self.pool_blocks)
        seeds = torch.randint(2**62, (len(parts),), generator=generator, device="cpu").tolist()
        missing = n_blocks * self.block_rows - self.rows
        starts = [0]
        for part in parts:
            last = missing if n_blocks - 1 in part else 0
            starts.append(starts[-1] + len(part) * self.block_rows - last)
        return [
            Pool(start, stop - start, part, pool_seed, self)
            for (start, stop), part, pool_seed in zip(pairwise(starts), parts, seeds, strict=True)
        ]

    def epoch(self, seed: int) -> Int[Tensor, " rows"]:
        """The indices of all rows in the order of an epoch."""
        return torch.cat([pool.rows() for pool in self.pools(seed)])

    def __str__(self) -> str:
        return f"blocks of {self.block_rows} rows, {self.pool_blocks} shuffled together"
