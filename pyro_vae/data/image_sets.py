"""Image sets read by scikit-learn (digits, photos) and torchvision (MNIST to CelebA)."""

import gzip
import hashlib
import importlib.util
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.image_reading import center_square
from pyro_vae.data.splits import permutation

_DIGITS_SEED = 1797
_PHOTOS_SEED = 427_640

# The photographs are cut into blocks of this side length, which are assigned to the splits: no
# pixel is in two of them.
_BLOCK = 64
_BLOCKS = (80, 16, 24)
_PATCH = 32
# Distance of the patches in a block. Test patches overlap less, because standard errors assume
# independence.
_STRIDES = (4, 8, 8)

# MNIST's training images and labels, and test images and labels, with their shapes.
_MNIST_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_MNIST_SHAPES = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))
# The checksums of their `.gz`, by torchvision's name of the set.
_MNIST_MD5 = {
    "MNIST": (
        *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "FashionMNIST": (
        *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
    "KMNIST": (
        *("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
        *("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
    ),
}

# CelebA's photographs are 178 x 218; the faces fill this square in their center.
_FACE = 148


def digits() -> Dataset:
    """1,797 scanned digits of 8 x 8 pixels in 17 grey levels, included in scikit-learn.

    Always split into 1,257 training, 180 validation and 360 test images.

    >>> digits().train.shape
    torch.Size([1257, 1, 8, 8])

    Raises:
        ImportError: If scikit-learn cannot be imported.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998),
        https://doi.org/10.24432/C50P49
    """
    # Importing scikit-learn, with pandas and scipy.stats, takes a second; its file is read alone.
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the digits are part of scikit-learn: pip install scikit-learn")
    file = Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not file.is_file():
        raise ImportError(
            f"the digits are not where scikit-learn keeps them, {file}: pip install scikit-learn"
        )
    table = torch.from_numpy(np.loadtxt(file, np.uint8, delimiter=","))
    images, labels = table[:, :-1].unflatten(1, (1, 8, 8)), table[:, -1].long()
    parts = permutation(len(images), seed=_DIGITS_SEED).split([1257, 180, 360])
    splits: dict[str, Tensor] = dict(zip(SPLITS, parts, strict=True))
    return Dataset(
        "digits",
        "integers",
        17,
        *(images[rows] for rows in parts),
        labels={split: labels[rows] for split, rows in splits.items()},
        label_names=tuple("0123456789"),
        rows=splits,
    )


def photos() -> Dataset:
    """7,480 patches, 3 x 32 x 32 in 256 levels, of two photographs of scikit-learn's.

    The photographs, of a temple and a flower, are cut into 120 blocks of 64 x 64, always assigned
    to the same splits: 80 give 6,480 training patches (one every 4 pixels), 16 give 400 for
    validation and 24 give 600 for the test (one every 8 pixels). Patches of one block overlap, so
    scores vary more than those of as many independent images. The label is the photograph.

    >>> photos().train.shape
    torch.Size([6480, 3, 32, 32])

    Raises:
        ImportError: If scikit-learn or Pillow cannot be imported.

    References:
        scikit-learn, `sklearn.datasets.load_sample_images`,
        https://scikit-learn.org/stable/datasets
    """
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    # scikit-learn imports Pillow when it reads the photographs.
    except ImportError as error:
        raise ImportError(
            "the photographs are part of scikit-learn and read by Pillow, one of which cannot be "
            f"imported ({error}): pip install scikit-learn pillow"
        ) from error
    blocks = _patches(torch.from_numpy(np.stack(images)).movedim(-1, 1), _BLOCK, _BLOCK)
    photograph = torch.arange(len(images)).repeat_interleave(len(blocks) // len(images))
    parts = permutation(len(blocks), seed=_PHOTOS_SEED).split(_BLOCKS)
    splits, labels = [], {}
    for split, rows, stride in zip(SPLITS, parts, _STRIDES, strict=True):
        patches = _patches(blocks[rows], _PATCH, stride)
        splits.append(patches)
        labels[split] = photograph[rows].repeat_interleave(len(patches) // len(rows))
    return Dataset(
        "photos", "integers", 256, *splits, labels=labels, label_names=("temple", "flower")
    )


def _patches(
    images: UInt8[Tensor, "images 3 height width"], size: int, stride: int
) -> UInt8[Tensor, "patches 3 size size"]:
    """The square patches that begin every `stride` pixels, image by image."""
    windows = images.unfold(2, size, stride).unfold(3, size, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, size, size)


# ---- torchvision: MNIST's format --------------------------------------------------------------


def mnist(root: Path) -> Dataset:
    """70,000 handwritten digits of 28 x 28 pixels in 256 grey levels.

    There are 50,000 training, 10,000 validation and 10,000 test images; validation is the last
    10,000 of the original training images. Files in `root`, perhaps as `.gz` alone, are read and
    nothing is written beside them; if there are none, torchvision downloads them into `root`.

    Args:
        root: The folder that holds `MNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998),
        https://doi.org/10.1109/5.726791
    """
    return _load_mnist("mnist", "MNIST", root, tuple("0123456789"))


def fashion_mnist(root: Path) -> Dataset:
    """70,000 pictures of clothes, 28 x 28 in 256 grey levels; splits and files as in `mnist`.

    Args:
        root: The folder that holds `FashionMNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Fashion-MNIST (Xiao et al., 2017), https://arxiv.org/abs/1708.07747
    """
    names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    return _load_mnist("fashion_mnist", "FashionMNIST", root, names)


def kmnist(root: Path) -> Dataset:
    """70,000 characters of old Japanese books, 28 x 28 in 256 grey levels, as in `mnist`.

    Args:
        root: The folder that holds `KMNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Deep learning for classical Japanese literature (Clanuwat et al., 2018),
        https://arxiv.org/abs/1812.01718
    """
    names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    return _load_mnist("kmnist", "KMNIST", root, names)


def import_torchvision() -> ModuleType:
    """Import `torchvision.datasets` on first use: it takes seconds.

    Raises:
        ImportError: If it cannot be imported; the message says what to install.
    """
    try:
        import torchvision.datasets
    # A torchvision built for another torch fails with a RuntimeError (operator nms does not
    # exist).
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"this data set is read by torchvision, which cannot be imported ({error}). "
            f"Install the build that goes with torch {torch.__version__}: take both from the same "
            "index, pip install torch torchvision"
        ) from error
    return torchvision.datasets


def _load_mnist(name: str, class_name: str, root: Path, label_names: tuple[str, ...]) -> Dataset:
    folder = Path(root) / class_name / "raw"
    files = [folder / file for file in _MNIST_FILES]
    missing = [file.name for file in files if not (file.exists() or _gz(file).exists())]
    if missing:
        torchvision_class = getattr(import_torchvision().mnist, class_name)
        needs = f"{name} needs {', '.join(missing)} in {folder}, with or without .gz"
        _download(lambda: [torchvision_class(root, download=True)], needs)
    images, labels, test_images, test_labels = (
        _read_idx(file, md5, shape)
        for file, md5, shape in zip(files, _MNIST_MD5[class_name], _MNIST_SHAPES, strict=True)
    )
    return _split_last(
        name,
        (images.unsqueeze(1), labels.long()),
        (test_images.unsqueeze(1), test_labels.long()),
        label_names,
        n_validation=10_000,
    )


def _gz(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _read_idx(file: Path, md5: str, shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Read an IDX file of bytes, or its `.gz` with this checksum if there is no such file.

    torchvision could read it, but importing it takes more than a second.
    """
    if file.exists():
        content = file.read_bytes()
    else:
        compressed = _gz(file).read_bytes()
        if hashlib.md5(compressed, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(
                f"{_gz(file)} is damaged or another file: its MD5 checksum must be {md5}. Delete "
                "it to download it again."
            )
        content = gzip.decompress(compressed)
    # The magic number, with the type of the values and the number of axes, then their sizes.
    start = 4 + 4 * len(shape)
    found = tuple(np.frombuffer(content[4:start], ">i4").tolist()) if len(content) >= start else ()
    if content[:4] != bytes([0, 0, 8, len(shape)]) or len(content) != start + math.prod(found):
        raise ValueError(
            f"{file} is damaged: it cannot be read as an IDX file of bytes with {len(shape)} axes."
        )
    if found != shape:
        raise ValueError(f"{file} must hold an array {shape}, got {found}.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


# ---- torchvision: colour ----------------------------------------------------------------------


def cifar10(root: Path) -> Dataset:
    """60,000 photographs in ten classes, 3 x 32 x 32 in 256 levels.

    There are 45,000 training, 5,000 validation and 10,000 test images; validation is the last
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
    train, test = _download(
        lambda: [datasets.CIFAR10(root, train=train, download=True) for train in (True, False)],
        "cifar10 needs the files of cifar-10-python.tar.gz "
        f"(https://www.cs.toronto.edu/~kriz/cifar.html) in {Path(root) / 'cifar-10-batches-py'}",
    )
    # torchvision makes the files' channels-first arrays channels-last views: this undoes it.
    images, test_images = (np.moveaxis(part.data, -1, 1) for part in (train, test))
    return _split_last(
        "cifar10", (images, train.targets), (test_images, test.targets), tuple(train.classes)
    )


def svhn(root: Path) -> Dataset:
    """99,289 house numbers in street photographs, 3 x 32 x 32 in 256 levels.

    There are 65,932 training, 7,325 validation and 26,032 test images; validation is the last
    tenth of the original training images, and the "extra" ones are not used. If the files are not
    in `root`, torchvision downloads them into it.

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
        # The file stores one pixel of all images together.
        return np.ascontiguousarray(part.data), part.labels

    train, test = _download(
        lambda: [load("train"), load("test")],
        "svhn needs train_32x32.mat and test_32x32.mat (http://ufldl.stanford.edu/housenumbers/) "
        f"in {root}",
    )
    return _split_last("svhn", train, test, tuple("0123456789"))


def celeba(root: Path, size: int = 64) -> Dataset:
    """202,599 photographs of celebrities' faces, 3 x `size` x `size` in 256 levels.

    The data set's own splits: 162,770 training, 19,867 validation and 19,962 test images. Each
    aligned photograph of 178 x 218 is cropped to the central 148 x 148 and reduced by bilinear
    interpolation over the area of a pixel. Labels are 40 attributes, 0 or 1. At 64 x 64 the images
    take 2.5 GB. If the files are not in `root`, torchvision downloads them into it.

    Args:
        root: The folder that holds `celeba/img_align_celeba`.
        size: Height and width in pixels.

    Raises:
        ValueError: If the files are missing or damaged, and cannot be downloaded, or `size` is not
            between 1 and 148.
        ImportError: If torchvision cannot be imported.

    References:
        Deep learning face attributes in the wild (Liu et al., 2015),
        https://arxiv.org/abs/1411.7766
    """
    if not 1 <= size <= _FACE:
        raise ValueError(f"size must be between 1 and {_FACE}, got {size}.")
    datasets = import_torchvision()
    folder = Path(root) / "celeba"
    parts = _download(
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
        images.append(_read_faces(files, size))
        labels[split] = part.attr
    names = tuple(name for name in parts[0].attr_names if name)
    return Dataset("celeba", "integers", 256, *images, labels=labels, label_names=names)


def _download(load: Callable[[], list[Any]], needs: str) -> list[Any]:
    """Call `load`; on failure raise one error that says what is needed and where to put it."""
    try:
        return load()
    # No network, a server's refusal, a wrong checksum, a folder that cannot be written, and
    # whatever gdown raises, which downloads CelebA.
    except Exception as error:
        raise ValueError(
            f"{needs}; they are not there, or damaged, and could not be downloaded "
            f"({' '.join(str(error).split())}). Put them there, or name the folder that holds "
            "them with --data-root or the environment variable PYRO_VAE_DATA."
        ) from error


def _split_last(
    name: str,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    label_names: tuple[str, ...],
    n_validation: int | None = None,
) -> Dataset:
    """A data set of 256 levels whose last training images (by default a tenth) are validation."""
    images, labels, test_images, test_labels = map(torch.as_tensor, (*train, *test))
    n = len(images) - (len(images) // 10 if n_validation is None else n_validation)
    return Dataset(
        name=name,
        support="integers",
        levels=256,
        # Views: training and validation images share memory.
        train=images[:n],
        validation=images[n:],
        test=test_images,
        labels={"train": labels[:n], "validation": labels[n:], "test": test_labels},
        label_names=label_names,
    )


def _read_faces(files: list[Path], size: int) -> Tensor:
    """The center of each photograph, reduced, `(n, 3, size, size)`."""
    from PIL import Image

    faces = np.empty((len(files), 3, size, size), np.uint8)

    def read(row: int) -> None:
        try:
            with Image.open(files[row]) as image:
                face = center_square(image.convert("RGB"), _FACE, size)
        # Pillow raises a dozen types between them for damaged files.
        except Exception as error:
            raise ValueError(f"{files[row]} is missing or damaged ({error}).") from error
        faces[row] = np.moveaxis(np.asarray(face), -1, 0)

    # Pillow releases the interpreter lock while it decodes.
    with ThreadPoolExecutor() as pool:
        list(pool.map(read, range(len(files))))
    return torch.from_numpy(faces)
