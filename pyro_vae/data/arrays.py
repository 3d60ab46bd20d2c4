"""The user's own data: a `.npy` or `.npz` file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.large_arrays import mapped_rows, memory_mapped
from pyro_vae.data.memory import read_whole
from pyro_vae.data.npy_file import NpyFile, is_npy
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.splits import row_words
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Channels, Layout, Support, arranged, layout_notes

# Arrays of a .npz beside the data x: labels, groups and splits of its rows.
_BESIDE = ("y", "group", "split")
_LABELS = {split: f"{split}_labels" for split in SPLITS}


def array_file(
    path: str | Path,
    levels: int | None = None,
    support: Support | None = None,
    memory_map: bool | None = None,
    scale: ScaleKind = "standard",
    group: str | None = None,
    split: str | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Dataset:
    """Data from a NumPy file, `.npy` or `.npz`.

    One array, alone or named `x`, is split as in `Dataset.from_array`, with perhaps its labels `y`,
    and `group` and `split` as below. Arrays named `train`, `test` and perhaps `validation` (otherwise
    a tenth of `train`) are taken as they are, with perhaps `train_labels`, `validation_labels` and
    `test_labels`.

    A memory-mapped `.npy` may be larger than memory: training reads it by shuffled blocks, and at
    most 10,000 rows each are held out for validation and test.

    Args:
        path: The file.
        levels: The number of levels of integers 0, ..., levels - 1. Without, uint8 has 256 and other
            integers are counts.
        support: What the values are, where they do not say it themselves: binary, integers, counts,
            unit or real.
        memory_map: Leave the training data of a .npy on the disk; if null, those of one larger than a
            quarter of this machine's memory.
        scale: How elements of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the data's own units.
        group: The array of the .npz, or a .npy, .csv or .txt file, that holds a group for each row,
            such as a patient or site: all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.
        layout: What an array of three axes holds: "image", (n, height, width), or "series",
            (n, channels, length); "auto" are images.
        channels: Where the channels of images and series are: "first", on the second axis, or "last";
            "auto" is first, and refused where they may be last.

    Raises:
        ValueError: If the file cannot be read, its arrays' names, types, shapes or values are not
            what a data set can be made of, or it takes a guess what the values are.
        OSError: If a memory-mapped file is changed or taken away while it is read.
    """
    path = Path(path)
    if _on_disk(path, memory_map):
        if group is not None or split is not None:
            raise ValueError(
                f"{path}: a memory-mapped file is split by rows alone: leave group and split out, or read "
                "it whole (--data.memory_map false)."
            )
        file = NpyFile.open(path)
        with named(path):
            return memory_mapped(
                file, levels=levels, support=support, scale=scale, layout=layout, channels=channels
            )
    arrays = _read(path)
    with named(path):
        if {"train", "test"} <= set(arrays):
            if group is not None or split is not None:
                raise ValueError("train and test are split already: leave group and split out.")
            _check_array_names(arrays)
            return Dataset.from_splits(
                {split: arrays[split] for split in SPLITS if split in arrays},
                labels={split: arrays[name] for split, name in _LABELS.items() if name in arrays},
                levels=levels,
                support=support,
                name=path.stem,
                scale=scale,
                source=path,
                notes=layout_notes(arrays["train"].shape, layout),
                layout=layout,
                channels=channels,
            )
        beside = {group or "group", split or "split"}
        data = {name: each for name, each in arrays.items() if name not in beside}
        rows = _rows(path, data, levels, support, layout, channels)
        groups, splits = (
            _beside(arrays, option, given, len(rows.values) if rows.values.ndim else 0)
            for option, given in (("group", group), ("split", split))
        )
        return Dataset.from_rows(replace(rows, groups=groups, splits=splits), scale=scale)


def array_rows(
    path: str | Path,
    levels: int | None = None,
    support: Support | None = None,
    memory_map: bool | None = None,
    group: str | None = None,
    split: str | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Rows:
    """The rows of a NumPy file of new data, with the arguments of `array_file`; splits in a row.

    Groups and splits are not read.
    """
    path = Path(path)
    if _on_disk(path, memory_map):
        file = NpyFile.open(path)
        with named(path):
            values = mapped_rows(file, layout=layout, channels=channels)
        return Rows(values, name=path.stem, levels=levels, support=support, source=path)
    arrays = _read(path)
    with named(path):
        data = {name: each for name, each in arrays.items() if name not in (group, split)}
        return _rows(path, data, levels, support, layout, channels)


def _beside(
    arrays: Mapping[str, np.ndarray], option: str, given: str | None, n: int
) -> np.ndarray | None:
    """The groups or splits of n rows, from an array of this name or a file; None without."""
    if (given or option) in arrays:
        found = arrays[given or option]
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if given is None:
        return None
    if not os.path.isfile(given):
        raise ValueError(
            f"{option} must name an array of the file ({', '.join(arrays)}) or a .npy, .csv or .txt file, "
            f"got {given!r}."
        )
    return row_words(given, n)


def _on_disk(path: Path, memory_map: bool | None) -> bool:
    """Whether the rows of a file, which must be there, stay on the disk."""
    # os.path takes any text for a path, however long; a Path's own is_file raises.
    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a .npy or .npz file, but there is no such file.")
    if (size := path.stat().st_size) == 0:
        raise ValueError(f"{path} is empty.")
    return bool(memory_map) or (memory_map is None and not read_whole(size) and is_npy(path))


def _check_array_names(arrays: Mapping[str, np.ndarray]) -> None:
    names = set(arrays)
    splits = {"train", "test"} <= names <= {*SPLITS, *_LABELS.values()}
    rows = len(names) == 1 or ("x" in names and names <= {"x", *_BESIDE})
    if not (rows or splits):
        raise ValueError(
            f"found arrays named {', '.join(sorted(names)) or '(none)'}; allowed are one array, "
            f"x with perhaps {', '.join(_BESIDE)}, or train and test with perhaps validation, "
            f"{', '.join(_LABELS.values())}."
        )


def _rows(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    levels: int | None,
    support: Support | None,
    layout: Layout,
    channels: Channels,
) -> Rows:
    _check_array_names(arrays)
    if {"train", "test"} <= set(arrays):
        values = np.concatenate([arrays[split] for split in SPLITS if split in arrays])
    else:
        values = arrays["x"] if "x" in arrays else next(iter(arrays.values()))
    notes = layout_notes(values.shape, layout)
    values, layout = arranged(values, path.stem, layout, channels)
    return Rows(
        values,
        name=path.stem,
        labels=arrays.get("y") if "x" in arrays else None,
        levels=levels,
        support=support,
        source=path,
        layout=layout,
        notes=notes,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays by name."""
    try:
        # Opened here, because NumPy leaves a file that it finds damaged open.
        with path.open("rb") as file:
            # No pickles: loading one would run its code.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            return {name: loaded[name] for name in loaded.files}
    # NumPy, zipfile and zlib raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} must be a .npy or .npz file that NumPy reads without pickles, but is damaged or "
            f"something else ({error})."
        ) from error
