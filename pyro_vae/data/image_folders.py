"""The user's own pictures: a folder of image files, or one file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.image_reading import (
    PICTURE_SUFFIXES,
    DamagedPictureError,
    middle_square,
    read_picture,
)
from pyro_vae.data.memory import require_memory
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.splits import row_words
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Support

__all__ = ["check_alike", "image_folder", "image_rows", "middle_square", "picture_values"]

# Files named in a note.
_NAMED = 5


def image_folder(
    path: str | Path,
    size: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
    levels: int | None = None,
    support: Support | None = None,
    skip_damaged: bool = False,
    scale: ScaleKind = "standard",
    group: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Pictures from a folder: `.png`, `.jpg`, `.bmp`, `.gif`, `.tif` or `.webp`, of any depth.

    Pictures lie in the folder, or each in the folder of its class, which is then its label: the
    first class in the alphabet is 0. They are split as in `Dataset.from_array`, unless the folder
    holds folders named `train`, `test` and perhaps `validation`, which are taken as they are.

    Pictures of 8 bits are integers of 256 levels. Others, of 16 bits or of floats, are real values in
    their own units: sensors seldom fill 16 bits, so a share of 65,535 would leave most pictures
    black, while `scale` finds the range that the values have.

    Args:
        path: The folder.
        size: Cut each picture to the largest square in its middle, and scale that to so many pixels a
            side; without, all pictures must have one size.
        channels: 1 makes all pictures grey, 3 makes them RGB, 4 RGB and opacity; without, all must be
            of one kind, and none transparent.
        levels: The number of levels of pictures of integers: of 16 bits, 65536 makes them integers
            instead of real values.
        support: What the values are, where it is not as above: integers, counts, unit or real.
        skip_damaged: Leave out files that cannot be read; they are counted and named in the notes.
        scale: How channels of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the pictures' own units.
        group: A .csv or .txt file with lines `name,group`, where the name is the file's in the folder:
            all pictures of a group, such as a patient, go into one split.
        split: The same, with one of the words train, validation and test for each picture. Without
            validation pictures, a tenth of the training pictures is taken for it.

    Raises:
        ValueError: If there are no pictures or too few, pictures lie beside folders of pictures, one
            is damaged, animated or transparent, or they differ in size, kind or depth.
        ImportError: If Pillow cannot be imported, or what reads pictures that Pillow does not.
    """
    if not os.path.isdir(path):
        raise ValueError(f"{path} must be a folder of images, but there is no such folder.")
    rows = image_rows(path, size, channels, levels, support, skip_damaged)
    with named(Path(path)):
        if rows.splits is not None and (group is not None or split is not None):
            raise ValueError("the folder is split already: leave group and split out.")
        known: dict[str, Any] = {
            field: row_words(file, names=rows.row_names)
            for field, file in (("groups", group), ("splits", split))
            if file is not None
        }
        if rows.labels is not None:
            # Classes in the order of the alphabet, whatever their names.
            names, labels = np.unique(rows.labels, return_inverse=True)
            known |= {"labels": labels, "label_names": tuple(names.tolist())}
        return Dataset.from_rows(replace(rows, **known), scale=scale)


def image_rows(
    path: str | Path,
    size: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
    levels: int | None = None,
    support: Support | None = None,
    skip_damaged: bool = False,
    group: str | None = None,
    split: str | None = None,
) -> Rows:
    """The pictures of a folder, or one picture file, with the arguments of `image_folder`.

    Labels are the names of the class folders, and splits those of the split folders; files of groups
    and splits are not read.
    """
    path = Path(path)
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"channels must be 1, 3 or 4, got {channels}.")
    content = _content(path)
    images, damaged = _read_all(content.files, size, channels, skip_damaged)
    read = np.array([file not in damaged for file in content.files])
    values, levels, support, notes = picture_values(images, levels, support)
    return Rows(
        values,
        name=path.resolve().name if path.is_dir() else path.stem,
        labels=None if content.labels is None else np.array(content.labels)[read],
        levels=levels,
        support=support,
        splits=None if content.splits is None else np.array(content.splits)[read],
        source=path,
        layout="image",
        notes=(*_left_out(content, damaged), *notes),
        row_names=tuple(
            file.relative_to(path).as_posix() if path.is_dir() else file.name
            for file in content.files
            if file not in damaged
        ),
    )


@dataclass(frozen=True)
class _Content:
    """The pictures of a folder, with the class and the split of each, and the other files.

    Args:
        files: The pictures.
        others: Files that are no pictures by their names.
        labels: The name of each picture's class, if they lie in class folders.
        splits: The name of each picture's split, if there are split folders.
    """

    files: list[Path]
    others: list[Path]
    labels: list[str] | None = None
    splits: list[str] | None = None


def _content(path: Path) -> _Content:
    if os.path.isfile(path):
        return _Content([path], [])
    if not os.path.isdir(path):
        raise ValueError(f"{path} must be a folder of images, but there is no such folder.")
    entries = _visible(path)
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    if not {"train", "test"} & set(folders):
        return _classes(path, None)
    if not {"train", "test"} <= set(folders) <= set(SPLITS):
        raise ValueError(
            f"{path} holds folders named {', '.join(sorted(folders))}; splits are train and test, and "
            "perhaps validation, with nothing beside them."
        )
    if any(_is_picture(entry) for entry in entries):
        raise ValueError(f"{path} holds pictures beside the folders {', '.join(sorted(folders))}.")
    files, labels, splits = [], [], []
    others = [entry for entry in entries if entry.is_file()]
    classes: set[str] | None = None
    for split in (split for split in SPLITS if split in folders):
        content = _classes(folders[split], classes)
        classes = set(content.labels or ())
        files += content.files
        labels += content.labels or []
        others += content.others
        splits += [split] * len(content.files)
    return _Content(files, others, labels or None, splits)


