"""Loading a variable from an HDF5, NetCDF, Zarr or MATLAB file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.matlab_variables import matlab_variables
from pyro_vae.data.reader_helpers import (
    UnreadableError,
    cell_support,
    checked,
    reading,
    require_label,
)
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.scientific_variables import (
    Variable,
    hdf5_variables,
    netcdf_variables,
    zarr_variables,
)
from pyro_vae.data.splits import row_words
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Channels, Layout, Support, arranged, layout_notes

HDF5_SUFFIXES = (".h5", ".hdf5", ".he5")
NETCDF_SUFFIXES = (".nc", ".nc4")


def variable_file(
    path: str | Path,
    key: str | None = None,
    label: str | None = None,
    row_axis: int = 0,
    levels: int | None = None,
    support: Support | None = None,
    scale: ScaleKind = "standard",
    group: str | None = None,
    split: str | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Dataset:
    """Data from a variable of an HDF5, NetCDF, Zarr or MATLAB file, one row a datum.

    Fill values, scales and offsets that a NetCDF, Zarr or HDF5 variable names are applied, as xarray
    does. The axes of a MATLAB array are MATLAB's, whichever version wrote it.

    Args:
        path: The file, `.h5`, `.hdf5`, `.nc` or `.mat`, or the folder `.zarr`.
        key: The variable, with the groups that it is in: "group/variable". Without, the only one with
            two axes or more.
        label: The variable that holds the labels.
        row_axis: The axis of rows: -1 for the last.
        levels: The number of levels of integers 0, ..., levels - 1. Without, uint8 has 256 and other
            integers are counts.
        support: What the values are, where they do not say it themselves: binary, integers, counts,
            unit or real.
        scale: How elements of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the data's own units.
        group: The variable, or a .npy, .csv or .txt file, that holds a group for each row, such as a
            patient or site: all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.
        layout: What an array of three axes holds: "image", (n, height, width), or "series",
            (n, channels, length); "auto" are images.
        channels: Where the channels of images and series are, once rows are first: "first", on the
            second axis, or "last"; "auto" is first, and refused where they may be last.

    Raises:
        ValueError: If the file cannot be read, there are several variables and none is named, or
            values are missing.
        ImportError: If h5py, or for NetCDF and Zarr h5netcdf or zarr, cannot be imported.
    """
    path = Path(path)
    options = (key, label, row_axis, levels, support, layout, channels)
    rows = require_label(_rows(path, *options, {"groups": group, "splits": split}), label)
    with named(path):
        return Dataset.from_rows(rows, scale=scale)


def variable_rows(
    path: str | Path,
    key: str | None = None,
    label: str | None = None,
    row_axis: int = 0,
    levels: int | None = None,
    support: Support | None = None,
    group: str | None = None,
    split: str | None = None,
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Rows:
    """The rows of a variable of new data, with the arguments of `variable_file`.

    Labels may be missing. Groups and splits are not read.
    """
    return _rows(Path(path), key, label, row_axis, levels, support, layout, channels, {})


def _rows(
    path: Path,
    key: str | None,
    label: str | None,
    row_axis: int,
    levels: int | None,
    support: Support | None,
    layout: Layout,
    channels: Channels,
    beside: dict[str, str | None],
) -> Rows:
    """The rows of a variable, with the groups and splits that `beside` names."""
    kind, packages, opened = _format(path)
    with reading(path, kind, packages), opened(path) as variables:
        key = _chosen(variables, key, label)
        variable = variables[key]
        if not -len(variable.shape) <= row_axis < len(variable.shape):
            raise UnreadableError(
                f"{key} has {len(variable.shape)} axes; there is no axis {row_axis}."
            )
        values: Any = variable.read()
        names = variable.names(1 - row_axis % 2)
        if isinstance(values, np.ndarray):
            if values.dtype.kind not in "buif":
                raise UnreadableError(f"{key} must hold real numbers, got {values.dtype}.")
            values = np.moveaxis(values, row_axis, 0)
        elif row_axis % 2:
            values = checked(values.T)
        n = values.shape[0]
        labels, notes = None, ()
        if label is not None and label in variables:
            labels = _vector(variables[label], label, n, variable.shape)
        elif label is not None:
            notes = (f"there is no variable {label!r}; there are {_listed(variables)}.",)
        words = {
            name: _vector(variables[place], place, n, variable.shape)
            for name, place in beside.items()
            if place is not None and place in variables
        }
    with named(path):
        words |= {
            name: row_words(place, n)
            for name, place in beside.items()
            if place is not None and name not in words
        }
        if isinstance(values, np.ndarray):
            notes = (*notes, *layout_notes(values.shape, layout))
            values, layout = arranged(values, key, layout, channels)
        elif support is None:
            support = cell_support(values, None)
    return Rows(
        values,
        name=path.stem,
        labels=labels,
        event_names=names if values.shape[1:] == (len(names),) else (),
        levels=levels,
        support=support,
        groups=words.get("groups"),
        splits=words.get("splits"),
        source=path,
        layout=layout,
        notes=notes,
    )


def _format(path: Path) -> tuple[str, str, Callable[[Path], Any]]:
    """What a path must be by its suffix, the packages that read it, and a function that opens it."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zarr":
        return "a Zarr folder", "xarray zarr", zarr_variables
    if suffix in NETCDF_SUFFIXES:
        return "a NetCDF file", "xarray h5netcdf", netcdf_variables
    if suffix == ".mat":
        return "a MATLAB file", "h5py", matlab_variables
    return "an HDF5 file", "h5py", hdf5_variables


