"""The user's own pictures: a folder of image files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.memory import require_memory

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")

# Pillow's modes of 8 bits or less; others (16 bits, floats) would lose what they hold.
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_TRANSPARENT = ("LA", "PA", "RGBA")


def image_folder(
    path: str | Path, size: int | None = None, channels: Literal[1, 3] | None = None
) -> Dataset:
    """Pictures from a folder: `.png`, `.jpg`, `.bmp`, `.gif`, `.tif` or `.webp`, in 256 levels.

    Pictures lie in the folder, or each in the folder of its class, which is then its label: the
    first class in the alphabet is 0. They are split as in `Dataset.from_array`, unless the folder
    holds folders named `train`, `test` and perhaps `validation`, which are taken as they are.

    Args:
        path: The folder.
        size: Cut each picture to the largest square in its middle, and scale that to so many pixels a
            side; without, all pictures must have one size.
        channels: 1 makes all pictures grey, 3 makes them RGB; without, all must be of one kind.

    Raises:
        ValueError: If there are no pictures or too few, pictures lie beside folders of pictures, one
            is damaged, animated, transparent or of more than 8 bits, or they differ in size or kind.
        ImportError: If Pillow cannot be imported.
    """
    path = Path(path)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}.")
    if not os.path.isdir(path):
        raise ValueError(f"{path} must be a folder of images, but there is no such folder.")
    folders = {folder.name: folder for folder in _visible(path) if folder.is_dir()}
    if not {"train", "test"} & set(folders):
        files, labels, classes = _classes(path, None)
        images = _read_all(files, size, channels)
        return _named(path, Dataset.from_array, images, labels, classes)
    if not {"train", "test"} <= set(folders) <= set(SPLITS):
        raise ValueError(
            f"{path} holds folders named {', '.join(sorted(folders))}; splits are train and test, and "
            "perhaps validation, with nothing beside them."
        )
    if any(file.suffix.lower() in _SUFFIXES for file in _visible(path)):
        raise ValueError(f"{path} holds pictures beside the folders {', '.join(sorted(folders))}.")
    classes = None
    contents = {}
    for split in (split for split in SPLITS if split in folders):
        contents[split] = _classes(folders[split], classes)
        classes = contents[split][2]
    files = [file for split in contents.values() for file in split[0]]
    images = _read_all(files, size, channels)
    ends = np.cumsum([len(split[0]) for split in contents.values()])
    splits = dict(zip(contents, np.split(images, ends[:-1]), strict=True))
    targets = {split: labels for split, (_, labels, _) in contents.items() if labels is not None}
    return _named(path, Dataset.from_splits, splits, targets, classes or ())


def middle_square(image: Any, side: int, size: int) -> Any:
    """The square of `side` pixels a side in the middle of a Pillow image, scaled to `size` a side.

    Bilinear, and where it makes smaller, over the area that a pixel covers.
    """
    from PIL import Image

    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize's `box`: it takes in pixels from around the box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def _named(path: Path, make: Any, images: Any, labels: Any, classes: Sequence[str]) -> Dataset:
    """The data set, with errors that name the folder."""
    try:
        return make(
            images,
            labels=labels,
            levels=256,
            name=path.resolve().name,
            label_names=classes,
            source=path,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}).") from error


def _classes(
    folder: Path, classes: Sequence[str] | None
) -> tuple[list[Path], np.ndarray | None, Sequence[str]]:
    """The pictures in a folder, their labels if they lie in folders, and the names of these.

    Args:
        folder: The folder.
        classes: The names of the classes, where another split gave them.
    """
    entries = _visible(folder)
    pictures = [
        entry for entry in entries if entry.suffix.lower() in _SUFFIXES and entry.is_file()
    ]
    inside = {
        entry.name: [file for file in _visible(entry) if file.suffix.lower() in _SUFFIXES]
        for entry in entries
        if entry.is_dir()
    }
    deeper = [
        file for entry in entries if entry.is_dir() for file in _visible(entry) if file.is_dir()
    ]
    if deeper:
        raise ValueError(
            f"{deeper[0]} is a folder in a folder of pictures: pictures must lie in the folder of their "
            "class, and no deeper."
        )
    inside = {name: files for name, files in inside.items() if files}
    if not pictures and not inside:
        raise ValueError(f"{folder} holds no pictures; files must end in {', '.join(_SUFFIXES)}.")
    if pictures and inside:
        raise ValueError(
            f"{folder} holds pictures ({pictures[0].name}) beside folders of pictures "
            f"({', '.join(inside)}): put every picture into the folder of its class, or none."
        )
    found = tuple(inside)
    if classes is not None and found != tuple(classes):
        raise ValueError(
            f"{folder} must have the training data's classes, {', '.join(classes) or '(none)'}, "
            f"got {', '.join(found) or '(none)'}."
        )
    if pictures:
        return pictures, None, ()
    files = [file for files in inside.values() for file in files]
    labels = np.repeat(np.arange(len(inside)), [len(files) for files in inside.values()])
    return files, labels, found


def _read_all(files: Sequence[Path], size: int | None, channels: int | None) -> np.ndarray:
    """The pictures, `(n, channels, height, width)`, uint8."""
    images = np.empty(0, np.uint8)
    for row, file in enumerate(files):
        image = _read(file, size, channels)
        if row == 0:
            require_memory((len(files), *image.shape), image.itemsize, str(file.parent))
            images = np.empty((len(files), *image.shape), np.uint8)
        if image.shape[1:] != images.shape[2:]:
            raise ValueError(
                f"all pictures must have one size, but {files[0]} has {_size(images[0])} and {file} "
                f"has {_size(image)}; with size (--data.size) they are cut and scaled to one."
            )
        if image.shape != images.shape[1:]:
            kinds = {1: "grey", 3: "in colour"}
            raise ValueError(
                f"all pictures must be of one kind, but {files[0]} is {kinds[len(images[0])]} and "
                f"{file} is {kinds[len(image)]}; channels (--data.channels 1, or 3) makes them one."
            )
        images[row] = image
    return images


def _size(image: np.ndarray) -> str:
    return f"{image.shape[2]} x {image.shape[1]} pixels"


def _read(file: Path, size: int | None, channels: int | None) -> np.ndarray:
    """One picture, `(channels, height, width)`."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            f"pictures are read by Pillow, which cannot be imported ({error}): pip install pillow"
        ) from error
    try:
        with Image.open(file) as opened:
            refused = _reason_to_refuse(opened)
            # Cameras store how they were held, and leave the turning to the reader.
            image = ImageOps.exif_transpose(opened)
            if not refused and (image.mode in _TRANSPARENT or "transparency" in image.info):
                image = image.convert("RGBA" if image.mode in _COLOUR else "LA")
                if image.getextrema()[-1] != (255, 255):
                    refused = "is transparent in places"
            if channels is None:
                channels = 1 if image.mode in _GREY else 3
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = middle_square(image, min(image.size), size)
            pixels = np.asarray(image)
    # Pillow raises a dozen types between them for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is damaged or no picture ({reason}).") from error
    if refused:
        raise ValueError(f"{file} {refused}.")
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _reason_to_refuse(image: Any) -> str:
    if getattr(image, "n_frames", 1) > 1:
        return f"has {image.n_frames} frames: save each as a picture of its own"
    if image.mode not in (*_GREY, *_COLOUR):
        return (
            f"has pixels of Pillow's mode {image.mode}, which do not fit in 256 levels: save them in a "
            ".npy file"
        )
    return ""