def _classes(folder: Path, classes: set[str] | None) -> _Content:
    """The pictures in a folder, and their labels if they lie in folders.

    Args:
        folder: The folder.
        classes: The names of the classes, where another split gave them.
    """
    entries = _visible(folder)
    pictures = [entry for entry in entries if _is_picture(entry) and entry.is_file()]
    others = [entry for entry in entries if entry.is_file() and not _is_picture(entry)]
    inside: dict[str, list[Path]] = {}
    for entry in (entry for entry in entries if entry.is_dir()):
        for file in _visible(entry):
            if file.is_dir():
                raise ValueError(
                    f"{file} is a folder in a folder of pictures: pictures must lie in the folder of "
                    "their class, and no deeper."
                )
            if _is_picture(file):
                inside.setdefault(entry.name, []).append(file)
            else:
                others.append(file)
    if not pictures and not inside:
        raise ValueError(
            f"{folder} holds no pictures; files must end in {', '.join(PICTURE_SUFFIXES)}."
        )
    if pictures and inside:
        raise ValueError(
            f"{folder} holds pictures ({pictures[0].name}) beside folders of pictures "
            f"({', '.join(inside)}): put every picture into the folder of its class, or none."
        )
    # A class may have no picture in a split.
    if classes is not None and (set(inside) - classes or bool(inside) != bool(classes)):
        raise ValueError(
            f"{folder} must have the training data's classes, {', '.join(sorted(classes)) or '(none)'}, "
            f"got {', '.join(inside) or '(none)'}."
        )
    if pictures:
        return _Content(pictures, others)
    files = [file for files in inside.values() for file in files]
    return _Content(files, others, [name for name, files in inside.items() for _ in files])


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}).") from error


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES


def _read_all(
    files: Sequence[Path], size: int | None, channels: int | None, skip_damaged: bool
) -> tuple[np.ndarray, dict[Path, str]]:
    """The pictures that can be read, `(n, channels, height, width)`, and why others cannot."""
    images = np.empty(0, np.uint8)
    read: list[Path] = []
    damaged: dict[Path, str] = {}
    for file in files:
        try:
            image = read_picture(file, size, channels)
        except DamagedPictureError as error:
            if not skip_damaged:
                raise ValueError(
                    f"{file} is damaged or no picture ({error}); with skip_damaged "
                    "(--data.skip-damaged true) such files are left out."
                ) from error
            damaged[file] = str(error)
            continue
        if not read:
            require_memory((len(files), *image.shape), image.itemsize, str(file.parent))
            images = np.empty((len(files), *image.shape), image.dtype)
        else:
            check_alike(read[0], images[0], file, image)
        images[len(read)] = image
        read.append(file)
    if not read:
        raise ValueError(f"none of the {len(files)} pictures can be read, such as {files[0]}.")
    return images[: len(read)], damaged


def check_alike(first: Path, one: np.ndarray, file: Path, image: np.ndarray) -> None:
    """Raise unless a picture has the size, the channels and the type of the first one."""
    if image.shape[1:] != one.shape[1:]:
        raise ValueError(
            f"all pictures must have one size, but {first} has {_size(one)} and {file} has "
            f"{_size(image)}; with size (--data.size) they are cut and scaled to one."
        )
    if image.shape != one.shape:
        ways = "channels (--data.channels 1, or 3) makes them one"
        if max(len(one), len(image)) > 4:
            ways = "keep those of one kind"
        raise ValueError(
            f"all pictures must be of one kind, but {first} is {_kind(one)} and {file} is "
            f"{_kind(image)}; {ways}."
        )
    if image.dtype != one.dtype:
        raise ValueError(
            f"all pictures must have one depth, but {first} holds {one.dtype} and {file} "
            f"{image.dtype}: keep those of one depth, or save all with the same."
        )


def _kind(image: np.ndarray) -> str:
    kinds = {1: "grey", 3: "in colour", 4: "in colour and transparent"}
    return kinds.get(len(image), f"of {len(image)} channels")


def _size(image: np.ndarray) -> str:
    return f"{image.shape[2]} x {image.shape[1]} pixels"


def picture_values(
    images: np.ndarray, levels: int | None, support: Support | None
) -> tuple[np.ndarray, int | None, Support | None, list[str]]:
    """The pictures' values as what they are: levels of 8 bits, or otherwise real values."""
    if images.dtype == np.uint8:
        return images, 256 if levels is None and support is None else levels, support, []
    if levels is not None or support not in (None, "real"):
        return images, levels, support, []
    exact = images.dtype.itemsize <= 2 or images.dtype == np.float32
    notes = []
    if support is None and images.dtype.kind in "ui":
        low, high = int(images.min()), int(images.max())
        levels = 1 << high.bit_length()
        also = "" if low < 0 else f"; --data.levels {levels} makes them levels"
        also += ", or --data.levels 65536" if also and 256 < levels < 65536 else ""
        held = f"the pictures hold {images.dtype} from {low} to {high}"
        notes = [f"{held}, taken as real values in their own units{also}"]
    return images.astype(np.float32 if exact else np.float64), None, "real", notes


def _left_out(content: _Content, damaged: dict[Path, str]) -> list[str]:
    """A line that counts and names the files that were left out, if there are any."""
    left_out = [
        *(file.name for file in content.others),
        *(f"{file.name} ({reason})" for file, reason in damaged.items()),
    ]
    if not left_out:
        return []
    total = len(content.files) + len(content.others)
    more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
    be = "was" if len(left_out) == 1 else "were"
    return [
        f"{len(left_out)} of {total} files {be} left out: {', '.join(left_out[:_NAMED])}{more}"
    ]
