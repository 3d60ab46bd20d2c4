"""Folders of image files, single image files, and columns of images in tables."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyro_vae.data.array_files import file_loader
from pyro_vae.data.image_reading import IMAGE_SUFFIXES, DamagedImageError, read_image
from pyro_vae.data.memory_mapped import require_memory
from pyro_vae.data.rows import Rows, prefix_errors
from pyro_vae.data.splits import SPLITS, read_row_words
from pyro_vae.data.validation import Support

# The columns of tables that are accepted besides numbers.
NESTED = (
    "allowed are lists of numbers of one length, lists of such lists (height, width), and images "
    "as structs {bytes, path}"
)

# Number of files listed in a note.
_LISTED = 5


def image_rows(
    path: str | Path,
    size: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
    levels: int | None = None,
    support: Support | None = None,
    skip_damaged: bool = False,
    group: str | None = None,
    split: str | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read a folder of images: `.png`, `.jpg`, `.bmp`, `.gif`, `.tif` or `.webp`, of any depth.

    Images are in the folder, or each in the folder of its class, which is then its label: the
    first class in the alphabet is 0. They are split as in `Dataset.from_array`, unless the folder
    holds folders named `train`, `test` and perhaps `validation`.

    Images of 8 bits are integers of 256 levels. Others, of 16 bits or of floats, are real values
    in their own units: sensors seldom use all 16 bits, so as shares of 65,535 most images would be
    black, while `scale` finds the range of the values.

    Args:
        path: The folder.
        size: Crop each image to its largest central square, and scale it to this side length in
            pixels; by default, all images must have one size.
        channels: 1 makes all images grey, 3 makes them RGB, 4 RGB and opacity; by default, all
            must be of one kind, and none transparent.
        levels: Number of levels of integer images: of 16 bits, 65536 makes them integers instead
            of real values.
        support: The support, if it is not as above: integers, counts, unit or real.
        skip_damaged: Leave out files that cannot be read; the notes count and name them.
        group: A .csv or .txt file with lines `name,group`, where the name is the file's in the
            folder: all images of a group, such as a patient, go into one split.
        split: The same, with one of the words train, validation and test for each image. Without
            validation images, a tenth of the training images is used.
        new: Read new data for a trained model, perhaps a single file; groups and splits are not
            used.

    Raises:
        ValueError: If there are no images or too few, images lie beside folders of images, one is
            damaged, animated or transparent, or they differ in size, kind or depth.
        ImportError: If Pillow, or what reads images that Pillow does not, cannot be imported.
    """
    path = Path(path)
    if not (os.path.isdir(path) or (new and os.path.isfile(path))):
        raise ValueError(f"{path} must be a folder of images, but there is no such folder.")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}.")
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"channels must be 1, 3 or 4, got {channels}.")
    content = _list_folder(path) if path.is_dir() else _Content([path])
    images, damaged = _read_images(content.files, size, channels, skip_damaged)
    intact = np.array([file not in damaged for file in content.files])
    values, levels, support, notes = image_values(images, levels, support)
    row_names = tuple(
        file.relative_to(path).as_posix() if path.is_dir() else file.name
        for file, is_intact in zip(content.files, intact, strict=True)
        if is_intact
    )
    labels, splits = (
        np.array(words)[intact] if words else None for words in (content.labels, content.splits)
    )
    known: dict[str, Any] = {"labels": labels, "splits": splits}
    if not new:
        with prefix_errors(path):
            if splits is not None and (group is not None or split is not None):
                raise ValueError("the folder is split already: leave group and split out.")
            for name, file in (("groups", group), ("splits", split)):
                if file is not None:
                    known[name] = read_row_words(file, names=row_names)
        if labels is not None:
            # Classes in alphabetical order, also if their names are numbers.
            names, known["labels"] = np.unique(labels, return_inverse=True)
            known["label_names"] = tuple(names.tolist())
    return Rows(
        values,
        name=path.resolve().name if path.is_dir() else path.stem,
        levels=levels,
        support=support,
        source=path,
        layout="image",
        notes=(*_omission_notes(content, damaged), *notes),
        row_names=row_names,
        **known,
    )


image_folder = file_loader("image_folder", image_rows)


