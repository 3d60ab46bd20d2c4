"""`BlockOrder`: every row once, in another order each epoch, and well mixed."""

import pytest
import torch

from pyro_vae.data.memory_mapped import BLOCK_BYTES, POOL_BYTES, BlockOrder
from pyro_vae.data.splits import permutation


@pytest.mark.parametrize("rows", [1, 2, 7, 12, 13, 100, 101])
@pytest.mark.parametrize(("block_rows", "pool_blocks"), [(1, 1), (3, 1), (3, 2), (4, 3), (200, 5)])
def test_every_row_once(rows, block_rows, pool_blocks):
    order = BlockOrder(rows, block_rows, pool_blocks)
    for seed in (0, 1, 2**40):
        epoch = order.epoch(seed)
        assert sorted(epoch.tolist()) == list(range(rows))
        assert torch.equal(epoch, order.epoch(seed))
        for pool in order.pools(seed):
            assert torch.equal(pool.rows(), epoch[pool.start : pool.start + pool.size])
            assert len(pool.blocks) <= pool_blocks
            read = [row for block in pool.ranges() for row in block]
            assert torch.equal(torch.tensor(read)[pool.shuffled()], pool.rows())
    if rows > 50:
        assert not torch.equal(order.epoch(0), order.epoch(1))


def test_the_order_is_of_the_seed_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = BlockOrder(100, 7, 3).epoch(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(BlockOrder(100, 7, 3).epoch(5), first)
    assert sorted(permutation(9, seed=3).tolist()) == list(range(9))


def test_neighbours_are_parted():
    """Rows of one block are spread over their pool, and blocks over the epoch."""
    order = BlockOrder(10_000, 10, 100)
    place = torch.argsort(order.epoch(0))
    gaps = (place[1:] - place[:-1]).abs().double()
    same_block = torch.arange(9_999) % 10 != 9
    # The mean distance of two places drawn from m is m / 3.
    assert gaps[same_block].mean() == pytest.approx(1000 / 3, rel=0.05)
    assert gaps[~same_block].mean() == pytest.approx(10_000 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("row_bytes", "block_rows", "pool_blocks"),
    [(784, 1337, 128), (1, 2**20, 128), (2**20, 1, 128), (2**25, 1, 4), (2**30, 1, 1)],
)
def test_blocks_and_pools_are_bounded_in_bytes(row_bytes, block_rows, pool_blocks):
    order = BlockOrder.for_row_bytes(10**9, row_bytes)
    assert (order.block_rows, order.pool_blocks) == (block_rows, pool_blocks)
    if row_bytes <= BLOCK_BYTES:
        assert order.block_rows * order.pool_blocks * row_bytes <= POOL_BYTES
    assert str(order) == f"blocks of {block_rows} rows, {pool_blocks} shuffled together"


def test_nothing_is_no_order():
    with pytest.raises(ValueError, match="block_rows must be at least 1, got 0"):
        BlockOrder(10, 0, 1)
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        BlockOrder(0, 1, 1)
