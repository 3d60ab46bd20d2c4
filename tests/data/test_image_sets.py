"""Digits, photographs, and the sets that torchvision reads."""

import gzip
import hashlib
import inspect
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from pyro_vae.data import (
    DATASETS,
    Dataset,
    celeba,
    cifar10,
    default_root,
    fashion_mnist,
    kmnist,
    mnist,
    svhn,
)
from pyro_vae.data.dataset import SPLITS

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SETS = [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")]
SET_NAMES = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}


def real_root(class_name: str) -> Path:
    if not os.environ.get("PYRO_VAE_DATA"):
        pytest.skip("needs the MNIST files: set PYRO_VAE_DATA to the folder that holds MNIST/raw")
    root = default_root()
    if not (root / class_name / "raw" / f"{NAMES[0]}.gz").exists():
        pytest.skip(f"PYRO_VAE_DATA={root} does not hold {class_name}/raw/{NAMES[0]}.gz")
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)


def write_idx(path: Path, shape: tuple[int, ...]) -> None:
    """An IDX file of bytes: the magic number, the sizes, then row i of value i mod 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    rows = (torch.arange(shape[0]) % 10).to(torch.uint8).reshape(-1, *[1] * (len(shape) - 1))
    path.write_bytes(header + rows.expand(shape).contiguous().numpy().tobytes())


def write_plain_set(root: Path, class_name: str = "MNIST") -> Path:
    """The four uncompressed files, of the right shapes and made-up content; returns their folder."""
    folder = root / class_name / "raw"
    for name in NAMES:
        n = 60_000 if name.startswith("train") else 10_000
        write_idx(folder / name, (n, 28, 28) if "images" in name else (n,))
    return folder


def copy_gz_set(tmp_path: Path) -> Path:
    """MNIST's four .gz alone, in a folder of our own; returns it."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in NAMES:
        # Not copy: the source may be read-only, and so would the copy be.
        shutil.copyfile(real_root("MNIST") / "MNIST" / "raw" / f"{name}.gz", folder / f"{name}.gz")
    return folder


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def check(dataset: Dataset, name: str) -> None:
    assert dataset.name == name
    assert (dataset.support, dataset.levels, dataset.event_shape) == ("integers", 256, (1, 28, 28))
    assert [len(dataset.split(split)) for split in SPLITS] == [50_000, 10_000, 10_000]
    assert {dataset.split(split).dtype for split in SPLITS} == {torch.uint8}
    assert len(dataset.label_names) == 10
    # One copy: validation lies behind the training images in one memory.
    behind = dataset.train.data_ptr() + dataset.train.numel()
    assert dataset.validation.data_ptr() == behind


@pytest.mark.parametrize(("load", "class_name"), SETS)
def test_gz_alone_are_read_and_nothing_is_written(
    load: Callable[[Path], Dataset], class_name: str
):
    root = real_root(class_name)
    before = contents(root / class_name)
    dataset = load(root)
    check(dataset, SET_NAMES[class_name])
    assert contents(root / class_name) == before
    # Every digit, or piece of clothing, has its place in each split.
    assert all(len(dataset.labels[split].unique()) == 10 for split in SPLITS)


def test_mnist_is_mnist():
    dataset = mnist(real_root("MNIST"))
    # The set's published mean grey level and first labels, training and test.
    images = torch.cat([dataset.train, dataset.validation])
    assert images.float().mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert dataset.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]
    with gzip.open(default_root() / "MNIST" / "raw" / f"{NAMES[0]}.gz") as file:
        last = file.read()[-784:]
    assert bytes(dataset.validation[-1].flatten().tolist()) == last


def test_gz_in_a_read_only_folder(tmp_path):
    folder = copy_gz_set(tmp_path)
    before = contents(tmp_path)
    folder.chmod(0o555)
    try:
        check(mnist(tmp_path), "mnist")
    finally:
        folder.chmod(0o755)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("load", "class_name"), [*SETS, (kmnist, "KMNIST")])
def test_uncompressed_files_are_read(tmp_path, load: Callable[[Path], Dataset], class_name: str):
    write_plain_set(tmp_path, class_name)
    before = contents(tmp_path)
    dataset = load(tmp_path)
    check(dataset, SET_NAMES[class_name])
    assert contents(tmp_path) == before
    # Rows were numbered modulo ten, 50,000 before the validation split.
    assert dataset.train[1234].unique().tolist() == [4]
    assert dataset.validation[7].unique().tolist() == [7]
    assert dataset.labels["validation"][:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["cut short", "changed", "empty"])
