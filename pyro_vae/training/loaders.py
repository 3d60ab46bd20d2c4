"""Loaders of training batches: from memory, from a sparse matrix or from disk.

A loader works in two steps. `fetch(step)` finds batch `step`; `gather` turns what it returns into
rows, in operations on tensors alone, which are traced and compiled with the step.
"""

import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from pyro_vae.data import PreparedData
from pyro_vae.data.memory_mapped import BlockOrder, MemoryMapped, Pool
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.splits import permutation


@dataclass(frozen=True)
class Share:
    """A process's part of a batch."""

    start: int  # Its first row in the batch.
    rows: int
    of: int  # The number of rows of the whole batch.
    weight: float  # The weight of its mean in the mean of the whole batch.


@dataclass(frozen=True)
class Batches:
    """How an epoch of `rows` is cut into batches, and a batch into parts for the processes."""

    rows: int
    batch_size: int
    rank: int = 0
    ranks: int = 1

    def place(self, step: int) -> tuple[int, int, int]:
        """The epoch of batch `step`, and the range of this process's rows in its order."""
        epoch, first, _ = self._batch(step)
        share = self.share(step)
        return epoch, first + share.start, first + share.start + share.rows

    def share(self, step: int) -> "Share":
        """This process's part of batch `step`."""
        _, _, size = self._batch(step)
        start, stop = (size * rank // self.ranks for rank in (self.rank, self.rank + 1))
        # In a batch with fewer rows than processes, a process without a row takes one with weight
        # 0.
        rows = max(stop - start, 1)
        return Share(min(start, size - 1), rows, size, (stop - start) / size)

    def _batch(self, step: int) -> tuple[int, int, int]:
        epoch, position = divmod(step, -(-self.rows // self.batch_size))
        first = position * self.batch_size
        return epoch, first, min(self.batch_size, self.rows - first)


class Loader(ABC):
    """Batches by their number, in any sequence: their order is a function of a seed. Abstract.

    Args:
        batches: How an epoch is cut.
        order_seed: Epoch e is in the order of the seed `order_seed` + e.
        device: The device of the batches.
        blocks: The order of rows that are read in blocks; None to shuffle all rows together.
    """

    def __init__(
        self,
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder | None,
    ) -> None:
        self.batches = batches
        self.order_seed = order_seed
        self.device = device
        self.blocks = blocks

    @property
    def order(self) -> str:
        """A description of the order; batches of two loaders are equal only if theirs are."""
        return "all rows shuffled together" if self.blocks is None else str(self.blocks)

    @abstractmethod
    def fetch(self, step: int) -> Tensor:
        """The indices of the rows of batch `step`, or the rows themselves, on the device."""

    def gather(self, fetched: Tensor) -> Shaped[Tensor, " batch *event"]:
        """The rows of a fetched batch, in the data set's type."""
        return fetched

    def indices(self, step: int) -> Int[Tensor, " batch"] | None:
        """The indices of the rows of batch `step`, on the device; None if rows have none."""
        return None

    @abstractmethod
    def fork(self, batches: Batches, order_seed: int) -> "Loader":
        """Another loader of the same rows, which are not copied, with its own order."""

    def close(self) -> None:  # noqa: B027
        """Stop background work. The loader can be used again."""


class InMemory(Loader):
    """Rows that are kept on the device, in the data set's type, and gathered there."""

    def __init__(
        self,
        train: Shaped[Tensor, " n *event"],
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder | None = None,
    ) -> None:
        super().__init__(batches, order_seed, device, blocks)
        self._train = train.to(device)
        self._epoch: tuple[int, Tensor] | None = None

    def fetch(self, step: int) -> Int[Tensor, " batch"]:
        epoch, start, stop = self.batches.place(step)
        seed = self.order_seed + epoch
        if self._epoch is None or self._epoch[0] != seed:
            order = (
                permutation(len(self._train), seed=seed)
                if self.blocks is None
                else self.blocks.epoch(seed)
            )
            self._epoch = seed, order.to(self.device)
        return self._epoch[1][start:stop]

    def gather(self, fetched: Int[Tensor, " batch"]) -> Shaped[Tensor, " batch *event"]:
        return self._train.index_select(0, fetched)

    def indices(self, step: int) -> Int[Tensor, " batch"]:
        return self.fetch(step)

    def fork(self, batches: Batches, order_seed: int) -> "InMemory":
        return InMemory(self._train, batches, order_seed, self.device, self.blocks)


class Sparse(Loader):
    """Rows that are made dense batch by batch on the CPU, in the order of `InMemory`."""

    def __init__(
        self,
        train: SparseRows,
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder | None = None,
    ) -> None:
        super().__init__(batches, order_seed, device, blocks)
        self._train = train
        indices = torch.arange(len(train))
        self._indices = InMemory(indices, batches, order_seed, torch.device("cpu"), blocks)

    def fetch(self, step: int) -> Shaped[Tensor, " batch *event"]:
        self._indices.order_seed = self.order_seed
        return self._train[self._indices.fetch(step)].to(self.device)

    def indices(self, step: int) -> Int[Tensor, " batch"]:
        self._indices.order_seed = self.order_seed
        return self._indices.fetch(step).to(self.device)

    def fork(self, batches: Batches, order_seed: int) -> "Sparse":
        return Sparse(self._train, batches, order_seed, self.device, self.blocks)


@dataclass(frozen=True)
class _Prefetch:
    """A pool of rows that is being read, or was read and not used yet."""

    key: tuple[int, int]  # The seed of its epoch, and its number there.
    content: Future[tuple[Tensor, Tensor]]  # Its rows, and their order.
    cancelled: threading.Event


class Streamed(Loader):
    """Rows on disk: a thread reads the next pool of blocks while the current one is used.

    Memory holds two pools, whatever the number of rows; on a GPU these are in its own memory. A
    batch takes rows from two pools where one ends. Consecutive batches wait for the disk only; any
    other batch waits until its pool is read.
    """

    blocks: BlockOrder

    def __init__(
        self,
        train: MemoryMapped,
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder,
    ) -> None:
        super().__init__(batches, order_seed, device, blocks)
        self._train = train
        # The pools of two epochs: an entry a pool, not a row.
        self._pools = lru_cache(maxsize=2)(blocks.pools)
        self._current: tuple[tuple[int, int], Tensor, Tensor] | None = None
        self._ahead: _Prefetch | None = None
        self._reader: ThreadPoolExecutor | None = None

    def fetch(self, step: int) -> Shaped[Tensor, " batch *event"]:
        """The rows of batch `step`.

        Raises:
            OSError: If the file was changed or cannot be read any more.
        """
        epoch, start, stop = self.batches.place(step)
        seed = self.order_seed + epoch
        pools = self._pools(seed)
        number = bisect_right(pools, start, key=lambda pool: pool.start) - 1
        parts = [self._rows_of(seed, number, start, stop)]
        while (start := start + len(parts[-1])) < stop:
            number += 1
            parts.append(self._rows_of(seed, number, start, stop))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def fork(self, batches: Batches, order_seed: int) -> "Streamed":
        """Another loader, with a reader and two pools of its own."""
        return Streamed(self._train, batches, order_seed, self.device, self.blocks)

    def close(self) -> None:
        """Stop the reader and free the pools."""
        if self._ahead is not None:
            self._ahead.cancelled.set()
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
        self._current = self._ahead = self._reader = None

    def _rows_of(self, seed: int, number: int, start: int, stop: int) -> Tensor:
        """The rows of a pool between the places `start` and `stop` of the epoch's order."""
        rows, order = self._pool((seed, number))
        first = self._pools(seed)[number].start
        return rows.index_select(0, order[start - first : stop - first])

    def _pool(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A pool's rows and their order; reading of the next one begins."""
        if self._current is None or self._current[0] != key:
            # Free the pool first, so that memory holds two and not three.
            self._current = None
            if self._ahead is None or self._ahead.key != key:
                self._ahead = self._prefetch(key)
            # It is kept until it is read, so that `close` can stop it after a KeyboardInterrupt.
            rows, order = self._ahead.content.result()
            if self.device.type == "cuda":
                # They were made on the reader's stream, and are used on this one.
                for tensor in (rows, order):
                    tensor.record_stream(torch.cuda.current_stream(self.device))
            self._current = key, rows, order
            seed, number = key
            last = number + 1 == len(self._pools(seed))
            self._ahead = self._prefetch((seed + 1, 0) if last else (seed, number + 1))
        return self._current[1:]

    def _prefetch(self, key: tuple[int, int]) -> _Prefetch:
        if self._ahead is not None:
            self._ahead.cancelled.set()
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="pyro_vae-reader")
        cancelled = threading.Event()
        pool = self._pools(key[0])[key[1]]
        return _Prefetch(key, self._reader.submit(self._read, pool, cancelled), cancelled)

    def _read(self, pool: Pool, cancelled: threading.Event) -> tuple[Tensor, Tensor]:
        """Read a pool to the device, block by block, in the reader's thread."""
        if self.device.type != "cuda":
            return self._copy(pool, cancelled), pool.shuffled().to(self.device)
        # On a separate stream, so that copies do not wait for the training step.
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            rows, order = self._copy(pool, cancelled), pool.shuffled().to(self.device)
        stream.synchronize()
        return rows, order

    def _copy(self, pool: Pool, cancelled: threading.Event) -> Tensor:
        shape = (pool.size, *self._train.event_shape)
        rows = torch.empty(shape, dtype=self._train.dtype, device=self.device)
        start = 0
        for block in pool.ranges():
            if cancelled.is_set():
                raise CancelledError
            read = self._train[block.start : block.stop]
            place = rows[start : start + len(read)]
            if self.device.type == "cuda":
                place.copy_(read.pin_memory(), non_blocking=True)
            else:
                # NumPy's copy, as torch would start a second pool of threads.
                np.copyto(place.numpy(), read.numpy())
            start += len(read)
        return rows


def make_loader(
    data: PreparedData, batches: Batches, order_seed: int, device: torch.device
) -> Loader:
    """The loader of a training split, wherever its rows are kept; see `Loader`."""
    blocks = data.dataset.blocks
    if isinstance(data.train, Tensor):
        return InMemory(data.train, batches, order_seed, device, blocks)
    if isinstance(data.train, SparseRows):
        return Sparse(data.train, batches, order_seed, device, blocks)
    assert blocks is not None
    return Streamed(data.train, batches, order_seed, device, blocks)
