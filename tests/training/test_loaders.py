"""Batches from memory and from the disk: the same ones, each row once an epoch, from any step on."""

import os
import signal
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from scipy import sparse

from pyro_vae import build, fit
from pyro_vae.data import Dataset, PreparedData, array_file
from pyro_vae.data import sparse_rows as sparse_module
from pyro_vae.data.memory_mapped import BlockOrder
from pyro_vae.likelihoods import NegativeBinomial
from pyro_vae.training import Training
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.loaders import Batches, InMemory, Sparse, Streamed, make_loader

# 371 of 530 rows are trained on: 13 a block and 5 blocks a pool make 29 blocks, one of them short,
# and 6 pools, one of them short; 37 batches of 10, of which several lie in two pools, and one of 1.
ROWS, TRAINED = 530, 371
STEPS = 38
CPU = torch.device("cpu")


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    rows = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8), dtype=np.uint8)
    rows[:, 0, 0], rows[:, 0, 1] = np.arange(ROWS) // 256, np.arange(ROWS) % 256
    np.save(tmp_path / "mine.npy", rows)
    mapped = array_file(tmp_path / "mine.npy", memory_map=True)
    return replace(mapped, blocks=BlockOrder(TRAINED, 13, 5))


def streamed(dataset: Dataset, batch_size: int = 10, **ranks: int) -> Streamed:
    made = make_loader(
        PreparedData(dataset, "binary"), Batches(TRAINED, batch_size, **ranks), 7, CPU
    )
    assert isinstance(made, Streamed)
    return made


def in_memory(dataset: Dataset, batch_size: int = 10, **ranks: int) -> InMemory:
    prepared = PreparedData(dataset.in_memory(), "binary")
    made = make_loader(prepared, Batches(TRAINED, batch_size, **ranks), 7, CPU)
    assert isinstance(made, InMemory)
    return made


def batch(made: Streamed | InMemory, step: int) -> torch.Tensor:
    return made.gather(made.fetch(step))


def numbers(rows: torch.Tensor) -> list[int]:
    """The numbers in the file of rows, which are written in their first two pixels."""
    return (rows[:, 0, 0, 0].int() * 256 + rows[:, 0, 0, 1]).tolist()


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("pyro_vae-reader")]


def test_an_epoch_is_every_row_once_and_no_batch_is_short_but_the_last(dataset):
    made = streamed(dataset)
    held_out = {*numbers(dataset.validation), *numbers(dataset.test)}
    epochs = []
    for epoch in range(3):
        batches = [batch(made, epoch * STEPS + step) for step in range(STEPS)]
        assert [len(rows) for rows in batches] == [10] * (STEPS - 1) + [1]
        epochs.append([number for rows in batches for number in numbers(rows)])
        assert sorted(epochs[-1]) == sorted({*range(ROWS)} - held_out)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    made.close()


