"""The orders in which training goes through the rows of a data set, each a function of a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

# What a disk reads in one go, and what is shuffled together. A reader holds two pools: the one that
# batches are taken from, and the next.
BLOCK_BYTES = 2**20
POOL_BYTES = 2**27


def permutation(n: int, *, seed: int) -> Int[Tensor, " n"]:
    """The numbers 0, ..., n - 1 in an order that depends on the seed alone."""
    return torch.randperm(n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


@dataclass(frozen=True)
class Pool:
    """Blocks of rows that are read together, and shuffled together.

    Args:
        start: The place of its first row in the order of the epoch.
        size: The number of its rows.
        blocks: The numbers of its blocks.
        seed: The seed of the order of its rows.
        order: The order that it is a part of.
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
        """The places of its rows among those read, in the order of training."""
        return permutation(self.size, seed=self.seed)

    def rows(self) -> Int[Tensor, " size"]:
        """The numbers of its rows, in the order of training."""
        rows = [torch.arange(r.start, r.stop, device="cpu") for r in self.ranges()]
        return torch.cat(rows)[self.shuffled()]


@dataclass(frozen=True)
class BlockOrder:
    """Blocks of neighbouring rows in random order, the rows of several blocks shuffled together.

    A disk reads this well, and of an epoch a pool and no more is held. With one pool it is a shuffle
    of all rows.

    >>> BlockOrder(rows=7, block_rows=2, pool_blocks=2).epoch(seed=0)
    tensor([3, 2, 0, 1, 4, 6, 5])

    Args:
        rows: The number of rows.
        block_rows: The rows of a block; the last one may have fewer.
        pool_blocks: The blocks of a pool; an epoch's last one may have fewer.

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
    def fitting(cls, rows: int, row_bytes: int) -> "BlockOrder":
        """Blocks of `BLOCK_BYTES` in pools of `POOL_BYTES`, or of one row if that is longer.

        Args:
            rows: The number of rows.
            row_bytes: The bytes of a row.
        """
        block_rows = max(1, BLOCK_BYTES // row_bytes)
        return cls(rows, block_rows, max(1, POOL_BYTES // (block_rows * row_bytes)))

    def pools(self, seed: int) -> list[Pool]:
        """The pools of an epoch in their order.

        Args:
            seed: Another one gives another order, of blocks and of the rows in each pool.
        """
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
        """The numbers of all rows in the order of an epoch."""
        return torch.cat([pool.rows() for pool in self.pools(seed)])

    def __str__(self) -> str:
        return f"blocks of {self.block_rows} rows, {self.pool_blocks} shuffled together"
