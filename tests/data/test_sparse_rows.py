"""Sparse counts: what stays sparse, what its rows are, and what is refused."""

import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data import Dataset, PreparedData, count_file
from pyro_vae.data import sparse_rows as module
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.sparse_rows import SparseRows, from_scipy
from pyro_vae.data.validation import ValueRange

COUNTS = np.random.default_rng(0).poisson(0.1, (40, 30)) * 7
DENSE = torch.from_numpy(COUNTS)


@pytest.fixture
def _small(monkeypatch):
    """Small matrices stay sparse, and statistics are taken of several parts."""
    monkeypatch.setattr(module, "MINIMUM_DENSE_BYTES", 0)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 20)


def rows_of(matrix) -> SparseRows:
    (rows,) = from_scipy([matrix], "mine")
    assert isinstance(rows, SparseRows)
    return rows


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(3, 9),
        slice(None, None, 7),
        slice(9, 4),
        [4, 4, 2],
        [],
        np.array([-1, 5]),
        torch.tensor([[7, 0], [1, 2]]),
        torch.arange(40) % 3 == 0,
    ],
)
def test_rows_are_those_of_a_tensor(index):
    rows = rows_of(sparse.csr_array(COUNTS))
    expected = DENSE[index if not isinstance(index, np.ndarray) else torch.from_numpy(index)]
    for dtype in (torch.int64, torch.uint8, torch.float32):
        given = rows.to(dtype)[index]
        assert given.dtype == dtype
        assert torch.equal(given, expected.to(dtype))


@pytest.mark.usefixtures("_small")
def test_parts_and_statistics_of_a_subset():
    rows = rows_of(sparse.csr_array(COUNTS)).subset(torch.arange(39, 0, -1))
    expected = DENSE[torch.arange(39, 0, -1)]
    assert rows.shape == (39, 30)
    assert torch.equal(torch.cat([*rows.split(7)]), expected)
    assert rows.value_range == ValueRange.from_values(expected)
    torch.testing.assert_close(rows.mean(), expected.double().mean(0))
    assert rows_of(sparse.csr_array((40, 30), dtype=int)).value_range == ValueRange(0, 0, True)
    with pytest.raises(IndexError):
        rows[[39]]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "bsr"])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix])
def test_every_format_gives_the_splits_of_the_dense_array(form, kind):
    """Floats without a fraction are counts here, which need not be said."""
    dataset = Dataset.from_array(kind(COUNTS.astype(np.float64)).asformat(form))
    expected = Dataset.from_array(COUNTS)
    assert dataset.support == expected.support == "counts"
    assert dataset.event_shape == (30,)
    for split in SPLITS:
        rows = getattr(dataset, split)
        assert isinstance(rows, SparseRows)
        assert rows.matrix is dataset.train.matrix
        assert rows.matrix.data.dtype == np.uint8
        assert rows.matrix.indices.dtype == np.int32
        assert rows.dtype == torch.uint8
        assert torch.equal(rows[:], expected.split(split))
    with pytest.raises(
        ValueError, match=r"train split of array is sparse.*dataset.train\[:1000\]"
    ):
        dataset.split("train")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_array])
def test_duplicates_are_summed_and_stored_zeros_left_out(kind):
    """In a type in which 200 + 200 fit, and without a change to what was given."""
    places = (np.repeat(np.arange(20), 3), np.tile([5, 5, 2], 20))
    values = np.tile(np.array([200, 200, 0], np.uint8), 20)
    matrix = sparse.coo_array((values, places), shape=(20, 9))
    if kind is sparse.csr_array:
        matrix = sparse.csr_array((values, places[1], np.arange(0, 61, 3)), shape=(20, 9))
    rows = rows_of(matrix)
    assert rows.matrix.nnz == 20
    assert rows[:].sum(0).tolist() == [0] * 5 + [8000] + [0] * 3
    assert matrix.data.tolist() == values.tolist()


