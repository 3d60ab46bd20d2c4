"""`array_file` and `count_file`."""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data import READERS, Dataset, array_file, count_file
from pyro_vae.data.array_files import array_rows
from pyro_vae.data.dataset import SPLITS

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 6, 6), dtype=np.uint8)
LABELS = np.arange(50)


def test_npy(tmp_path):
    np.save(tmp_path / "mine.npy", IMAGES)
    dataset = array_file(tmp_path / "mine.npy")
    assert (dataset.name, dataset.support, dataset.levels) == ("mine", "integers", 256)
    assert dataset.event_shape == (1, 6, 6)
    assert [len(dataset.split(split)) for split in SPLITS] == [35, 5, 10]
    assert dataset.labels == {}


def test_levels_option(tmp_path):
    np.save(tmp_path / "mine.npy", IMAGES.astype(int) // 16)
    with pytest.raises(ValueError, match="grey levels, counts or measurements"):
        array_file(tmp_path / "mine.npy")
    assert array_file(tmp_path / "mine.npy", levels=16).levels == 16


@pytest.mark.parametrize("memory_map", [False, True])
def test_low_and_wide_images_may_be_series(tmp_path, memory_map):
    path = tmp_path / "mine.npy"
    np.save(path, np.random.default_rng(0).normal(size=(50, 3, 24)))
    images = array_file(path, memory_map=memory_map)
    assert images.event_shape == (1, 3, 24)
    assert images.notes == (
        "taken as images of 3 x 24; if they are series of 3 channels: --data.layout series",
    )
    series = array_file(path, memory_map=memory_map, layout="series")
    assert (series.event_shape, series.notes) == ((3, 24), ())
    np.testing.assert_array_equal(series.validation[:, None], images.validation)
    assert array_rows(path, layout="series").layout == "series"


@pytest.mark.parametrize("names", [("x",), ("train", "test")])
def test_channels_option(tmp_path, names):
    pictures = np.random.default_rng(0).random((20, 9, 9, 4))
    path = tmp_path / "mine.npz"
    np.savez(path, **dict.fromkeys(names, pictures))
    with pytest.raises(ValueError, match=r"channels last.*--data.channels last.*moveaxis"):
        array_file(path)
    assert array_file(path, channels="last").event_shape == (4, 9, 9)
    assert array_file(path, channels="first").event_shape == (9, 9, 4)
    np.save(tmp_path / "mine.npy", pictures)
    with pytest.raises(ValueError, match=r"--data.memory-map false"):
        array_file(tmp_path / "mine.npy", memory_map=True, channels="last")
    mapped = array_file(tmp_path / "mine.npy", memory_map=True, channels="first")
    assert mapped.event_shape == (9, 9, 4)


@pytest.mark.parametrize("names", [("x",), ("x", "y"), ("train", "test")])
def test_support_option(tmp_path, names):
    dark = IMAGES // 16
    arrays = dict(zip(names, (dark, LABELS if "y" in names else dark), strict=False))
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=r"mine.npz: .* may be grey levels or counts"):
        array_file(tmp_path / "mine.npz")
    assert array_file(tmp_path / "mine.npz", support="counts").support == "counts"
    assert array_file(tmp_path / "mine.npz", levels=256).levels == 256


@pytest.mark.parametrize("names", [("arr_0",), ("x",), ("train",), ("x", "y")])
def test_npz_of_one_array(tmp_path, names):
    np.savez_compressed(tmp_path / "mine.npz", **dict(zip(names, (IMAGES, LABELS), strict=False)))
    dataset = array_file(tmp_path / "mine.npz")
    assert [len(dataset.split(split)) for split in SPLITS] == [35, 5, 10]
    for split, labels in dataset.labels.items():
        assert torch.equal(dataset.split(split)[:, 0], torch.as_tensor(IMAGES)[labels])
    assert set(dataset.labels) == (set(SPLITS) if "y" in names else set())


