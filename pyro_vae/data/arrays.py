"""The user's own data: a `.npy` or `.npz` file."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.large_arrays import memory_mapped
from pyro_vae.data.memory import read_whole
from pyro_vae.data.npy_file import NpyFile, is_npy
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Channels, Layout, Support, arranged, layout_notes

_LABELS = {split: f"{split}_labels" for split in SPLITS}


def array_file(
    path: str | Path,
    levels: int | None = None,
    support: Support | None = None,
    memory_map: bool | None = None,
    scale: ScaleKind = "standard",
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Dataset:
    """Data from a NumPy file, `.npy` or `.npz`.

    One array, alone or named `x` with its labels `y`, is split as in `Dataset.from_array`. Arrays
    named `train`, `test` and perhaps `validation` (otherwise a tenth of `train`) are taken as they are, with perhaps `train_labels`, `validation_labels` and `test_labels`.

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
    size = _size(path)
    if memory_map or (memory_map is None and not read_whole(size) and is_npy(path)):
        file = NpyFile.open(path)
        with named(path):
            return memory_mapped(
                file, levels=levels, support=support, scale=scale, layout=layout, channels=channels
            )
    arrays = _read(path)
    with named(path):
        if {"train", "test"} <= set(arrays):
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
        rows = _rows(path, arrays, levels, support, layout, channels)
        return Dataset.from_rows(rows, scale=scale)


def array_rows(
    path: str | Path,
    levels: int | None = None,
    support: Support | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Rows:
    """The rows of a NumPy file, with the arguments of `array_file`; splits one after another."""
    path = Path(path)
    _size(path)
    arrays = _read(path)
    with named(path):
        return _rows(path, arrays, levels, support, layout, channels)


def _size(path: Path) -> int:
    """The bytes of a file, which must be there."""
    # os.path takes any text for a path, however long; a Path's own is_file raises.
    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a .npy or .npz file, but there is no such file.")
    if (size := path.stat().st_size) == 0:
        raise ValueError(f"{path} is empty.")
    return size


def _check_array_names(arrays: Mapping[str, np.ndarray]) -> None:
    names = set(arrays)
    splits = {"train", "test"} <= names <= {*SPLITS, *_LABELS.values()}
    if not (len(names) == 1 or names == {"x", "y"} or splits):
        raise ValueError(
            f"found arrays named {', '.join(sorted(names)) or '(none)'}; allowed are one array, "
            f"x and y, or train and test with perhaps validation, {', '.join(_LABELS.values())}."
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
    labels = arrays.get("y") if len(arrays) == 2 else None
    if {"train", "test"} <= set(arrays):
        parts = [arrays[split] for split in SPLITS if split in arrays]
        values = np.concatenate(parts)
    elif labels is not None:
        values = arrays["x"]
    else:
        (values,) = arrays.values()
    notes = layout_notes(values.shape, layout)
    values, layout = arranged(values, path.stem, layout, channels)
    return Rows(
        values,
        name=path.stem,
        labels=labels,
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