def test_small_and_dense_matrices_are_made_dense(monkeypatch):
    for share, least in ((0.05, module.MINIMUM_DENSE_BYTES), (0.9, 0)):
        monkeypatch.setattr(module, "MINIMUM_DENSE_BYTES", least)
        values = np.random.default_rng(1).random((40, 30)) < share
        dataset = Dataset.from_array(sparse.csr_array(values * 3))
        assert isinstance(dataset.train, torch.Tensor)
        assert dataset.support == "counts"


@pytest.mark.usefixtures("_small")
def test_fractions_are_real_and_dense():
    dataset = Dataset.from_array(sparse.csr_array(COUNTS / 2 - (COUNTS > 0)))
    assert isinstance(dataset.train, torch.Tensor)
    assert dataset.support == "real"
    whole = Dataset.from_array(sparse.csr_array(COUNTS.astype(np.float32)), support="real")
    assert isinstance(whole.train, torch.Tensor)
    with pytest.raises(ValueError, match="must hold counts data"):
        Dataset.from_array(sparse.csr_array(-COUNTS), support="counts")


@pytest.mark.usefixtures("_small")
def test_what_is_no_data_is_refused():
    damaged = sparse.csr_array(COUNTS)
    damaged.indices[3] = 99
    one_hot = sparse.csr_array(np.eye(30)[np.arange(40) % 30])
    for values, message in (
        (damaged, "damaged sparse matrix"),
        (one_hot, "looks like labels"),
        (sparse.csr_array(COUNTS * 1j), "whole numbers or floats, got the type complex128"),
        (sparse.csr_array((5, 30), dtype=int), "at least 10 rows to be split, got 5"),
        (sparse.csr_array((40, 2**45), dtype=int), r"a batch of array would be .* GiB"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Dataset.from_array(values)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_small")
def test_splits_are_sparse_together():
    """The test split has small values alone: it has the type of the others."""
    splits = {"train": sparse.csr_array(COUNTS * 100), "test": sparse.csr_array(COUNTS[:9])}
    dataset = Dataset.from_splits(splits)
    assert [len(getattr(dataset, split)) for split in SPLITS] == [36, 4, 9]
    assert {getattr(dataset, split).dtype for split in SPLITS} == {torch.int16}
    assert torch.equal(dataset.test[:], DENSE[:9].to(torch.int16))


@pytest.mark.usefixtures("_small")
def test_prepared_data_stay_sparse():
    data = PreparedData(Dataset.from_array(sparse.csr_array(COUNTS)), "counts")
    assert isinstance(data.train, SparseRows)
    assert data.fixed("test") is data.dataset.test
    assert torch.equal(data.starting_rows(), data.train[:])


def test_parts_that_start_from_data_see_rows_from_everywhere(monkeypatch):
    monkeypatch.setattr(module, "MINIMUM_DENSE_BYTES", 0)
    monkeypatch.setattr("pyro_vae.data.preprocessing._INIT_SPARSE_ELEMENTS", 4 * 30)
    data = PreparedData(Dataset.from_array(sparse.csr_array(COUNTS)), "counts")
    assert torch.equal(data.starting_rows(), data.train[[0, 7, 14, 21]])


def test_counts_without_a_2(tmp_path):
    sparse.save_npz(tmp_path / "mine.npz", sparse.csr_array(COUNTS > 0))
    assert PreparedData(count_file(tmp_path / "mine.npz", support="counts"), "counts")
    with pytest.raises(ValueError, match=r"counts without a 2.*--data.support counts"):
        PreparedData(count_file(tmp_path / "mine.npz"), "counts")


def test_real_values_of_a_sparse_file(tmp_path):
    sparse.save_npz(tmp_path / "mine.npz", sparse.csr_array(COUNTS / 3))
    with pytest.raises(ValueError, match=r"--data\.support real"):
        count_file(tmp_path / "mine.npz")
    dataset = count_file(tmp_path / "mine.npz", support="real")
    assert dataset.support == "real"
    assert isinstance(dataset.train, torch.Tensor)
