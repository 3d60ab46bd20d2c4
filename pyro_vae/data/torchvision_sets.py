"""MNIST and sets of its format, through torchvision."""

import tempfile
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from pyro_vae.data.dataset import Dataset

# Of the files in torchvision's order: training images and labels, test images and labels.
_SHAPES = ((60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,))


def mnist(root: Path) -> Dataset:
    """Handwritten digits: 70,000 images of 28 x 28 pixels in 256 grey levels.

    Training, validation and test sets have 50,000, 10,000 and 10,000 images; validation is the last
    10,000 of the original training images. Files that are in `root` are read, the `.gz` alone too,
    and nothing is written beside them; if there are none, torchvision downloads them into `root`.

    Args:
        root: The folder that holds `MNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998),
        https://doi.org/10.1109/5.726791
    """
    return _load("mnist", "MNIST", root, label_names=tuple("0123456789"))


def fashion_mnist(root: Path) -> Dataset:
    """Pictures of clothes: 70,000 images of 28 x 28 pixels in 256 grey levels.

    Splits and files are as in `mnist`.

    Args:
        root: The folder that holds `FashionMNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Fashion-MNIST (Xiao et al., 2017), https://arxiv.org/abs/1708.07747
    """
    return _load("fashion_mnist", "FashionMNIST", root)


def kmnist(root: Path) -> Dataset:
    """Characters of old Japanese books: 70,000 images of 28 x 28 pixels in 256 grey levels.

    Splits and files are as in `mnist`.

    Args:
        root: The folder that holds `KMNIST/raw`.

    Raises:
        ValueError: If the files are missing and cannot be downloaded, or one is damaged.
        ImportError: If torchvision cannot be imported.

    References:
        Deep learning for classical Japanese literature (Clanuwat et al., 2018),
        https://arxiv.org/abs/1812.01718
    """
    return _load("kmnist", "KMNIST", root)


def import_torchvision() -> ModuleType:
    """torchvision's data sets, imported when first needed: it takes seconds.

    Raises:
        ImportError: If it cannot be imported, with what to install.
    """
    try:
        import torchvision.datasets
    # A torchvision built for another torch fails with a RuntimeError (operator nms does not exist).
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"this data set is read by torchvision, which cannot be imported ({error}). "
            f"Install the build that goes with torch {torch.__version__}: take both from the same "
            "index, pip install torch torchvision"
        ) from error
    return torchvision.datasets


def _load(
    name: str, class_name: str, root: Path, label_names: tuple[str, ...] | None = None
) -> Dataset:
    torchvision_mnist = import_torchvision().mnist
    torchvision_class = getattr(torchvision_mnist, class_name)
    folder = Path(root) / class_name / "raw"
    # Each file of the set (without .gz) and the checksum of its .gz.
    files = [(folder / Path(gz).stem, md5) for gz, md5 in torchvision_class.resources]
    missing = [file.name for file, _ in files if not (file.exists() or _gz(file).exists())]
    if missing:
        try:
            torchvision_class(root, download=True)
        # All that a download can meet: no network (URLError is an OSError), a server's refusal, a
        # checksum (torchvision's RuntimeError), a folder that cannot be written.
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{name} needs {', '.join(missing)} in {folder}, with or without .gz, and they could "
                f"not be downloaded ({' '.join(str(error).split())}). Put them there, or name the "
                f"folder that holds {class_name}/raw with --data-root or the environment variable "
                "PYRO_VAE_DATA."
            ) from error
    images, labels, test_images, test_labels = (
        _read(torchvision_mnist, file, md5, shape)
        for (file, md5), shape in zip(files, _SHAPES, strict=True)
    )
    images = images.unsqueeze(1)
    return Dataset(
        name=name,
        support="integers",
        levels=256,
        # Views: training and validation images share one memory.
        train=images[:-10_000],
        validation=images[-10_000:],
        test=test_images.unsqueeze(1),
        labels={"train": labels[:-10_000], "validation": labels[-10_000:], "test": test_labels},
        label_names=label_names or tuple(torchvision_class.classes),
    )


def _gz(file: Path) -> Path:
    return file.with_name(file.name + ".gz")


def _read(torchvision_mnist: ModuleType, file: Path, md5: str, shape: tuple[int, ...]) -> Tensor:
    """The array in `file`, or, if there is no such file, in its `.gz`, which has that checksum."""
    if file.exists():
        return _parse(torchvision_mnist, file, shape)
    from torchvision.datasets.utils import check_integrity, extract_archive

    if not check_integrity(_gz(file), md5):
        raise ValueError(
            f"{_gz(file)} is damaged or another file: its MD5 checksum must be {md5}. Delete it to "
            "have it downloaded anew."
        )
    # Not beside the .gz: that folder may be someone else's, or read-only.
    with tempfile.TemporaryDirectory() as temporary:
        return _parse(torchvision_mnist, Path(extract_archive(_gz(file), temporary)), shape)


def _parse(torchvision_mnist: ModuleType, file: Path, shape: tuple[int, ...]) -> Tensor:
    images = len(shape) > 1
    read = torchvision_mnist.read_image_file if images else torchvision_mnist.read_label_file
    try:
        values = read(str(file))
    # What torchvision's reader raises on a file that is cut short depends on where.
    except Exception as error:
        raise ValueError(
            f"{file} is damaged: it cannot be read as an IDX file ({error})."
        ) from error
    if values.shape != shape:
        raise ValueError(f"{file} must hold an array {shape}, got {tuple(values.shape)}.")
    return values
