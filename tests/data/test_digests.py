"""Digests are equal where rows are equal, whatever holds them, and nowhere else."""

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data.digests import row_digests

N = 1_000_000


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.5, (500, 40))


def test_the_type_and_the_shape_do_not_matter(counts):
    expected = row_digests(counts)
    for dtype in (np.uint8, np.int16, np.int32, np.uint64, np.float32, np.float64, ">i4"):
        np.testing.assert_array_equal(row_digests(counts.astype(dtype)), expected)
    np.testing.assert_array_equal(row_digests(torch.from_numpy(counts).short()), expected)
    np.testing.assert_array_equal(row_digests(counts.reshape(500, 1, 5, 8)), expected)
    np.testing.assert_array_equal(row_digests(counts > 0), row_digests((counts > 0) * 1.0))


def test_sparse_rows_have_the_digest_of_dense_ones(counts):
    for values in (counts, counts.astype(np.int16), counts / 4):
        for form in (sparse.csr_array, sparse.csr_matrix):
            np.testing.assert_array_equal(row_digests(form(values)), row_digests(values))
    # Two entries in one place, as a COO matrix may have them.
    twice = sparse.csr_array((np.array([0.25, 0.5]), np.array([3, 3]), np.array([0, 2])), (1, 40))
    dense = np.zeros((1, 40))
    dense[0, 3] = 0.75
    np.testing.assert_array_equal(row_digests(twice), row_digests(dense))


def test_floats_are_rounded_to_float32_unless_told_otherwise():
    days = 2_450_000 + np.random.default_rng(0).random((300, 2))
    np.testing.assert_array_equal(row_digests(days), row_digests(days.astype(np.float32)))
    assert len(np.unique(row_digests(days))) < 300
    assert len(np.unique(row_digests(days, double=True))) == 300
    np.testing.assert_array_equal(
        row_digests(np.array([[-0.0, 1]])), row_digests(np.array([[0, 1]]))
    )


def test_the_order_of_values_matters(counts):
    rows = np.array(list(itertools.permutations([0.0, 0.5, -1.0, 3.0, 1e30, 255.0])))
    assert len(np.unique(row_digests(rows))) == len(rows)


def test_blocks_and_splits_do_not_matter(counts):
    large = np.tile(counts, (60, 20))
    np.testing.assert_array_equal(
        row_digests(large),
        np.concatenate([row_digests(part) for part in np.array_split(large, 7)]),
    )


@pytest.mark.parametrize(
    "rows",
    [
        np.stack(np.divmod(np.arange(N), 1000), 1),
        np.stack(np.divmod(np.arange(N), 1000), 1) * 0.125,
        1 + np.arange(N)[:, None] * 2.0**-23,
        np.unpackbits(np.arange(N, dtype=">u4").view(np.uint8).reshape(N, 4), axis=1),
        np.random.default_rng(0).normal(size=(N, 2)),
    ],
    ids=["whole", "eighths", "last bits", "binary", "normal"],
)
def test_a_million_distinct_rows_have_a_million_digests(rows):
    digests = row_digests(rows)
    assert len(np.unique(digests)) == N
    # Each bit is set in about half of them.
    share = np.unpackbits(digests[:4096].view(np.uint8).reshape(-1, 8), axis=1).mean(0)
    assert 0.45 < share.min() <= share.max() < 0.55


def test_values_without_rows_are_refused():
    with pytest.raises(ValueError, match=r"\(n, \*event_shape\), got \(3,\)"):
        row_digests(np.arange(3))
