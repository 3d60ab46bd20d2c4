"""Files of arrays: `.npy`, `.npz` and sparse `.npz`; and the construction of file loaders."""

import inspect
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.layout import Channels, Layout, event_shape, layout_notes, move_channels_first
from pyro_vae.data.memory_mapped import MemoryMapped, NpyFile, fits_in_memory, is_npy
from pyro_vae.data.rows import Rows, prefix_errors, read_errors
from pyro_vae.data.sparse_rows import canonical_csr
from pyro_vae.data.splits import SPLITS, read_row_words
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.validation import Support, ValueRange, as_tensor

# Arrays of a .npz besides the data x: labels, groups and splits of its rows.
_ROW_ARRAYS = ("y", "group", "split")
_LABELS = {split: f"{split}_labels" for split in SPLITS}

# What SciPy writes for a matrix of any format.
_SPARSE_ARRAYS = {"format.npy", "shape.npy", "data.npy"}

_SCALE_HELP = """
        scale: How elements of real data are scaled for the networks: "standard" by mean and
            standard deviation, "robust" by median and interquartile range, "unit" by minimum and
            range, or "none". Densities, samples and means stay in the units of the data."""


def file_loader(
    name: str, read: Callable[..., Rows], *, scaled: bool = True
) -> Callable[..., Dataset]:
    """Make the function that loads a file as a data set from the one that reads its rows.

    Its signature, from which the command line takes its options, is that of `read` without `new`,
    and with `scale` for data that may be real.

    Args:
        name: The name of the function.
        read: A function of a path and options, among which `new=False` is for training data.
        scaled: Whether to add the option `scale`.
    """
    signature = inspect.signature(read)
    parameters = [each for each in signature.parameters.values() if each.name != "new"]
    if scaled:
        kind = inspect.Parameter.KEYWORD_ONLY
        option = inspect.Parameter("scale", kind, default="standard", annotation=ScaleKind)
        parameters.append(option)
    signature = signature.replace(parameters=parameters, return_annotation=Dataset)

    def load(*values: Any, **options: Any) -> Dataset:
        given = signature.bind(*values, **options)
        scale: Any = given.arguments.pop("scale", "standard")
        rows = read(*given.args, **given.kwargs, new=False)
        with prefix_errors(given.arguments["path"]):
            return Dataset.from_rows(rows, scale=scale)

    # The documentation of `scale` takes the place of that of `new`.
    load.__doc__ = re.sub(
        r"\n        new: .*?\n\n",
        f"{_SCALE_HELP if scaled else ''}\n\n",
        read.__doc__ or "",
        count=1,
        flags=re.DOTALL,
    )
    load.__name__ = load.__qualname__ = name
    load.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return load


def array_rows(
    path: str | Path,
    levels: int | None = None,
    support: Support | None = None,
    memory_map: bool | None = None,
    group: str | None = None,
    split: str | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
    *,
    new: bool = True,
) -> Rows:
    """Read a NumPy file, `.npy` or `.npz`.

    One array, alone or named `x`, is split as in `Dataset.from_array`, perhaps with labels `y`,
    and `group` and `split` as below. Arrays named `train`, `test` and perhaps `validation`
    (otherwise a tenth of `train`) are used as they are, perhaps with `train_labels`,
    `validation_labels` and `test_labels`.

    A memory-mapped `.npy` may be larger than memory: training reads it by shuffled blocks, and at
    most 10,000 rows each are held out for validation and test.

    Args:
        path: The file.
        levels: Number of levels of integers 0, ..., levels - 1. By default uint8 has 256 and other
            integers are counts.
        support: The support, if the values do not determine it: binary, integers, counts, unit or
            real.
        memory_map: Leave the training data of a .npy on disk; if null, those of one larger than a
            quarter of this machine's memory.
        group: An array of the .npz, or a .npy, .csv or .txt file, with a group for each row, such
            as a patient or site: all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is used.
        layout: The meaning of the axes: "image", (n, height, width), "series", (n, channels,
            length), or "sequence", (n, T, ...), of T frames in time; "auto" are images.
        channels: The position of the channels of images and series: "first", on the second axis,
            or "last"; "auto" is first, refused where they may be last.
        new: Read new data for a trained model, whose groups and splits are not used.

    Raises:
        ValueError: If the file cannot be read, its arrays do not form a data set, or their support
            is ambiguous.
        OSError: If a memory-mapped file is changed or removed while it is read.
    """
    path = Path(path)
    options: dict[str, Any] = {
        "name": path.stem,
        "levels": levels,
        "support": support,
        "source": path,
    }
    # os.path accepts any text as a path, however long; Path.is_file raises.
    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a .npy or .npz file, but there is no such file.")
    if (size := path.stat().st_size) == 0:
        raise ValueError(f"{path} is empty.")
    if memory_map or (memory_map is None and not fits_in_memory(size) and is_npy(path)):
        if not new and (group is not None or split is not None):
            raise ValueError(
                f"{path}: a memory-mapped file is split by rows alone: leave group and split out, "
                "or read it whole (--data.memory_map false)."
            )
        values, notes = _map_rows(path, layout, channels)
        return Rows(values, notes=notes, **options)
    with read_errors(path, "a .npy or .npz file that NumPy reads without pickles"):
        arrays = _load(path)
    with prefix_errors(path):
        given = {"train", "test"} <= set(arrays)
        row_arrays = (group, split) if new or given else (group or "group", split or "split")
        data = {name: each for name, each in arrays.items() if name not in row_arrays}
        _check_array_names(data)
        if given and (group is not None or split is not None) and not new:
            raise ValueError("train and test are given: leave group and split out.")
        if given and not new:
            kind, splits = layout, {name: arrays[name] for name in SPLITS if name in arrays}
            notes = layout_notes(arrays["train"].shape, layout)
            for name, values in splits.items():
                splits[name], kind = move_channels_first(values, path.stem, layout, channels)
            labels = {name: arrays[key] for name, key in _LABELS.items() if key in arrays}
            return Rows(splits, labels=labels, layout=kind, notes=notes, **options)
        if given:
            values = np.concatenate([data[name] for name in SPLITS if name in data])
        else:
            values = data["x"] if "x" in data else next(iter(data.values()))
        notes = layout_notes(values.shape, layout)
        values, layout = move_channels_first(values, path.stem, layout, channels)
        n = len(values) if values.ndim else 0
        return Rows(
            values,
            labels=data.get("y") if "x" in data else None,
            groups=None if new else _row_words(arrays, "group", group, n),
            splits=None if new else _row_words(arrays, "split", split, n),
            layout=layout,
            notes=notes,
            **options,
        )


