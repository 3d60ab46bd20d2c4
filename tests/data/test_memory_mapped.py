"""Arrays on disk, the block order of training, and memory."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.data import Dataset, PreparedData, array_file
from pyro_vae.data import memory_mapped as module
from pyro_vae.data.memory_mapped import (
    BLOCK_BYTES,
    POOL_BYTES,
    BlockOrder,
    MemoryMapped,
    held_out_rows,
    require_memory,
)
from pyro_vae.data.splits import permutation

ROWS = 530
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (ROWS, 6, 7), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks are checked in files of a few rows."""
    monkeypatch.setattr(module, "_CHECK_BYTES", 2000)


def mapped(folder: Path, array: np.ndarray, **options) -> Dataset:
    np.save(folder / "mine.npy", array)
    return array_file(folder / "mine.npy", memory_map=True, **options)


def together(dataset: Dataset) -> torch.Tensor:
    return torch.cat([dataset.in_memory().train, dataset.validation, dataset.test])


@pytest.mark.parametrize("n", [10, 11, 19, 100, 101, ROWS])
def test_every_row_is_in_one_split(tmp_path, n):
    rows = np.arange(2 * n).reshape(n, 2)
    dataset = mapped(tmp_path, rows)
    assert isinstance(dataset.train, MemoryMapped)
    assert (len(dataset.validation), len(dataset.test)) == (n // 10, n // 5)
    assert dataset.train.shape == (n - n // 10 - n // 5, 2)
    assert sorted(together(dataset)[:, 0].tolist()) == list(range(0, 2 * n, 2))
    again = array_file(tmp_path / "mine.npy", memory_map=True)
    assert torch.equal(together(again), together(dataset))
    # Spread over the file: none but neighbouring stretches lie between two held out.
    held_out = torch.cat([dataset.validation, dataset.test])[:, 0].sort().values / 2
    if len(held_out) > 1:
        assert held_out.diff().max() <= 2 * -(-n // len(held_out))


def test_slices_are_those_of_a_tensor(tmp_path):
    dataset = mapped(tmp_path, IMAGES)
    train = dataset.in_memory().train
    for start, stop in [
        (0, 1),
        (0, 371),
        (3, 60),
        (100, 101),
        (370, 371),
        (5, 5),
        (9, 4),
        (-7, 999),
    ]:
        assert torch.equal(dataset.train[start:stop], train[start:stop])
    assert dataset.event_shape == (1, 6, 7)
    with pytest.raises(ValueError, match="got 2"):
        dataset.train[::2]


def test_held_out_rows_are_bounded():
    for n, row_bytes, expected in [
        (10**10, 784, (10_000, 10_000)),
        (70_000, 784, (7000, 10_000)),
        (10**6, 2**24, (8, 8)),
        (100, 2**40, (1, 1)),
    ]:
        rows = held_out_rows(n, row_bytes)
        assert tuple(map(len, rows.values())) == expected
        both = np.concatenate([*rows.values()])
        assert len(set(both.tolist())) == len(both)
        assert both.min() >= 0
        assert both.max() < n
    # Reported test numbers stand on them.
    assert held_out_rows(10**6, 784)["test"][:4].tolist() == [350, 407, 479, 681]


@pytest.mark.parametrize(
    ("array", "options", "support", "dtype"),
    [
        (IMAGES, {}, "integers", torch.uint8),
        (IMAGES > 99, {}, "binary", torch.uint8),
        (IMAGES // 16, {"levels": 16}, "integers", torch.uint8),
        (IMAGES // 16, {"support": "counts"}, "counts", torch.uint8),
        (IMAGES.astype(np.int64), {"support": "counts"}, "counts", torch.uint8),
        (IMAGES.reshape(ROWS, -1).astype(">u4") * 300, {}, "counts", torch.int32),
        (IMAGES.astype(np.uint16) * 250, {"levels": 65536}, "integers", torch.int32),
        (IMAGES / 255, {}, "unit", torch.float32),
        ((IMAGES / 255).astype(np.float16), {}, "unit", torch.float32),
        ((IMAGES / 255).astype(">f8") - 0.5, {}, "real", torch.float32),
        (IMAGES.astype(np.float32), {"levels": 256}, "integers", torch.uint8),
        (RANDOM.normal(size=(ROWS, 3)), {}, "real", torch.float32),
        (RANDOM.normal(size=(ROWS, 3, 5, 4)), {}, "real", torch.float32),
    ],
)
def test_values_are_those_of_the_array_in_memory(tmp_path, array, options, support, dtype):
    dataset = mapped(tmp_path, array, **options)
    whole = Dataset.from_array(array, **options)
    assert (dataset.name, dataset.support, dataset.levels) == ("mine", support, whole.levels)
    assert dataset.event_shape == whole.event_shape
    assert {together(dataset).dtype, dataset.train.dtype, dataset.test.dtype} == {dtype}
    ours, theirs = (
        torch.cat([d.in_memory().train, d.validation, d.test]).flatten(1) for d in (dataset, whole)
    )
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_type_is_that_of_the_highest_value_of_all(tmp_path):
    array = np.zeros((ROWS, 3), np.int64)
    array[:, 0] = 2
    array[-1] = 300
    assert mapped(tmp_path, array).train.dtype == torch.int16


def test_only_large_files_are_mapped_unasked(tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", IMAGES)
    np.savez(tmp_path / "mine.npz", IMAGES)
    size = os.path.getsize(tmp_path / "mine.npy")
    for memory, on_disk in [(4 * size, False), (4 * size - 4, True)]:
        monkeypatch.setattr(
            "pyro_vae.data.memory_mapped._memory_bytes", lambda memory=memory: memory
        )
        assert isinstance(array_file(tmp_path / "mine.npy").train, MemoryMapped) == on_disk
        assert isinstance(array_file(tmp_path / "mine.npz").train, torch.Tensor)
        held = array_file(tmp_path / "mine.npy", memory_map=False)
        assert isinstance(held.train, torch.Tensor)
        assert held.blocks is None
        assert held.in_memory() is held


def test_what_needs_the_whole_split_in_memory_says_so(tmp_path):
    dataset = mapped(tmp_path, IMAGES)
    with pytest.raises(ValueError, match="train split of mine is memory-mapped"):
        dataset.split("train")
    with pytest.raises(ValueError, match="static binarisation keeps a copy"):
        PreparedData(dataset, "binary", binarisation="static")
    prepared = PreparedData(dataset, "binary")
    with pytest.raises(ValueError, match="train split of mine is memory-mapped"):
        prepared.fixed("train")
    assert prepared.fixed("test").shape == (106, 1, 6, 7)
    assert prepared.transform(prepared.train[:20]).shape == (20, 1, 6, 7)


def test_the_order_fits_the_rows(tmp_path):
    dataset = mapped(tmp_path, IMAGES)
    assert dataset.blocks == BlockOrder.for_row_bytes(371, 42)
    assert dataset.in_memory().blocks == dataset.blocks
    with pytest.raises(ValueError, match="the order of 5 rows does not fit 371"):
        Dataset(
            "mine", "integers", 256, dataset.train, dataset.test, dataset.test,
            blocks=BlockOrder(5, 1, 1),
        )  # fmt: skip


# ---- bad files -------------------------------------------------------------------------------


def with_one(value: float) -> np.ndarray:
    """Good floats but for one, far back in the file."""
    array = RANDOM.random((ROWS, 4))
    array[ROWS - 40, 2] = value
    return array


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.asfortranarray(RANDOM.random((20, 4))), {}, "Fortran order.*ascontiguousarray"),
        (IMAGES.astype(complex), {}, "booleans, integers or floats, got .* complex128"),
        (IMAGES.astype("S2"), {}, "booleans, integers or floats"),
        (np.array([{}] * 20, dtype=object), {}, "without pickles"),
        (np.float32(3), {}, "looks like labels: its shape"),
        (np.arange(20), {}, "looks like labels: its shape"),
        (np.arange(ROWS)[:, None], {}, "looks like labels: .* one whole number in each row"),
        (np.eye(5)[RANDOM.integers(0, 5, ROWS)], {}, "looks like labels: .* a single 1"),
        (IMAGES[:0], {}, "is empty"),
        (IMAGES[:9], {}, "at least 10 rows to be split, got 9"),
        (np.zeros((20, 0)), {}, r"is empty, of shape \(20, 0\)"),
        (IMAGES[..., None], {}, "channels last"),
        (IMAGES[:, None, None], {}, "the shape of mine must be"),
        (with_one(np.nan), {}, "not finite"),
        (with_one(np.inf), {}, "not finite"),
        (with_one(1e300), {}, "not finite in float32"),
        (with_one(2.0), {"support": "unit"}, "must hold unit data, between 0 and 1"),
        (with_one(0.5), {"support": "counts"}, "must hold counts data .*got fractions"),
        (IMAGES // 16, {}, "may be grey levels or counts"),
        (IMAGES.astype(np.uint16), {}, "grey levels, counts or measurements"),
        (IMAGES.astype(np.float32), {}, "floats without a fraction"),
        (IMAGES.astype(np.int64) - 9, {}, "goes down to -9"),
        (IMAGES, {"levels": 16}, "between 0 and 15, got values from 0 to 255"),
        (IMAGES, {"levels": 16, "support": "counts"}, "only integers have levels"),
    ],
)  # fmt: skip
def test_bad_contents_are_refused_with_the_path(tmp_path, array, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        mapped(tmp_path, array, **options)
    assert str(tmp_path / "mine.npy") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_row_that_is_no_label_is_enough(tmp_path):
    rows = np.eye(5)[RANDOM.integers(0, 5, ROWS)]
    rows[-1] = 1
    assert mapped(tmp_path, rows).support == "binary"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "must be a .npy file to be memory-mapped"),
        (pickle.dumps([1, 2]), "must be a .npy file to be memory-mapped"),
        (b"PK\x03\x04", "must be a .npy file to be memory-mapped"),
        (b"\x93NUMPY", "damaged or something else"),
        (b"\x93NUMPY\x01\x00\xff\xff", "damaged or something else"),
        (b"\x93NUMPY\x09\x00" + b" " * 200, "damaged or something else"),
    ],
)
def test_what_is_no_npy_is_refused_with_the_path(tmp_path, content, message):
    path = tmp_path / "mine.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        array_file(path, memory_map=True)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="no such file"):
        array_file(tmp_path / "other.npy", memory_map=True)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, IMAGES)
    whole = path.read_bytes()
    for length in (*range(1, 128, 9), 128, 129, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"mine\.npy") as caught:
            array_file(path, memory_map=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["cut", "gone", "other"])
def test_a_file_changed_while_it_is_in_use(tmp_path, change):
    dataset = mapped(tmp_path, IMAGES)
    path = tmp_path / "mine.npy"
    if change == "gone":
        path.unlink()
    elif change == "cut":
        os.truncate(path, 1000)
    else:
        np.save(path, IMAGES + 1)
        os.utime(path, ns=(0, 0))
    with pytest.raises(OSError, match=r"mine.npy (cannot be read any more|was changed)"):
        dataset.train[:50]


@pytest.mark.parametrize("rows", [1, 12, 13, 101])
@pytest.mark.parametrize(("block_rows", "pool_blocks"), [(1, 1), (3, 2), (200, 5)])
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


# Loads a data set in a process of its own and prints the bytes of its splits, and by how many the
# process grew at the highest and in the end.
PROGRAM = """
import gc, sys
from pathlib import Path
from pyro_vae.data import DATASETS, SPLITS

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

# Import what the loaders import.
import torch, scipy.sparse, PIL.Image, pandas, pyarrow, torchvision.datasets, sklearn.datasets
name, argument = sys.argv[1:]
gc.collect()
before = status("VmRSS")
# The highest so far is now.
Path("/proc/self/clear_refs").write_text("5")
load = DATASETS[name]
dataset = load(argument) if argument else load()
splits = [dataset.split(split) for split in SPLITS]
held = sum(split.numel() * split.element_size() for split in splits)
print(held, status("VmHWM") - before, status("VmRSS") - before)
""".replace("DATASETS, SPLITS", "DATASETS\nfrom pyro_vae.data.dataset import SPLITS")


def measure(name: str, argument: str = "") -> tuple[float, float]:
    """By how many times its data's bytes a loader makes the process grow, at the highest and after."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which tells a process the most memory it had")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, argument],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    held, highest, after = map(int, result.stdout.split())
    return highest / held, after / held


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "dsprites"])
def test_named_sets_are_held_once(data_root, name):
    highest, after = measure(name, str(data_root))
    assert highest < 2.2
    assert after < 1.3


@pytest.mark.slow
def test_a_file_of_ones_own_is_held_once(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "x.npy", rows)
    highest, after = measure("array_file", str(tmp_path / "x.npy"))
    assert highest < 2.2
    assert after < 1.3


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.memory_mapped._memory_bytes", lambda: 2 * 2**30)
    require_memory((2**30,), 1, "mine")
    with pytest.raises(
        ValueError, match=r"mine would be .*\(1073741824, 2\).* 4.0 GiB .* 2.0 GiB"
    ):
        require_memory((2**30, 2), 1, "mine")
