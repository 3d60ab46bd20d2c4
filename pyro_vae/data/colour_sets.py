"""CIFAR-10, SVHN and CelebA, through torchvision."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.image_folders import middle_square
from pyro_vae.data.torchvision_sets import import_torchvision

# CelebA's photographs are 178 x 218; the faces fill this square in their middle.
_FACE = 148


def cifar10(root: Path) -> Dataset:
    """Photographs of ten things: 60,000 images of 3 x 32 x 32 in 256 levels.

    Training, validation and test sets have 45,000, 5,000 and 10,000 images; validation is the last
    tenth of the original training images. If the files are not in `root`, torchvision downloads
    them into it.

    Args:
        root: The folder that holds `cifar-10-batches-py`.

    Raises:
        ValueError: If the files are missing or damaged, and cannot be downloaded.
        ImportError: If torchvision cannot be imported.

    References:
        Learning multiple layers of features from tiny images (Krizhevsky, 2009),
        https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
    """
    datasets = import_torchvision()
    parts = _through_torchvision(
        lambda: [datasets.CIFAR10(root, train=train, download=True) for train in (True, False)],
        "cifar10 needs the files of cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) "
        f"in {Path(root) / 'cifar-10-batches-py'}",
    )
    train, test = parts
    # torchvision turns the files' channels-first arrays into channels-last views: this turns them back.
    images, test_images = (np.moveaxis(part.data, -1, 1) for part in parts)
    return _dataset(
        "cifar10", (images, train.targets), (test_images, test.targets), tuple(train.classes)
    )


def svhn(root: Path) -> Dataset:
    """House numbers from street photographs: 99,289 images of 3 x 32 x 32 in 256 levels.

    Training, validation and test sets have 65,932, 7,325 and 26,032 images; validation is the last
    tenth of the original training images, and the "extra" ones are not used. If the files are not in
    `root`, torchvision downloads them into it.

    Args:
        root: The folder that holds `train_32x32.mat` and `test_32x32.mat`.

    Raises:
        ValueError: If the files are missing or damaged, and cannot be downloaded.
        ImportError: If torchvision cannot be imported.

    References:
        Reading digits in natural images with unsupervised feature learning (Netzer et al., 2011),
        http://ufldl.stanford.edu/housenumbers/
    """
    datasets = import_torchvision()

    def load(split: str) -> tuple[np.ndarray, np.ndarray]:
        part = datasets.SVHN(root, split=split, download=True)
        # The file keeps one pixel of all images together; a batch wants one image's pixels so.
        return np.ascontiguousarray(part.data), part.labels

    train, test = _through_torchvision(
        lambda: [load("train"), load("test")],
        "svhn needs train_32x32.mat and test_32x32.mat (http://ufldl.stanford.edu/housenumbers/) "
        f"in {root}",
    )
    return _dataset("svhn", train, test, tuple("0123456789"))


def celeba(root: Path, size: int = 64) -> Dataset:
    """Faces of celebrities: 202,599 photographs of 3 x `size` x `size` in 256 levels.

    The data set's own splits: 162,770 training, 19,867 validation and 19,962 test images. Each
    aligned photograph of 178 x 218 is cut to the 148 x 148 in its middle and reduced by bilinear
    interpolation over the area that a pixel covers. Labels are 40 attributes, 0 or 1. At 64 x 64 the
    images take 2.5 GB. If the files are not in `root`, torchvision downloads them into it.

    Args:
        root: The folder that holds `celeba/img_align_celeba`.
        size: The number of pixels a side.

    Raises:
        ValueError: If the files are missing or damaged, and cannot be downloaded, or `size` is not
            between 1 and 148.
        ImportError: If torchvision cannot be imported.

    References:
        Deep learning face attributes in the wild (Liu et al., 2015), https://arxiv.org/abs/1411.7766
    """
    if not 1 <= size <= _FACE:
        raise ValueError(f"size must be between 1 and {_FACE}, got {size}.")
    datasets = import_torchvision()
    folder = Path(root) / "celeba"
    parts = _through_torchvision(
        lambda: [
            datasets.CelebA(root, split=split, download=split == "train")
            for split in ("train", "valid", "test")
        ],
        "celeba needs the folder img_align_celeba and the five lists of "
        f"http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html in {folder}",
    )
    images, labels = [], {}
    for split, part in zip(SPLITS, parts, strict=True):
        files = [folder / "img_align_celeba" / name for name in part.filename]
        images.append(_faces(files, size))
        labels[split] = part.attr
    names = tuple(name for name in parts[0].attr_names if name)
    return Dataset("celeba", "integers", 256, *images, labels=labels, label_names=names)


def _through_torchvision(load: Callable[[], list[Any]], needs: str) -> list[Any]:
    """What `load` returns, or one error that says what is needed, where, and how to get it there."""
    try:
        return load()
    # A download can meet no network, a server's refusal, a wrong checksum, a folder that cannot be
    # written, and whatever gdown raises, which CelebA comes through.
    except Exception as error:
        raise ValueError(
            f"{needs}; they are not there, or damaged, and could not be downloaded "
            f"({' '.join(str(error).split())}). Put them there, or name the folder that they are in "
            "with --data-root or the environment variable PYRO_VAE_DATA."
        ) from error


def _dataset(
    name: str,
    train: tuple[np.ndarray, Any],
    test: tuple[np.ndarray, Any],
    label_names: tuple[str, ...],
) -> Dataset:
    """Training data whose last tenth becomes the validation split, and test data."""
    images, test_images = (torch.from_numpy(part[0]) for part in (train, test))
    labels, test_labels = (torch.as_tensor(part[1]) for part in (train, test))
    n = len(images) - len(images) // 10
    return Dataset(
        name=name,
        support="integers",
        levels=256,
        # Views: training and validation images share one memory.
        train=images[:n],
        validation=images[n:],
        test=test_images,
        labels={"train": labels[:n], "validation": labels[n:], "test": test_labels},
        label_names=label_names,
    )


def _faces(files: list[Path], size: int) -> Tensor:
    """The middle of each photograph, reduced, `(n, 3, size, size)`."""
    from PIL import Image

    faces = np.empty((len(files), 3, size, size), np.uint8)

    def read(row: int) -> None:
        try:
            with Image.open(files[row]) as image:
                face = middle_square(image.convert("RGB"), _FACE, size)
        # Pillow raises a dozen types between them for damaged files.
        except Exception as error:
            raise ValueError(f"{files[row]} is missing or damaged ({error}).") from error
        faces[row] = np.moveaxis(np.asarray(face), -1, 0)

    # Pillow lets go of the interpreter while it decodes.
    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(files))))
    return torch.from_numpy(faces)