array_file = file_loader("array_file", array_rows)


def count_rows(
    path: str | Path,
    support: Support | None = None,
    group: str | None = None,
    split: str | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read counts from a sparse matrix in a SciPy `.npz` file, one row an example.

    A large matrix stays sparse, and its rows are made dense batch by batch; see `SparseRows`.

    Args:
        path: The file.
        support: "counts" for counts without a 2, as a matrix of 0 and 1 alone is binary by
            default. "real" for values that are not counts, which are made dense.
        group: A .npy, .csv or .txt file with a group for each row, such as a patient or site: all
            rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is used.
        new: Read new data for a trained model, whose groups and splits are not used.

    Raises:
        ValueError: If the file cannot be read, is inconsistent, holds anything but non-negative
            whole numbers without being "real", or is too large for the memory.
    """
    from scipy import sparse

    path = Path(path)
    # Opened here, because NumPy leaves a damaged file open.
    with (
        read_errors(path, "a sparse .npz file, as scipy.sparse.save_npz writes it"),
        path.open("rb") as file,
    ):
        matrix = sparse.load_npz(file)
        if matrix.dtype.kind in "buif":
            matrix = canonical_csr(matrix, path.stem)
    with prefix_errors(path):
        if matrix.dtype.kind not in "buif":
            raise ValueError(f"counts must be whole numbers, got the type {matrix.dtype}.")
        values = as_tensor(matrix.data, path.stem, copy=False)
        value_range = ValueRange(0, 0, True)
        if len(values):
            value_range = ValueRange.union([value_range, ValueRange.from_values(values)])
        if support in (None, "binary", "counts"):
            # Infinity is whole.
            whole = value_range.whole and not value_range.missing
            if not (value_range.low >= 0 and whole and value_range.high < math.inf):
                raise ValueError(
                    "counts must be whole numbers of 0 or more; say so if they are real "
                    "(--data.support real), which makes them dense."
                )
            if value_range.high > np.iinfo(np.int64).max:
                raise ValueError(f"counts must fit in 64 bits, got {value_range.high:g}.")
        kind = support or ("binary" if value_range.high <= 1 else "counts")
        rows = Rows(matrix, name=path.stem, support=kind, source=path)
        return rows if new else rows.with_files(group, split)


count_file = file_loader("count_file", count_rows, scaled=False)


def is_sparse_file(path: str | Path) -> bool:
    """Whether a file is a SciPy `.npz`, by the names of its arrays."""
    try:
        with zipfile.ZipFile(path) as file:
            return set(file.namelist()) >= _SPARSE_ARRAYS
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _map_rows(
    path: Path, layout: Layout, channels: Channels
) -> tuple[MemoryMapped, tuple[str, ...]]:
    """All rows of a `.npy` file, left on disk, and a note on their layout."""
    file, name = NpyFile.open(path), path.stem
    with prefix_errors(path):
        dtype = as_tensor(np.empty(0, file.dtype), name).dtype
        if channels == "last":
            raise ValueError(
                f"{name} is read row by row and must have its channels first: save it again with "
                "numpy.moveaxis(array, -1, 1), or read it whole (--data.memory-map false)."
            )
        notes = layout_notes(file.shape, layout)
        # An array of this shape that takes no memory.
        empty = np.broadcast_to(np.int8(0), file.shape)
        _, layout = move_channels_first(empty, name, layout, channels)
        event = event_shape(file.shape, name, layout)
        if file.shape[0] == 0 or file.row_bytes == 0:
            raise ValueError(f"{name} is empty, of shape {file.shape}.")
    return MemoryMapped(file, event, dtype), notes


def _load(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays by name."""
    # Opened here, because NumPy leaves a damaged file open. Loading a pickle would run its code.
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        return {name: loaded[name] for name in loaded.files}


def _row_words(
    arrays: Mapping[str, np.ndarray], option: str, name: str | None, n: int
) -> np.ndarray | None:
    """The groups or splits of n rows, from an array or a file; None without."""
    if (name or option) in arrays:
        found = arrays[name or option]
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if name is None:
        return None
    if not os.path.isfile(name):
        raise ValueError(
            f"{option} must name an array of the file ({', '.join(arrays)}) or a .npy, .csv or "
            f".txt file, got {name!r}."
        )
    return read_row_words(name, n)


def _check_array_names(arrays: Mapping[str, np.ndarray]) -> None:
    names = set(arrays)
    splits = {"train", "test"} <= names <= {*SPLITS, *_LABELS.values()}
    rows = len(names) == 1 or ("x" in names and names <= {"x", *_ROW_ARRAYS})
    if not (rows or splits):
        raise ValueError(
            f"found arrays named {', '.join(sorted(names)) or '(none)'}; allowed are one array, "
            f"x with perhaps {', '.join(_ROW_ARRAYS)}, or train and test with perhaps validation, "
            f"{', '.join(_LABELS.values())}."
        )