def test_npz_of_splits(tmp_path):
    arrays = {"train": IMAGES, "test": IMAGES[:20], "train_labels": LABELS}
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset = array_file(tmp_path / "mine.npz")
    assert [len(dataset.split(split)) for split in SPLITS] == [45, 5, 20]
    assert {split: len(labels) for split, labels in dataset.labels.items()} == {
        "train": 45,
        "validation": 5,
    }
    np.savez(tmp_path / "mine.npz", validation=IMAGES[:3], test_labels=LABELS[:20], **arrays)
    dataset = array_file(tmp_path / "mine.npz")
    assert [len(dataset.split(split)) for split in SPLITS] == [50, 3, 20]
    assert set(dataset.labels) == {"train", "test"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"found arrays named \(none\)"),
        (
            {"images": IMAGES, "y": LABELS},
            "found arrays named images, y; allowed are one array, x",
        ),
        ({"train": IMAGES, "train_labels": LABELS}, "found arrays named train, train_labels"),
        ({"train": IMAGES, "test": IMAGES, "valid": IMAGES}, "named test, train, valid; allowed"),
        ({"x": IMAGES, "y": LABELS[:-1]}, "50 rows but 49 labels"),
        ({"train": IMAGES, "test": IMAGES, "test_labels": LABELS[:9]}, "50 rows but 9 labels"),
        ({"train": IMAGES, "test": IMAGES[:, :5]}, "event shape"),
        ({"train": IMAGES[:0], "test": IMAGES}, "train split is empty"),
        ({"x": IMAGES[..., None]}, "channels last"),
        ({"x": LABELS}, "looks like labels"),
        ({"x": LABELS, "y": IMAGES}, "looks like labels"),
        ({"x": IMAGES, "y": IMAGES}, r"labels of mine must have the shape \(n,\)"),
        ({"x": np.where(IMAGES > 9, 0.5, np.nan)}, "not finite"),
        ({"x": IMAGES.astype(str)}, "dtype"),
    ],
)
def test_bad_contents_are_refused_with_the_path(tmp_path, arrays, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        array_file(path)
    assert str(path) in str(caught.value)


def damaged(folder: Path, kind: str) -> Path:
    """A file in the folder that is no good in the way that `kind` says."""
    path = folder / ("mine.npz" if "npz" in kind else "mine.npy")
    np.save(folder / "good.npy", IMAGES)
    np.savez_compressed(folder / "good.npz", x=IMAGES)
    whole = path.with_stem("good").read_bytes()
    if "directory" in kind:
        path.mkdir()
    elif "missing" not in kind:
        middle = len(whole) // 2
        path.write_bytes(
            {
                "empty": b"",
                "text": b"a,b\n1,2\n",
                "cut short": whole[:middle],
                "only a header": whole[:60],
                "overwritten": whole[:middle] + bytes(64) + whole[middle + 64 :],
                "pickled": pickle.dumps({"x": [1, 2, 3]}),
            }[kind.removesuffix(" npz")]
        )
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("directory", "no such file"),
        ("empty", "is empty"),
        ("text", "damaged or something else"),
        ("cut short", "damaged or something else"),
        ("only a header", "damaged or something else"),
        ("pickled", "without pickles"),
        ("empty npz", "is empty"),
        ("cut short npz", "damaged or something else"),
        ("only a header npz", "damaged or something else"),
        ("overwritten npz", "damaged or something else"),
    ],
)
def test_damaged_files_are_refused_with_the_path(tmp_path, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(ValueError, match=message) as caught:
        array_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_object_arrays_are_not_unpickled(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    array = np.array([{"run": "me"}] * 20, dtype=object)
    if suffix == ".npy":
        np.save(path, array)
    else:
        np.savez(path, x=array)
    with pytest.raises(ValueError, match="without pickles"):
        array_file(path)


@pytest.mark.parametrize("shape", [(3, 24), (16, 16, 40)])
def test_new_data_have_the_axes_of_training(tmp_path, shape):
    """Nothing is asked again: the model knows its layout and where its channels are."""
    from pyro_vae.data import DataContract, PreparedData, prepare

    array = np.random.default_rng(0).normal(size=(20, *shape))
    options = {"layout": "series"} if len(shape) == 2 else {"channels": "first"}
    dataset = Dataset.from_array(array, **options)
    contract = DataContract.from_data(PreparedData(dataset, "real"))
    np.save(tmp_path / "new.npy", array[:2])
    rows = READERS["array_file"](tmp_path / "new.npy", **options)
    np.testing.assert_allclose(contract.new_data(rows).dataset.test, array[:2], rtol=1e-6)
    np.testing.assert_allclose(prepare(array[:2], contract), array[:2], rtol=1e-6)


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
@pytest.mark.parametrize("dtype", [np.int8, np.float32])
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
def test_bad_counts_are_refused_with_the_path(tmp_path, changes, message):
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


def test_a_loader_takes_the_options_of_its_reader(tmp_path):
    sparse.save_npz(tmp_path / "s.npz", sparse.csr_array(COUNTS))
    for option in ("scale", "new", "levels"):
        with pytest.raises(TypeError, match=option):
            count_file(tmp_path / "s.npz", **{option: None})
    assert "scale" in inspect.signature(array_file).parameters
    assert "scale: How" in str(array_file.__doc__)
