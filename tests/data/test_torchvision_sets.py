"""MNIST and sets of its format from every state a folder may be in. The network is never used."""

import gzip
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from pyro_vae.data import DATASETS, Dataset, default_root, fashion_mnist, kmnist, mnist
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 3, 1000])
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
    own = {"array_file", "image_folder", "count_file", "table_file", "anndata_file"}
    own |= {"tenx_file", "matrix_market_file", "variable_file"}
    assert set(DATASETS) == scikit_learn | torchvision | files | own
    for name, load in DATASETS.items():
        parameters = inspect.signature(load).parameters
        # What the command line hands a loader, and what it asks the user for.
        assert ("root" in parameters) == (name in torchvision | files)
        assert ("path" in parameters) == (name in own)