@dataclass(frozen=True)
class _Content:
    """The images of a folder with their classes and splits, if any, and the other files."""

    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)


def _list_folder(path: Path) -> _Content:
    entries = _visible_entries(path)
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    if not {"train", "test"} & set(folders):
        return _list_classes(path, None)
    if not {"train", "test"} <= set(folders) <= set(SPLITS):
        raise ValueError(
            f"{path} holds folders named {', '.join(sorted(folders))}; splits are train and "
            "test, and perhaps validation, with nothing beside them."
        )
    if any(_is_image(entry) for entry in entries):
        raise ValueError(f"{path} holds images beside the folders {', '.join(sorted(folders))}.")
    found = _Content(others=[entry for entry in entries if entry.is_file()])
    classes: set[str] | None = None
    for split in (split for split in SPLITS if split in folders):
        content = _list_classes(folders[split], classes)
        classes = set(content.labels)
        found.files.extend(content.files)
        found.labels.extend(content.labels)
        found.others.extend(content.others)
        found.splits.extend([split] * len(content.files))
    return found


def _list_classes(folder: Path, classes: set[str] | None) -> _Content:
    """The images in a folder, and their labels if they are in class folders.

    Args:
        folder: The folder.
        classes: The names of the classes of the previous split, if there is one.
    """
    entries = _visible_entries(folder)
    images = [entry for entry in entries if _is_image(entry) and entry.is_file()]
    others = [entry for entry in entries if entry.is_file() and not _is_image(entry)]
    by_class: dict[str, list[Path]] = {}
    for entry in (entry for entry in entries if entry.is_dir()):
        for file in _visible_entries(entry):
            if file.is_dir():
                raise ValueError(
                    f"{file} is a folder in a folder of images: images must be in the folder of "
                    "their class, and no deeper."
                )
            if _is_image(file):
                by_class.setdefault(entry.name, []).append(file)
            else:
                others.append(file)
    if not images and not by_class:
        raise ValueError(
            f"{folder} holds no images; files must end in {', '.join(IMAGE_SUFFIXES)}."
        )
    if images and by_class:
        raise ValueError(
            f"{folder} holds images ({images[0].name}) beside folders of images "
            f"({', '.join(by_class)}): put every image into the folder of its class, or none."
        )
    # A class may have no image in a split.
    if classes is not None and (set(by_class) - classes or bool(by_class) != bool(classes)):
        raise ValueError(
            f"{folder} must have the training data's classes, "
            f"{', '.join(sorted(classes)) or '(none)'}, got {', '.join(by_class) or '(none)'}."
        )
    labels = [name for name, files in by_class.items() for _ in files]
    return _Content(images or [f for files in by_class.values() for f in files], others, labels)


def _visible_entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}).") from error


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _read_images(
    files: Sequence[Path], size: int | None, channels: int | None, skip_damaged: bool
) -> tuple[np.ndarray, dict[Path, str]]:
    """The readable images, `(n, channels, height, width)`, and why others are not."""
    images = np.empty(0, np.uint8)
    intact: list[Path] = []
    damaged: dict[Path, str] = {}
    for file in files:
        try:
            image = read_image(file, size, channels)
        except DamagedImageError as error:
            damaged[file] = str(error)
            continue
        if not intact:
            require_memory((len(files), *image.shape), image.itemsize, str(file.parent))
            images = np.empty((len(files), *image.shape), image.dtype)
        else:
            check_same_kind(intact[0], images[0], file, image)
        images[len(intact)] = image
        intact.append(file)
    if not intact:
        raise ValueError(f"none of the {len(files)} images can be read, such as {files[0]}.")
    if damaged and not skip_damaged:
        first = next(iter(damaged))
        what = f"{first} is damaged or not an image ({damaged[first]})"
        if len(damaged) > 1:
            names = _some([f"{file.name} ({reason})" for file, reason in damaged.items()])
            what = f"{len(damaged)} of {len(files)} files are damaged or not images: {names}"
        raise ValueError(
            f"{what}; with skip_damaged (--data.skip-damaged true) such files are left out."
        )
    return images[: len(intact)], damaged