def _chosen(variables: dict[str, Variable], key: str | None, label: str | None) -> str:
    """The variable that is named, or the only one that could be data."""
    if key is not None:
        key = key.strip("/")
        if key not in variables:
            raise UnreadableError(f"there is no variable {key!r}; there are {_listed(variables)}.")
        if variables[key].kind:
            raise UnreadableError(
                f"{key} is {variables[key].kind}, not an array of numbers: save its numbers as a variable "
                "of their own."
            )
        return key
    # A column is labels, or a time; a single row beside others is the same as MATLAB writes it.
    arrays = {
        name: variable
        for name, variable in variables.items()
        if not (variable.kind or variable.coordinate)
        and name != label
        and math.prod(variable.shape) > 0
        and math.prod(variable.shape[1:]) > 1
    }
    if any(variable.shape[0] > 1 for variable in arrays.values()):
        arrays = {name: variable for name, variable in arrays.items() if variable.shape[0] > 1}
    if len(arrays) == 1:
        return next(iter(arrays))
    if not arrays:
        raise UnreadableError(
            f"there is no array of numbers with two axes or more; there are {_listed(variables)}."
        )
    raise UnreadableError(
        f"name one of its variables with key (--data.key {next(iter(arrays))}): {_listed(arrays)}."
    )


def _listed(variables: dict[str, Variable]) -> str:
    names = [
        f"{name} {variable.kind or '(' + ', '.join(map(str, variable.shape)) + ')'}"
        for name, variable in variables.items()
    ]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more or "none"


def _vector(variable: Variable, label: str, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Labels, groups or splits: one entry a row."""
    values = variable.read()
    if not isinstance(values, np.ndarray) or values.size != n or max(values.shape, default=1) != n:
        raise UnreadableError(
            f"{label} has shape {variable.shape}, but must hold one entry for each of the {n} rows of "
            f"an array of shape {shape}; another axis than the first is named with row_axis "
            "(--data.row-axis 1)."
        )
    values = values.reshape(n)
    # Cells of MATLAB's, each a word.
    words = [value for value in values if isinstance(value, np.ndarray)]
    if any(word.dtype.kind != "U" or word.size > 1 for word in words):
        raise UnreadableError(f"{label} must hold numbers or words.")
    if values.dtype.kind in "OSU":
        return np.array(["".join(np.ravel(value)).strip() for value in values], dtype=object)
    return values
