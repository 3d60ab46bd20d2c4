"""`count_file`: sparse matrices of SciPy's, good and bad."""

import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data import count_file
from pyro_vae.data.dataset import SPLITS

COUNTS = np.random.default_rng(0).poisson(0.4, (40, 9))
CSR = sparse.csr_array(COUNTS)


def parts(**changes) -> dict[str, np.ndarray]:
    """What `save_npz` writes of a CSR matrix, with changes."""
    return {
        "format": np.array(b"csr"),
        "shape": np.array(CSR.shape),
        "data": CSR.data,
        "indices": CSR.indices,
        "indptr": CSR.indptr,
        **changes,
    }


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.float32, np.uint16])
def test_formats(tmp_path, form, dtype):
    path = tmp_path / "mine.npz"
    sparse.save_npz(path, sparse.csr_array(COUNTS.astype(dtype)).asformat(form))
    dataset = count_file(path)
    assert (dataset.name, dataset.support, dataset.levels) == ("mine", "counts", None)
    assert dataset.event_shape == (9,)
    assert [len(dataset.split(split)) for split in SPLITS] == [28, 4, 8]
    assert dataset.train.dtype == torch.uint8
    together = torch.cat([dataset.split(split) for split in SPLITS])
    assert sorted(together.tolist()) == sorted(COUNTS.tolist())


@pytest.mark.parametrize(
    ("factor", "dtype"),
    [(1, torch.uint8), (100, torch.int16), (20_000, torch.int32), (2**40, torch.int64)],
)
def test_narrowest_type(tmp_path, factor, dtype):
    sparse.save_npz(tmp_path / "mine.npz", CSR * factor)
    dataset = count_file(tmp_path / "mine.npz")
    assert dataset.train.dtype == dtype
    assert sum(dataset.split(split).sum() for split in SPLITS) == COUNTS.sum() * factor


def test_0_and_1_alone_are_binary(tmp_path):
    sparse.save_npz(tmp_path / "mine.npz", sparse.csr_array(COUNTS > 0))
    assert count_file(tmp_path / "mine.npz").support == "binary"


def test_equal_places_are_summed(tmp_path):
    rows = np.arange(20)
    entries = (np.ones(40, int), (np.tile(rows, 2), np.zeros(40, int)))
    sparse.save_npz(tmp_path / "mine.npz", sparse.coo_array(entries, shape=(20, 3)))
    dataset = count_file(tmp_path / "mine.npz")
    assert dataset.support == "counts"
    assert (dataset.train[:, 0] == 2).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": CSR.data - 1.5}, "must be whole numbers of 0 or more"),
        ({"data": CSR.data - 5}, "must be whole numbers of 0 or more"),
        ({"data": np.where(CSR.data > 1, np.nan, 1.0)}, "must be whole numbers of 0 or more"),
        ({"data": CSR.data * 1e300}, "must fit in 64 bits"),
        ({"data": CSR.data + 1j}, "must be whole numbers, got the type complex128"),
        ({"data": CSR.data.astype(object)}, "damaged or something else"),
        ({"data": CSR.data.astype(str)}, "whole numbers, got the type|damaged or something else"),
        ({"data": CSR.data[:-3]}, "damaged or something else"),
        ({"indices": CSR.indices + 1000}, "damaged or something else"),
        ({"indices": CSR.indices - 5}, "damaged or something else"),
        ({"indptr": CSR.indptr[::-1]}, "damaged or something else"),
        ({"indptr": CSR.indptr + 10**8}, "damaged or something else"),
        ({"shape": np.array([40, 3])}, "damaged or something else"),
        ({"shape": np.array([40])}, "damaged or something else"),
        ({"format": np.array(b"new")}, "damaged or something else"),
        ({"format": np.array(["csr", "csr"])}, "damaged or something else"),
        ({"shape": np.array([5, 9]), "indptr": CSR.indptr[:6], "data": CSR.data[:CSR.indptr[5]],
          "indices": CSR.indices[:CSR.indptr[5]]}, "at least 10 rows to be split, got 5"),
    ],
)  # fmt: skip
def test_bad_contents_are_refused_with_the_path(tmp_path, changes, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **parts(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        count_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut short", "dense"])
def test_other_files_are_refused_with_the_path(tmp_path, kind):
    path = tmp_path / "mine.npz"
    np.savez(path, **parts())
    content = {"empty": b"", "text": b"1 2 3", "cut short": path.read_bytes()[:200]}
    if kind == "missing":
        path.unlink()
    elif kind == "dense":
        np.savez(path, x=COUNTS)
    else:
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match=r"no such file|damaged or something else") as caught:
        count_file(path)
    assert str(path) in str(caught.value)


def test_what_does_not_fit_in_memory_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **parts(shape=np.array([40, 2**40])))
    with pytest.raises(
        ValueError, match=r"shape \(40, 1099511627776\), which takes .* GiB.*fewer"
    ):
        count_file(path)
