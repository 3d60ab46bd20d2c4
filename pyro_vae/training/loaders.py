"""What hands the training loop its batches, from memory, from a sparse matrix or from the disk.

A feed works in two steps. `argument(step)` says which rows batch `step` has; `rows(argument)` makes
them a batch, in operations on tensors alone, so that it can be traced and compiled with the step.
"""

import threading
from bisect import bisect_right
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

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
    """A process's part of a batch.

    Args:
        start: Its first row in the batch.
        rows: How many rows it has.
        of: The rows of the whole batch.
        weight: What its mean counts in the mean of the whole.
    """

    start: int
    rows: int
    of: int
    weight: float


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut into batches, and a batch among processes.

    Args:
        rows: The number of rows of an epoch.
        batch_size: The rows of a batch; an epoch's last one may have fewer.
        rank: Which of the processes this is.
        ranks: The number of processes. Each takes its stretch of every batch.
    """

    rows: int
    batch_size: int
    rank: int = 0
    ranks: int = 1

    def place(self, step: int) -> tuple[int, int, int]:
        """The epoch of batch `step`, and from where to where in its order this process's rows lie."""
        epoch, first, _ = self._batch(step)
        share = self.share(step)
        return epoch, first + share.start, first + share.start + share.rows

    def share(self, step: int) -> "Share":
        """This process's part of batch `step`."""
        _, _, size = self._batch(step)
        start, stop = (size * rank // self.ranks for rank in (self.rank, self.rank + 1))
        # A batch of fewer rows than processes: who has none looks at one that does not count.
        rows = max(stop - start, 1)
        return Share(min(start, size - 1), rows, size, (stop - start) / size)

    def _batch(self, step: int) -> tuple[int, int, int]:
        epoch, position = divmod(step, -(-self.rows // self.batch_size))
        first = position * self.batch_size
        return epoch, first, min(self.batch_size, self.rows - first)


class Feed(Protocol):
    """Batches by their number, whichever is asked for: the order is a function of a seed."""

    order_seed: int

    @property
    def order(self) -> str:
        """The kind of order, in words: batches are the same only where it is."""
        ...

    def argument(self, step: int) -> Tensor:
        """What `rows` needs for batch `step`, on the device."""
        ...

    def rows(self, argument: Tensor) -> Shaped[Tensor, " batch *event"]:
        """The raw batch, in the type the set is kept in."""
        ...

    def beside(self, batches: Batches, order_seed: int) -> "Feed":
        """A feed of the same rows, held once, with an order and a place in it of its own."""
        ...

    def close(self) -> None:
        """End what goes on in the background. The feed can be used again."""
        ...


class InMemory:
    """Rows that lie on the device, in the type the set is kept in, and are gathered there.

    Args:
        train: The rows.
        batches: How an epoch is cut.
        order_seed: Epoch e is shuffled with the seed `order_seed` + e.
        device: Where to.
        blocks: The order in which the same rows would be read from the disk, instead of a shuffle of
            all.
    """

    def __init__(
        self,
        train: Shaped[Tensor, " n *event"],
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder | None = None,
    ) -> None:
        self.batches = batches
        self.order_seed = order_seed
        self.device = device
        self.blocks = blocks
        self._train = train.to(device)
        self._epoch: tuple[int, Tensor] | None = None

    @property
    def order(self) -> str:
        return _in_words(self.blocks)

    def argument(self, step: int) -> Int[Tensor, " batch"]:
        """The numbers of the rows of batch `step`."""
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

    def rows(self, argument: Int[Tensor, " batch"]) -> Shaped[Tensor, " batch *event"]:
        return self._train.index_select(0, argument)

    def beside(self, batches: Batches, order_seed: int) -> "InMemory":
        return InMemory(self._train, batches, order_seed, self.device, self.blocks)

    def close(self) -> None:
        pass


class Sparse:
    """Rows that are made dense batch by batch on the CPU, in the order of `InMemory`.

    Args:
        train: The rows.
        batches: How an epoch is cut.
        order_seed: Epoch e is shuffled with the seed `order_seed` + e.
        device: Where batches go.
        blocks: As of `InMemory`.
    """

    def __init__(
        self,
        train: SparseRows,
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder | None = None,
    ) -> None:
        self.batches = batches
        self.device = device
        self.blocks = blocks
        self._train = train
        # Numbers of rows, fed as rows are.
        numbers = torch.arange(len(train))
        self._numbers = InMemory(numbers, batches, order_seed, torch.device("cpu"), blocks)

    @property
    def order_seed(self) -> int:
        return self._numbers.order_seed

    @order_seed.setter
    def order_seed(self, seed: int) -> None:
        self._numbers.order_seed = seed

    @property
    def order(self) -> str:
        return self._numbers.order

    def argument(self, step: int) -> Shaped[Tensor, " batch *event"]:
        """The batch itself."""
        return self._train[self._numbers.argument(step)].to(self.device)

    def rows(self, argument: Shaped[Tensor, " batch *event"]) -> Shaped[Tensor, " batch *event"]:
        return argument

    def beside(self, batches: Batches, order_seed: int) -> "Sparse":
        return Sparse(self._train, batches, order_seed, self.device, self.blocks)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Ahead:
    """A pool that is being read, or was read and not yet taken."""

    key: tuple[int, int]  # The seed of its epoch, and its number there.
    content: Future[tuple[Tensor, Tensor]]  # Its rows, and the order to take them in.
    stopped: threading.Event  # Set when nobody will take it.


class Streamed:
    """Rows that stay on the disk: a thread reads the next pool of blocks while one is trained on.

    Memory holds two pools, whatever the number of rows; on a GPU its own memory does. A batch takes
    from two pools where one ends. Batches in their order never wait for more than the disk; for
    any other one its pool is read first.

    Args:
        train: The rows.
        batches: How an epoch is cut.
        order_seed: Epoch e has the order of the seed `order_seed` + e.
        device: Where batches go.
        blocks: The order of blocks and rows.
    """

    def __init__(
        self,
        train: MemoryMapped,
        batches: Batches,
        order_seed: int,
        device: torch.device,
        blocks: BlockOrder,
    ) -> None:
        self.batches = batches
        self.order_seed = order_seed
        self.device = device
        self.blocks = blocks
        self._train = train
        # This epoch's and the next one's: an entry a pool, not a row.
        self._pools = lru_cache(maxsize=2)(blocks.pools)
        self._current: tuple[tuple[int, int], Tensor, Tensor] | None = None
        self._ahead: _Ahead | None = None
        self._reader: ThreadPoolExecutor | None = None

    @property
    def order(self) -> str:
        return _in_words(self.blocks)

    def argument(self, step: int) -> Shaped[Tensor, " batch *event"]:
        """The batch itself.

        Raises:
            OSError: If the file cannot be read any more, or was changed.
        """
        epoch, start, stop = self.batches.place(step)
        seed = self.order_seed + epoch
        pools = self._pools(seed)
        number = bisect_right(pools, start, key=lambda pool: pool.start) - 1
        parts = [self._gathered(seed, number, start, stop)]
        while (start := start + len(parts[-1])) < stop:
            number += 1
            parts.append(self._gathered(seed, number, start, stop))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, argument: Shaped[Tensor, " batch *event"]) -> Shaped[Tensor, " batch *event"]:
        return argument

    def beside(self, batches: Batches, order_seed: int) -> "Streamed":
        """With a reader and two pools of its own."""
        return Streamed(self._train, batches, order_seed, self.device, self.blocks)

    def close(self) -> None:
        """End the reader and let go of what it read."""
        if self._ahead is not None:
            self._ahead.stopped.set()
        if self._reader is not None:
            self._reader.shutdown(cancel_futures=True)
        self._current = self._ahead = self._reader = None

    def _gathered(self, seed: int, number: int, start: int, stop: int) -> Tensor:
        """What a pool holds of the rows from `start` to `stop` in the order of the epoch."""
        rows, order = self._taken((seed, number))
        first = self._pools(seed)[number].start
        return rows.index_select(0, order[start - first : stop - first])

    def _taken(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A pool's rows and their order. From then on the one after it is read."""
        if self._current is None or self._current[0] != key:
            # Two pools are in memory, not three.
            self._current = None
            if self._ahead is None or self._ahead.key != key:
                self._ahead = self._started(key)
            # It stays there until it is read, so that `close` can stop it after a KeyboardInterrupt.
            rows, order = self._ahead.content.result()
            if self.device.type == "cuda":
                # They were made on the reader's stream, and are used on this one until they go.
                for tensor in (rows, order):
                    tensor.record_stream(torch.cuda.current_stream(self.device))
            self._current = key, rows, order
            seed, number = key
            last = number + 1 == len(self._pools(seed))
            self._ahead = self._started((seed + 1, 0) if last else (seed, number + 1))
        return self._current[1:]

    def _started(self, key: tuple[int, int]) -> _Ahead:
        if self._ahead is not None:
            self._ahead.stopped.set()
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="pyro_vae-reader")
        stopped = threading.Event()
        pool = self._pools(key[0])[key[1]]
        return _Ahead(key, self._reader.submit(self._read, pool, stopped), stopped)

    def _read(self, pool: Pool, stopped: threading.Event) -> tuple[Tensor, Tensor]:
        """A pool on the device, read block by block. This runs in the reader's thread."""
        if self.device.type != "cuda":
            return self._copied(pool, stopped), pool.shuffled().to(self.device)
        # Of its own, so that copies do not wait for the training that is under way.
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            rows, order = self._copied(pool, stopped), pool.shuffled().to(self.device)
        stream.synchronize()
        return rows, order

    def _copied(self, pool: Pool, stopped: threading.Event) -> Tensor:
        shape = (pool.size, *self._train.event_shape)
        rows = torch.empty(shape, dtype=self._train.dtype, device=self.device)
        start = 0
        for block in pool.ranges():
            if stopped.is_set():
                raise CancelledError
            read = self._train[block.start : block.stop]
            place = rows[start : start + len(read)]
            if self.device.type == "cuda":
                place.copy_(read.pin_memory(), non_blocking=True)
            else:
                # NumPy's copy, as torch would start a second set of threads for this one's.
                np.copyto(place.numpy(), read.numpy())
            start += len(read)
        return rows


def feed(
    data: PreparedData, batches: Batches, order_seed: int, device: torch.device
) -> InMemory | Sparse | Streamed:
    """What hands out the batches of a training split, wherever it lies.

    Args:
        data: The data.
        batches: How an epoch is cut.
        order_seed: The order of epoch e is that of the seed `order_seed` + e.
        device: Where batches go.
    """
    blocks = data.dataset.blocks
    if isinstance(data.train, Tensor):
        return InMemory(data.train, batches, order_seed, device, blocks)
    if isinstance(data.train, SparseRows):
        return Sparse(data.train, batches, order_seed, device, blocks)
    assert blocks is not None
    return Streamed(data.train, batches, order_seed, device, blocks)


def _in_words(blocks: BlockOrder | None) -> str:
    return "all rows shuffled together" if blocks is None else str(blocks)