def test_damaged_gz_is_named(tmp_path, damage):
    folder = copy_gz_set(tmp_path)
    file = folder / "t10k-labels-idx1-ubyte.gz"
    data = file.read_bytes()
    file.write_bytes(
        {"cut short": data[:2000], "changed": data[:-9] + b"x" + data[-8:], "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match="is damaged or another file: its MD5") as caught:
        mnist(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("name", "keep"), [*zip(NAMES, [0, 3, 1000, 3], strict=True)])
def test_damaged_uncompressed_file_is_named(tmp_path, name, keep):
    file = write_plain_set(tmp_path) / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is damaged: it cannot be read") as caught:
        mnist(tmp_path)
    assert str(file) in str(caught.value)


def test_file_of_another_set_is_named(tmp_path):
    file = write_plain_set(tmp_path) / "train-images-idx3-ubyte"
    write_idx(file, (100, 28, 28))
    with pytest.raises(
        ValueError, match=r"must hold an array \(60000, 28, 28\), got \(100, 28, 28\)"
    ):
        mnist(tmp_path)


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("wrong\nchecksum")])
def test_failed_download_says_what_and_where(tmp_path, monkeypatch, error):
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte.*--data-root.*PYRO_VAE_DATA"
    ) as e:
        mnist(tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(e.value)
    assert "\n" not in str(e.value)


def test_root_that_cannot_be_written_says_what_and_where(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--data-root"):
        fashion_mnist(tmp_path / "file")


def test_missing_files_are_downloaded_into_the_root(tmp_path, monkeypatch):
    def download(url: str, download_root: str, filename: str, md5: str) -> None:
        name = filename.removesuffix(".gz")
        n = 60_000 if name.startswith("train") else 10_000
        write_idx(Path(download_root) / name, (n, 28, 28) if "images" in name else (n,))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    check(mnist(tmp_path / "new"), "mnist")
    assert (tmp_path / "new" / "MNIST" / "raw" / NAMES[0]).exists()


def test_torchvision_that_cannot_be_imported(tmp_path, monkeypatch):
    # None in sys.modules makes `import` raise ImportError.
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match="pip install torch torchvision"):
        mnist(tmp_path)


def test_default_root(monkeypatch):
    monkeypatch.setenv("PYRO_VAE_DATA", "/somewhere")
    assert default_root() == Path("/somewhere")
    monkeypatch.delenv("PYRO_VAE_DATA")
    assert default_root() == Path("data")


def test_dictionary_names_the_sets():
    scikit_learn = {"digits", "photos"}
    torchvision = {"mnist", "fashion_mnist", "kmnist", "cifar10", "svhn", "celeba"}
    files = {"static_mnist", "omniglot", "freyface", "dsprites", "newsgroups", "mouse_bladder"}
    files |= {"freyface_sequences"}
    made = {"pendulum"}
    own = {"array_file", "image_folder", "count_file", "table_file", "anndata_file"}
    own |= {"tenx_file", "matrix_market_file", "variable_file"}
    assert set(DATASETS) == scikit_learn | torchvision | files | made | own
    for name, load in DATASETS.items():
        parameters = inspect.signature(load).parameters
        # What the command line hands a loader, and what it asks the user for.
        assert ("root" in parameters) == (name in torchvision | files)
        assert ("path" in parameters) == (name in own)


CLASSES = [f"thing {index}" for index in range(10)]
DOWNLOADS = {
    "cifar10": "torchvision.datasets.cifar.download_and_extract_archive",
    # Behind the check whether a file is there already.
    "svhn": "torchvision.datasets.utils._get_redirect_url",
    "celeba": "torchvision.datasets.celeba.download_file_from_google_drive",
}


@pytest.fixture(autouse=True)
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no\nnetwork here")

    for download in DOWNLOADS.values():
        monkeypatch.setattr(download, refuse)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def pictures(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Five batches of 8 and one of 12; returns training and test pictures."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    train, test = pictures(40, seed=0), pictures(12, seed=1)
    batches = {f"data_batch_{i + 1}": train[8 * i : 8 * i + 8] for i in range(5)}
    for name, images in {**batches, "test_batch": test}.items():
        labels = [int(image[0, 0, 0]) % 10 for image in images]
        content = {"data": images.reshape(len(images), -1), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    sums = {file.name: md5(file) for file in folder.iterdir()}
    official = torchvision.datasets.CIFAR10
    monkeypatch.setattr(official, "train_list", [[name, sums[name]] for name in batches])
    monkeypatch.setattr(official, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": sums["batches.meta"]})
    return train, test


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """40 training and 12 test pictures; returns them."""
    train, test = pictures(40, seed=0), pictures(12, seed=1)
    files = {}
    for split, images in {"train": train, "test": test}.items():
        file = root / f"{split}_32x32.mat"
        # Digit 0 has label 10, and pictures are the last axis.
        labels = (images[:, 0, 0, 0] % 10).astype(np.uint8)
        labels[labels == 0] = 10
        savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]})
        files[split] = ["http://nowhere", file.name, md5(file)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    return train, test


def write_celeba(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seven photographs, each of one grey in the middle and white elsewhere; returns the greys."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06}.jpg" for i in range(7)]
    greys = [30 * i for i in range(7)]
    for name, grey in zip(names, greys, strict=True):
        photograph = np.full((218, 178, 3), 255, np.uint8)
        photograph[35:183, 15:163] = grey
        Image.fromarray(photograph).save(
            folder / "img_align_celeba" / name, quality=95, subsampling=0
        )
    rows = {
        "list_eval_partition.txt": [f"{name} {split}" for name, split in zip(names, (0, 0, 0, 1, 1, 2, 2), strict=True)],
        "identity_CelebA.txt": [f"{name} 7" for name in names],
        "list_bbox_celeba.txt": ["7", "image_id x_1 y_1", *[f"{name} 1 2" for name in names]],
        "list_landmarks_align_celeba.txt": ["7", "lefteye_x", *[f"{name} 3" for name in names]],
        "list_attr_celeba.txt": ["7", "Bald Smiling ", *[f"{name}  1 -1" for name in names]],
    }  # fmt: skip
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    sums = [("id", "of a zip that may be gone", "img_align_celeba.zip")]
    sums += [("id", md5(folder / name), name) for name in rows]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", sums)
    return greys


WRITERS = {"cifar10": write_cifar10, "svhn": write_svhn, "celeba": write_celeba}
FIRST_FILES = {
    "cifar10": "cifar-10-batches-py/data_batch_1",
    "svhn": "train_32x32.mat",
    "celeba": "celeba/list_attr_celeba.txt",
}


@pytest.mark.parametrize("load", [cifar10, svhn])
def test_pictures_labels_and_splits(tmp_path, monkeypatch, load):
    train, test = WRITERS[load.__name__](tmp_path, monkeypatch)
    dataset: Dataset = load(tmp_path)
    assert (dataset.name, dataset.support, dataset.levels) == (load.__name__, "integers", 256)
    assert dataset.event_shape == (3, 32, 32)
    assert [len(dataset.split(split)) for split in SPLITS] == [36, 4, 12]
    # Channels second, in the files' order.
    assert torch.equal(dataset.train, torch.from_numpy(train[:36]))
    assert torch.equal(dataset.validation, torch.from_numpy(train[36:]))
    assert torch.equal(dataset.test, torch.from_numpy(test))
    for split in SPLITS:
        images = dataset.split(split)
        assert torch.equal(dataset.labels[split], images[:, 0, 0, 0].long() % 10)
        assert images.is_contiguous()
        assert images.dtype == torch.uint8
    # One copy.
    assert dataset.validation.data_ptr() == dataset.train.data_ptr() + dataset.train.numel()
    assert len(dataset.label_names) == 10


def test_celeba_is_cut_to_the_face_and_keeps_its_splits(tmp_path, monkeypatch):
    greys = write_celeba(tmp_path, monkeypatch)
    dataset = celeba(tmp_path)
    assert (dataset.support, dataset.levels, dataset.event_shape) == (
        "integers",
        256,
        (3, 64, 64),
    )
    assert [len(dataset.split(split)) for split in SPLITS] == [3, 2, 2]
    assert dataset.label_names == ("Bald", "Smiling")
    images = torch.cat([dataset.split(split) for split in SPLITS])
    for image, grey in zip(images, greys, strict=True):
        # The white border is gone, but for what JPEG smears of it over the very edge.
        assert (image[:, 2:-2, 2:-2].int() - grey).abs().max() <= 3
    assert dataset.labels["test"].tolist() == [[1, 0], [1, 0]]
    assert celeba(tmp_path, size=32).event_shape == (3, 32, 32)
    for size in (0, 149):
        with pytest.raises(ValueError, match=f"size must be between 1 and 148, got {size}"):
            celeba(tmp_path, size=size)


def test_a_damaged_photograph_is_named(tmp_path, monkeypatch):
    write_celeba(tmp_path, monkeypatch)
    photograph = tmp_path / "celeba" / "img_align_celeba" / "000004.jpg"
    photograph.write_bytes(photograph.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"000004.jpg is missing or damaged"):
        celeba(tmp_path)
    photograph.unlink()
    with pytest.raises(ValueError, match=r"000004.jpg is missing or damaged"):
        celeba(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_what_cannot_be_downloaded_is_named(tmp_path, monkeypatch, name, state):
    WRITERS[name](tmp_path, monkeypatch)
    file = tmp_path / FIRST_FILES[name]
    if state == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"{name} needs .*no network.*--data-root") as caught:
        DATASETS[name](tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_is_not_the_official_one_is_not_loaded(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    file = tmp_path / FIRST_FILES["cifar10"]
    file.write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "run") + b"'\ntR.")
    with pytest.raises(ValueError, match="cifar10 needs"):
        cifar10(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_missing_colour_files_are_downloaded(tmp_path, monkeypatch, name):
    source = tmp_path / "source"
    source.mkdir()
    WRITERS[name](source, monkeypatch)
    root = tmp_path / "new"

    def download(*args: object, **kwargs: object) -> None:
        shutil.copytree(source, root, dirs_exist_ok=True)

    into = {"svhn": "torchvision.datasets.svhn.download_url"}.get(name, DOWNLOADS[name])
    monkeypatch.setattr(into, download)
    assert len(DATASETS[name](root).train) == 36
