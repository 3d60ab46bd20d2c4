"""Files with a row for each example, written some rows at a time: memory does not grow with them.

`.csv` and `.parquet` are tables; `.nc` is read by `xarray.open_dataset`; `.npz` and `.npy` by
`numpy.load`.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Rows that are written at once.
ROWS = 65_536


@dataclass(frozen=True)
class Rows:
    """Arrays with a row for each example.

    Args:
        arrays: Arrays by name, of one axis or two: of any type that slices like an array.
        columns: The names of an array's columns in a table, the tables' order; an array that is
            not named here is not in tables.
        axes: The name of the second axis of each array that has two.
        others: Arrays that are not by example, such as names of classes, with the names of their
            axes.
        coordinates: Arrays that are coordinates in a `.nc` file.
        metadata: Plain values, stored as JSON.
    """

    arrays: Mapping[str, Any]
    columns: Mapping[str, tuple[str, ...]]
    axes: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, tuple[np.ndarray, tuple[str, ...]]] = field(default_factory=dict)
    coordinates: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def blocks(self, *names: str) -> Iterator[dict[str, np.ndarray]]:
        """Consecutive rows of these arrays."""
        for start in range(0, len(self), ROWS):
            yield {name: np.asarray(self.arrays[name][start : start + ROWS]) for name in names}

    def tables(self) -> "Iterator[pd.DataFrame]":
        """The same as tables."""
        import pandas as pd

        for block in self.blocks(*self.columns):
            columns: dict[str, np.ndarray] = {}
            for name, titles in self.columns.items():
                values = block[name]
                parts = values.T if values.ndim == 2 else [values]
                columns |= dict(zip(titles, parts, strict=True))
            yield pd.DataFrame(columns)


def write_rows(path: Path, rows: Rows) -> None:
    """Write a file in the format of its suffix: its readers find the old file or the new one.

    Args:
        path: The file; its suffix is in `FORMATS`.
        rows: What to write.

    Raises:
        OSError: If the disk is full or the folder cannot be written; nothing is left behind.
        ImportError: If a library of the format cannot be imported.
    """
    with replaced(path) as temporary:
        FORMATS[path.suffix](temporary, rows)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside this one, whose file takes its name at the end if all went well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_npy(path: Path, rows: Rows) -> None:
    """The first array alone."""
    with path.open("wb") as file:
        _write_array(file, rows, next(iter(rows.arrays)))


def _write_npz(path: Path, rows: Rows) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in rows.arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _write_array(file, rows, name)
        others = {name: array for name, (array, _) in rows.others.items()}
        for name, array in {**others, "metadata": np.array(json.dumps(rows.metadata))}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_array(file: Any, rows: Rows, name: str) -> None:
    """One array in NumPy's format."""
    for number, block in enumerate(rows.blocks(name)):
        values = np.ascontiguousarray(block[name])
        if number == 0:
            shape = (len(rows), *values.shape[1:])
            header = np.lib.format.header_data_from_array_1_0(values)
            np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        file.write(values.tobytes())


def _write_netcdf(path: Path, rows: Rows) -> None:
    import h5netcdf
    import h5py

    def is_text(values: np.ndarray) -> bool:
        return values.dtype.kind in "UO"

    def create(name: str, axes: tuple[str, ...], values: np.ndarray) -> Any:
        for axis, length in zip(axes, values.shape, strict=True):
            if axis not in file.dimensions:
                file.dimensions[axis] = length
        kind = h5py.string_dtype() if is_text(values) else values.dtype
        return file.create_variable(name, axes, dtype=kind)

    with h5netcdf.File(path, "w") as file:
        file.attrs["metadata"] = json.dumps(rows.metadata)
        file.dimensions["datum"] = len(rows)
        start = 0
        for block in rows.blocks(*rows.arrays):
            for name, values in block.items():
                if start == 0:
                    axes = ("datum", rows.axes[name]) if values.ndim == 2 else ("datum",)
                    variable = create(name, axes, values)
                    if name not in rows.coordinates:
                        known = [each for each in rows.coordinates if each in rows.arrays]
                        variable.attrs["coordinates"] = " ".join(known)
                stop = start + len(values)
                file.variables[name][start:stop] = (
                    values.astype(object) if is_text(values) else values
                )
            start += len(next(iter(block.values())))
        for name, (values, axes) in rows.others.items():
            create(name, axes, values)[...] = values.astype(object) if is_text(values) else values


def _write_csv(path: Path, rows: Rows) -> None:
    with _pandas_required(), path.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(rows.tables()):
            table.to_csv(file, index=False, header=number == 0)


def _write_parquet(path: Path, rows: Rows) -> None:
    with _pandas_required(), contextlib.ExitStack() as stack:
        import pyarrow as pa
        from pyarrow import parquet

        writer = None
        for frame in rows.tables():
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)


FORMATS: dict[str, Callable[[Path, Rows], None]] = {
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".nc": _write_netcdf,
}


@contextmanager
def _pandas_required() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            ".csv and .parquet files are written by pandas and pyarrow, one of which cannot be "
            f"imported ({error}): pip install pandas pyarrow"
        ) from error


class StoredArray:
    """An array in a temporary file, of which memory holds only the rows that are in use.

    Args:
        path: The file.
        shape: The shape.
        dtype: The type of its elements.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: Any, values: np.ndarray) -> None:
        # A new map each time: the pages of a long-lived one count as the process's memory.
        np.load(self.path, mmap_mode="r+")[rows] = values

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.array(np.load(self.path, mmap_mode="r")[rows])