def check_same_kind(first: Path, one: np.ndarray, file: Path, image: np.ndarray) -> None:
    """Raise unless an image has the size, channels and type of the first one."""

    def size(image: np.ndarray) -> str:
        return f"{image.shape[2]} x {image.shape[1]} pixels"

    def kind(image: np.ndarray) -> str:
        kinds = {1: "grey", 3: "in colour", 4: "in colour and transparent"}
        return kinds.get(len(image), f"of {len(image)} channels")

    if image.shape[1:] != one.shape[1:]:
        raise ValueError(
            f"all images must have one size, but {first} has {size(one)} and {file} has "
            f"{size(image)}; with size (--data.size) they are cropped and scaled to one."
        )
    if image.shape != one.shape:
        colours = max(len(one), len(image)) <= 4
        remedy = (
            "convert them with channels (--data.channels 1, or 3)" if colours else "select one"
        )
        raise ValueError(
            f"all images must be of one kind, but {first} is {kind(one)} and {file} is "
            f"{kind(image)}; {remedy}."
        )
    if image.dtype != one.dtype:
        raise ValueError(
            f"all images must have one depth, but {first} holds {one.dtype} and {file} "
            f"{image.dtype}: save all with the same depth."
        )


def image_values(
    images: np.ndarray, levels: int | None, support: Support | None
) -> tuple[np.ndarray, int | None, Support | None, list[str]]:
    """The values of images, their levels, support and notes: levels of 8 bits, or real values."""
    if images.dtype == np.uint8:
        return images, 256 if levels is None and support is None else levels, support, []
    if levels is not None or support not in (None, "real"):
        return images, levels, support, []
    notes = []
    if support is None and images.dtype.kind in "ui":
        low, high = int(images.min()), int(images.max())
        levels = 1 << high.bit_length()
        also = "" if low < 0 else f"; --data.levels {levels} makes them levels"
        also += ", or --data.levels 65536" if also and 256 < levels < 65536 else ""
        held = f"the images hold {images.dtype} from {low} to {high}"
        notes = [f"{held}, taken as real values in their own units{also}"]
    single = images.dtype.itemsize <= 2 or images.dtype == np.float32
    return images.astype(np.float32 if single else np.float64), None, "real", notes


def stack_image_structs(column: Any, source: Path | None) -> np.ndarray:
    """The images of a column of structs {bytes, path}, `(n, channels, height, width)`."""
    check_complete(column)
    fields = list(column.iloc[0])
    if not set(fields) <= {"bytes", "path"}:
        raise ValueError(
            f"column {str(column.name)!r} is a struct column with the fields {', '.join(fields)}: "
            f"{NESTED}; make each field a column (pandas.json_normalize), or leave it out "
            f"(--data.drop {column.name})."
        )
    folder = Path() if source is None else source.parent
    images: list[np.ndarray] = []
    first = Path()
    for row, struct in enumerate(column):
        content = struct.get("bytes")
        file = folder / str(struct.get("path"))
        file = file if content is None else Path(f"{column.name}, row {row + 1}")
        try:
            image = read_image(file, content=content)
        except DamagedImageError as error:
            raise ValueError(f"{file} is damaged or not an image ({error}).") from error
        if images:
            check_same_kind(first, images[0], file, image)
        first = first if images else file
        images.append(image)
    return np.stack(images)


def check_complete(column: Any) -> None:
    """Raise if a pandas column of lists or structs has missing values."""
    missing = column.isna().to_numpy(dtype=bool)
    if missing.any():
        raise ValueError(
            f"column {str(column.name)!r} has no value in row {missing.argmax() + 1} "
            f"({missing.sum()} of {len(column)} are missing): drop these rows first."
        )


def _omission_notes(content: _Content, damaged: dict[Path, str]) -> list[str]:
    """A note that counts and lists the files that were left out."""
    omitted = [
        *(file.name for file in content.others),
        *(f"{file.name} ({reason})" for file, reason in damaged.items()),
    ]
    if not omitted:
        return []
    total = len(content.files) + len(content.others)
    be = "was" if len(omitted) == 1 else "were"
    return [f"{len(omitted)} of {total} files {be} left out: {_some(omitted)}"]


def _some(names: Sequence[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"
