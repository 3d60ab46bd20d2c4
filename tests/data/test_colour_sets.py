"""CIFAR-10, SVHN and CelebA from small files in the official formats. The network is never used."""

import hashlib
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from pyro_vae.data import DATASETS, Dataset, celeba, cifar10, svhn
from pyro_vae.data.dataset import SPLITS

CLASSES = [f"thing {index}" for index in range(10)]
DOWNLOADS = {
    "cifar10": "torchvision.datasets.cifar.download_and_extract_archive",
    # Behind the check whether a file is there already.
    "svhn": "torchvision.datasets.utils._get_redirect_url",
    "celeba": "torchvision.datasets.celeba.download_file_from_google_drive",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_missing_files_are_downloaded_into_the_root(tmp_path, monkeypatch, name):
    source = tmp_path / "source"
    source.mkdir()
    WRITERS[name](source, monkeypatch)
    root = tmp_path / "new"

    def download(*args: object, **kwargs: object) -> None:
        shutil.copytree(source, root, dirs_exist_ok=True)

    into = {"svhn": "torchvision.datasets.svhn.download_url"}.get(name, DOWNLOADS[name])
    monkeypatch.setattr(into, download)
    assert len(DATASETS[name](root).train) == 36