@pytest.mark.parametrize("batch_size", [1, 10, 65, 100, TRAINED])
def test_the_disk_gives_what_memory_gives(dataset, batch_size):
    """Batches of one row, of less than a pool, a whole one, more than one, and of all."""
    ours, theirs = streamed(dataset, batch_size), in_memory(dataset, batch_size)
    for step in range(2 * -(-TRAINED // batch_size) + 1):
        assert torch.equal(batch(ours, step), batch(theirs, step))
    ours.close()
    assert ours.order == theirs.order == "blocks of 13 rows, 5 shuffled together"


def test_batches_in_memory_are_one_shuffle_of_all(dataset):
    """As they were before there was another way: numbers in tables stand on it."""
    made = in_memory(replace(dataset.in_memory(), blocks=None))
    for step in (0, 1, 40, 3):
        epoch, position = divmod(step, STEPS)
        generator = torch.Generator().manual_seed(7 + epoch)
        order = torch.randperm(TRAINED, generator=generator)
        assert torch.equal(made.fetch(step), order[10 * position : 10 * position + 10])
    assert made.order == "all rows shuffled together"


def test_any_step_may_come_first_or_next(dataset):
    made, theirs = streamed(dataset), in_memory(dataset)
    for step in (30, 31, 2, 3, 75, 76, 77, 37, 38, 0, 6, 5, 113, 30):
        assert torch.equal(batch(made, step), batch(theirs, step)), step
    made.order_seed = theirs.order_seed = 100
    for step in (30, 31):
        assert torch.equal(batch(made, step), batch(theirs, step))
    made.close()


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_a_batch(dataset, ranks):
    whole = in_memory(dataset)
    for make in (streamed, in_memory):
        shares = [make(dataset, rank=rank, ranks=ranks) for rank in range(ranks)]
        for step in (0, 6, STEPS - 1, STEPS):
            # A process without a row of its own looks at one that does not count.
            counted = [share for share in shares if share.batches.share(step).weight]
            parts = [batch(share, step) for share in counted]
            assert torch.equal(torch.cat(parts), batch(whole, step))
        for share in shares:
            share.close()


def test_two_pools_are_held_and_no_more(dataset, monkeypatch):
    made = streamed(dataset)
    live, most = set(), []
    original = Streamed._copy

    def counted(self, pool, cancelled):
        rows = original(self, pool, cancelled)
        name = object()
        live.add(name)
        most.append(len(live))
        weakref.finalize(rows, live.discard, name)
        return rows

    monkeypatch.setattr(Streamed, "_copy", counted)
    for step in range(2 * STEPS):
        batch(made, step)
        assert made._ahead is not None
        # A reader as fast as can be.
        made._ahead.content.result()
    made.close()
    assert len(most) == 13
    assert max(most) == 2
    assert live == set()


def test_the_reader_ends_and_may_begin_again(dataset):
    made = streamed(dataset)
    first = batch(made, 0)
    assert len(readers()) == 1
    made.close()
    made.close()
    assert readers() == []
    assert torch.equal(batch(made, 0), first)
    made.close()


# ---- training --------------------------------------------------------------------------------


def a_training(dataset: Dataset, **options) -> Training:
    pyro.set_rng_seed(3)
    prepared = PreparedData(dataset, "binary")
    return Training(build((1, 8, 8), 3), prepared, **{"batch_size": 10, "epochs": 2, **options})


def assert_same(one: Training, other: Training) -> None:
    for mine, yours in zip(one.program.parameters(), other.program.parameters(), strict=True):
        assert (mine == yours).all()
    for mine, yours in zip(one.history, other.history, strict=True):
        assert mine | {"seconds": 0} == yours | {"seconds": 0}


def test_training_from_the_disk_equals_training_in_memory(dataset):
    """Losses and parameters, to the last bit."""
    from_disk = a_training(dataset)
    from_disk.run()
    from_memory = a_training(dataset.in_memory())
    from_memory.run()
    assert len(from_disk.history) == 2
    assert_same(from_disk, from_memory)
    assert readers() == []


@pytest.mark.parametrize("at", [27, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_resume_is_bit_exact(dataset, tmp_path, at):
    path = tmp_path / "checkpoint.pt"
    straight = a_training(dataset)
    straight.run()
    stopped = a_training(dataset)
    stopped.run(checkpoint=path, stop=lambda: stopped.step >= at)
    pyro.set_rng_seed(99)
    resumed = Training(
        build((1, 8, 8), 3), PreparedData(dataset, "binary"), batch_size=10, epochs=2
    )
    resumed.load_state_dict(load_checkpoint(path))
    resumed.run()
    assert_same(resumed, straight)


def test_a_checkpoint_of_another_order_is_refused(dataset, tmp_path):
    """The splits of a file held in memory are others: it would train on what was held out."""
    path = tmp_path / "checkpoint.pt"
    a_training(dataset, max_steps=1).run(checkpoint=path)
    state = load_checkpoint(path)
    held = array_file(tmp_path / "mine.npy", memory_map=False)
    with pytest.raises(ValueError, match=r"with order blocks of 13 rows.* got all rows shuffled"):
        a_training(held).load_state_dict(state)
    a_training(dataset.in_memory()).load_state_dict(state)


def test_fit_takes_a_memory_mapped_set(dataset):
    history = fit(build((1, 8, 8), 3), dataset, epochs=1, batch_size=50)
    assert [record["step"] for record in history] == [8]


def test_a_replayed_batch_is_the_one_it_was(dataset):
    """What explains a broken run goes back to a pool that is gone."""
    training = a_training(dataset)
    first = training.loader.fetch(2)
    for step in range(3, 35):
        training.loader.fetch(step)
    assert torch.equal(training.loader.fetch(2), first)
    training.loader.close()


# ---- sparse counts ---------------------------------------------------------------------------

COUNTS = np.random.default_rng(1).poisson(0.2, (ROWS, 20))


def of_counts(values) -> Dataset:
    return Dataset.from_array(values, name="counts")


@pytest.fixture
def sparse_counts(monkeypatch) -> Dataset:
    monkeypatch.setattr(sparse_module, "MINIMUM_DENSE_BYTES", 0)
    return of_counts(sparse.csr_array(COUNTS))


@pytest.mark.parametrize("ranks", [1, 3])
def test_sparse_rows_give_what_memory_gives(sparse_counts, ranks):
    for rank in range(ranks):
        batches = Batches(TRAINED, 10, rank=rank, ranks=ranks)
        ours, theirs = (
            make_loader(PreparedData(dataset, "counts"), batches, 7, CPU)
            for dataset in (sparse_counts, of_counts(COUNTS))
        )
        assert isinstance(ours, Sparse)
        assert isinstance(theirs, InMemory)
        assert ours.order == theirs.order
        for step in (0, 1, 36, 37, 38, 80, 2):
            assert torch.equal(batch(ours, step), batch(theirs, step))
        ours.order_seed = theirs.order_seed = 100
        assert torch.equal(batch(ours, 3), batch(theirs, 3))
        beside = [made.fork(Batches(370, 37), 5) for made in (ours, theirs)]
        assert torch.equal(*(batch(made, 4) for made in beside))


@pytest.mark.parametrize("options", [{}, {"aggressive_steps": 10, "epochs": 1}])
def test_sparse_training_equals_dense_training(sparse_counts, options, monkeypatch):
    """Losses, validation and parameters, to the last bit."""
    monkeypatch.setattr("pyro_vae.training.aggressive.VALIDATION_DATA", 20)
    trainings = []
    for dataset in (sparse_counts, of_counts(COUNTS)):
        pyro.set_rng_seed(3)
        prepared = PreparedData(dataset, "counts")
        rows = prepared.starting_rows()
        vae = build((20,), 2, likelihood=NegativeBinomial, train_data=rows, train_size=TRAINED)
        trainings.append(Training(vae, prepared, **{"batch_size": 100, "epochs": 2, **options}))
        trainings[-1].run()
    assert_same(*trainings)


# ---- what goes wrong -------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, 1000)


@pytest.mark.parametrize("spoil", [cut, Path.unlink])
def test_a_file_spoilt_in_training_ends_it_with_one_line(dataset, tmp_path, spoil):
    training = a_training(dataset)
    path = tmp_path / "checkpoint.pt"

    def stop() -> bool:
        if training.step == 10:
            spoil(tmp_path / "mine.npy")
        return False

    with pytest.raises(OSError, match=r"mine.npy (cannot be read any more|was changed)") as caught:
        training.run(checkpoint=path, checkpoint_seconds=0.0, stop=stop)
    assert "\n" not in str(caught.value)
    assert readers() == []
    assert load_checkpoint(path)["step"] >= 10


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_reader_is_left_behind(dataset, error):
    training = a_training(dataset)

    def stop() -> bool:
        if training.step == 5:
            raise error
        return False

    with pytest.raises(error):
        training.run(stop=stop)
    assert readers() == []


def test_a_reader_that_is_waited_for_can_be_stopped(dataset, monkeypatch):
    """Ctrl-C while the disk is slow."""
    made = streamed(dataset)
    read = []

    def slow(self, rows):
        read.append(rows)
        while made._ahead is None:
            time.sleep(0.01)
        if len(read) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            made._ahead.cancelled.wait(10)
        return torch.zeros((rows.stop - rows.start, 1, 8, 8), dtype=torch.uint8)

    monkeypatch.setattr(type(dataset.train), "__getitem__", slow)
    # Python leaves the signal ignored where whoever started it had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            batch(made, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    made.close()
    assert len(read) == 1
    assert readers() == []


def test_a_reader_that_nobody_waits_for_stops_at_the_next_block(dataset, monkeypatch):
    """Closing does not wait until a large pool is full."""
    made = streamed(dataset)
    batch(made, 0)
    assert made._ahead is not None
    made._ahead.content.result()
    reading, go_on = threading.Event(), threading.Event()
    read = []
    original = type(dataset.train).__getitem__

    def slow(self, rows):
        read.append(rows)
        reading.set()
        go_on.wait(10)
        return original(self, rows)

    monkeypatch.setattr(type(dataset.train), "__getitem__", slow)
    # Takes the second pool, and so begins the third.
    batch(made, 8)
    assert reading.wait(10)
    made._ahead.cancelled.set()
    go_on.set()
    made.close()
    assert len(read) == 1
