"""Variables of HDF5, NetCDF, Zarr and MATLAB files."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.array_files import file_loader
from pyro_vae.data.layout import Channels, Layout, layout_notes, move_channels_first
from pyro_vae.data.rows import (
    Rows,
    UnreadableError,
    prefix_errors,
    read_errors,
    read_node,
    refuse_zarr_pickles,
    require_file_memory,
)
from pyro_vae.data.sparse_rows import canonical_csr, count_support
from pyro_vae.data.splits import read_row_words
from pyro_vae.data.validation import REMEDY, Support, missing_allowed

HDF5_SUFFIXES = (".h5", ".hdf5", ".he5")
NETCDF_SUFFIXES = (".nc", ".nc4")

# Attributes that xarray decodes, in any format.
_CODED = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MATLAB_NUMBERS = {
    *("double", "single", "logical", "sparse"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


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
    *,
    new: bool = True,
) -> Rows:
    """Read a variable of an HDF5, NetCDF, Zarr or MATLAB file, one row an example.

    Fill values, scales and offsets of NetCDF, Zarr and HDF5 variables are applied, as by xarray.
    The axes of a MATLAB array are MATLAB's, whichever version wrote it.

    Args:
        path: The file, `.h5`, `.hdf5`, `.nc` or `.mat`, or the folder `.zarr`.
        key: The variable, with its groups: "group/variable". By default the only one with at least
            two axes.
        label: The variable that holds the labels.
        row_axis: The axis of rows: -1 for the last.
        levels: Number of levels of integers 0, ..., levels - 1. By default uint8 has 256 and other
            integers are counts.
        support: The support, if the values do not determine it: binary, integers, counts, unit or
            real.
        group: The variable, or a .npy, .csv or .txt file, with a group for each row, such as a
            patient or site: all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is used.
        layout: The meaning of the axes: "image", (n, height, width), "series", (n, channels,
            length), or "sequence", (n, T, ...), of T frames in time; "auto" are images.
        channels: The position of the channels of images and series, once rows are first: "first",
            on the second axis, or "last"; "auto" is first, refused where they may be last.
        new: Read new data for a trained model, which may lack labels, and whose groups and splits
            are not used.

    Raises:
        ValueError: If the file cannot be read, there are several variables and none is named, or
            values are missing.
        ImportError: If h5py, or for NetCDF and Zarr h5netcdf or zarr, cannot be imported.
    """
    path = Path(path)
    row_variables = {} if new else {"groups": group, "splits": split}
    row_variables = {name: place for name, place in row_variables.items() if place is not None}
    kind, packages, open_variables = _format_of(path)
    with read_errors(path, kind, packages), open_variables(path) as variables:
        key = _choose_variable(variables, key, label)
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
            values = canonical_csr(values.T, key)
        n = values.shape[0]
        labels, notes = None, ()
        if label is not None and label in variables:
            labels = _read_row_variable(variables[label], label, n, variable.shape)
        elif label is not None:
            missing = f"there is no variable {label!r}; there are {_list_variables(variables)}."
            if not new:
                raise UnreadableError(missing)
            notes = (missing,)
        words: dict[str, Any] = {
            name: _read_row_variable(variables[place], place, n, variable.shape)
            for name, place in row_variables.items()
            if place in variables
        }
    with prefix_errors(path):
        for name, place in row_variables.items():
            if name not in words:
                words[name] = read_row_words(place, n)
        if isinstance(values, np.ndarray):
            notes = (*notes, *layout_notes(values.shape, layout))
            values, layout = move_channels_first(values, key, layout, channels)
        elif support is None:
            support = count_support(values, None)
    return Rows(
        values,
        name=path.stem,
        labels=labels,
        event_names=names if values.shape[1:] == (len(names),) else (),
        levels=levels,
        support=support,
        source=path,
        layout=layout,
        notes=notes,
        **words,
    )


variable_file = file_loader("variable_file", variable_rows)


@dataclass(frozen=True)
class Variable:
    """A variable of a file, not yet read.

    Args:
        shape: Its shape.
        kind: Its contents, if they are not numbers.
        read: A function that reads it.
        names: A function that returns the names along an axis of a matrix, if there are any.
        coordinate: Whether it is a coordinate of other variables.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Any]
    names: Callable[[int], tuple[str, ...]] = lambda _: ()
    coordinate: bool = False


def _format_of(path: Path) -> tuple[str, str, Callable[[Path], Any]]:
    """The kind of a path, the packages that read it, and a function that opens it."""
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".zarr":
        return "a Zarr folder", "xarray zarr", _xarray_variables
    if suffix in NETCDF_SUFFIXES:
        return "a NetCDF file", "xarray h5netcdf", _xarray_variables
    if suffix == ".mat":
        return "a MATLAB file", "h5py", _matlab_variables
    return "an HDF5 file", "h5py", _hdf5_variables


def _choose_variable(variables: dict[str, Variable], key: str | None, label: str | None) -> str:
    """The named variable, or the only one that can be data."""
    if key is not None:
        key = key.strip("/")
        if key not in variables:
            raise UnreadableError(
                f"there is no variable {key!r}; there are {_list_variables(variables)}."
            )
        if variables[key].kind:
            raise UnreadableError(
                f"{key} is {variables[key].kind}, not an array of numbers: save its numbers as a "
                "separate variable."
            )
        return key
    # A column may be labels or times; MATLAB writes them as a single row.
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
            "there is no array of numbers with two axes or more; there are "
            f"{_list_variables(variables)}."
        )
    raise UnreadableError(
        f"name one of its variables with key (--data.key {next(iter(arrays))}): "
        f"{_list_variables(arrays)}."
    )


def _list_variables(variables: dict[str, Variable]) -> str:
    names = [
        f"{name} {variable.kind or '(' + ', '.join(map(str, variable.shape)) + ')'}"
        for name, variable in variables.items()
    ]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more or "none"


def _read_row_variable(
    variable: Variable, name: str, n: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Labels, groups or splits: one entry a row."""
    values = variable.read()
    if not isinstance(values, np.ndarray) or values.size != n or max(values.shape, default=1) != n:
        raise UnreadableError(
            f"{name} has shape {variable.shape}, but must hold one entry for each of the {n} "
            f"rows of an array of shape {shape}; another axis than the first is named with "
            "row_axis (--data.row-axis 1)."
        )
    values = values.reshape(n)
    # MATLAB cells, each a word.
    words = [value for value in values if isinstance(value, np.ndarray)]
    if any(word.dtype.kind != "U" or word.size > 1 for word in words):
        raise UnreadableError(f"{name} must hold numbers or words.")
    if values.dtype.kind in "OSU":
        return np.array(["".join(np.ravel(value)).strip() for value in values], dtype=object)
    return values


@contextmanager
def _hdf5_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The datasets of all groups of an HDF5 file."""
    import h5py

    found: dict[str, Variable] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            found[name] = Variable(node.shape, _kind(node.dtype), lambda: _decode_hdf5(name, node))

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        yield found


def _kind(dtype: np.dtype) -> str:
    """The contents of an array that is not numeric."""
    kinds = {"O": "text or objects", "S": "text", "T": "text", "U": "text", "V": "a table"}
    return "" if dtype.kind in "buif" else kinds.get(dtype.kind, str(dtype))


def _decode_hdf5(name: str, node: Any) -> np.ndarray:
    """The values of an HDF5 dataset, with its fill value, scale and offset applied."""
    values = read_node(node, name)
    attributes = {key: np.ravel(node.attrs[key])[0] for key in _CODED if key in node.attrs}
    # Fixed-length strings are bytes.
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    if not attributes or values.dtype.kind not in "uif":
        return values
    from xarray import Variable as XarrayVariable
    from xarray.conventions import decode_cf_variable

    axes = [f"axis_{axis}" for axis in range(values.ndim)]
    return _complete_values(
        name, decode_cf_variable(name, XarrayVariable(axes, values, attributes))
    )


def _complete_values(name: str, variable: Any) -> np.ndarray:
    """The values of an xarray variable, none of which may be missing but in `allow_missing`."""
    require_file_memory(variable.shape, variable.dtype.itemsize, name)
    values = np.asarray(variable.values)
    if values.dtype.kind == "f" and missing_allowed():
        return values
    if values.dtype.kind != "f" or not (missing := np.isnan(values)).any():
        # A fill value makes integers floats, even if it does not occur.
        packed = {"scale_factor", "add_offset"} & variable.encoding.keys()
        stored = np.dtype(variable.encoding.get("dtype", values.dtype))
        if values.dtype.kind != "f" or stored.kind not in "iu" or packed:
            return values
        if np.abs(values).max(initial=0) > 2**53:
            raise UnreadableError(
                f"{name} holds whole numbers beyond 2^53, which its fill value turns into floats "
                "that lose digits: save it without _FillValue."
            )
        # NetCDF 3 marks signed types that stand for unsigned ones.
        unsigned = variable.encoding.get("_Unsigned") == "true"
        return values.astype(f"u{stored.itemsize}" if unsigned else stored)
    fills = [
        f"{float(np.ravel(variable.encoding[key])[0]):g}"
        for key in ("_FillValue", "missing_value")
        if key in variable.encoding
    ]
    rows = missing.reshape(len(values), -1).any(1).sum() if values.ndim else 1
    raise UnreadableError(
        f"{name} has no value in {missing.sum()} of {values.size} places"
        f"{f' (fill value {fills[0]})' if fills else ''}, in {rows} of {len(values)} entries of "
        f"its first axis: fill them, drop those entries, or {REMEDY}."
    )


@contextmanager
def _xarray_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of all groups of a NetCDF file or a Zarr folder, without bounds."""
    import xarray as xr

    if path.suffix.lower() in NETCDF_SUFFIXES:
        import h5netcdf as _

        with path.open("rb") as file:
            engine = "scipy" if file.read(3) == b"CDF" else "h5netcdf"
    else:
        import zarr as _  # noqa: F401

        refuse_zarr_pickles(path)
        engine = "zarr"
    # Times stay numbers, and coordinates, which may be large, are not read.
    options: dict[str, Any] = {
        "engine": engine,
        "decode_times": False,
        "decode_coords": "all",
        "create_default_indexes": False,
    }
    with ExitStack() as stack:
        if engine == "scipy":
            groups = {"/": xr.open_dataset(path, **options)}
        else:
            groups = xr.open_groups(path, **options)
        for group in groups.values():
            stack.callback(group.close)
        yield {
            f"{place}/{name}".strip("/"): _from_xarray(
                str(name), group[name], name in group.coords
            )
            for place, group in groups.items()
            # A Zarr folder lists them in any order.
            for name in sorted(group.variables, key=str)
        }


def _from_xarray(name: str, array: Any, coordinate: bool) -> Variable:
    def names(axis: int) -> tuple[str, ...]:
        if array.ndim != 2 or array.dims[axis] not in array.coords:
            return ()
        labels = array.coords[array.dims[axis]]
        require_file_memory(labels.shape, 8, name)
        words = tuple(f"{value}" for value in labels.values)
        return words if len(set(words)) == len(words) else ()

    def read() -> np.ndarray:
        numeric = array.dtype.kind in "buif"
        return _complete_values(name, array.variable) if numeric else array.values

    return Variable(array.shape, _kind(array.dtype), read, names, coordinate)


def _matlab_variables(path: Path) -> AbstractContextManager[dict[str, Variable]]:
    """The variables of a MATLAB file of any version."""
    with path.open("rb") as file:
        hdf5 = _HDF5_SIGNATURE in file.read(1024)
    return (_matlab_73_variables if hdf5 else _matlab_5_variables)(path)


@contextmanager
def _matlab_5_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of versions 4 to 7.2."""
    from scipy import io

    def read(name: str, shape: tuple[int, ...]) -> Any:
        require_file_memory(shape, 8, name)
        values = io.loadmat(path, variable_names=[name])[name]
        return values if isinstance(values, np.ndarray) else canonical_csr(values, name)

    yield {
        name: Variable(
            shape,
            "" if kind in _MATLAB_NUMBERS else f"a {kind} array",
            # A sparse matrix takes less than its shape.
            partial(read, name, () if kind == "sparse" else shape),
        )
        for name, shape, kind in io.whosmat(path)
    }


@contextmanager
def _matlab_73_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of version 7.3, which is HDF5 with reversed axes."""
    import h5py
    from scipy import sparse

    found: dict[str, Variable] = {}

    def collect(name: str, node: Any) -> None:
        kind = np.bytes_(node.attrs.get("MATLAB_class", b"double")).decode()
        parent = name.rpartition("/")[0]
        # The contents of cells, and the parts of a sparse matrix.
        if name.startswith("#") or (parent and "MATLAB_sparse" in file[parent].attrs):
            return
        if "MATLAB_sparse" in node.attrs:
            shape = (int(node.attrs["MATLAB_sparse"]), len(node["jc"]) - 1)

            def read() -> Any:
                parts = (
                    read_node(node[part], name) if part in node else np.zeros(0, int)
                    for part in ("data", "ir", "jc")
                )
                return canonical_csr(sparse.csc_array(tuple(parts), shape=shape), name)

            found[name] = Variable(shape, "", read)
        elif "MATLAB_empty" in node.attrs:
            found[name] = Variable((0,), "empty", lambda: np.zeros(0))
        elif isinstance(node, h5py.Dataset) and node.shape is not None:
            numeric = kind in _MATLAB_NUMBERS
            contents = "a complex array" if numeric else f"a {kind} array"
            found[name] = Variable(
                node.shape[::-1],
                "" if numeric and node.dtype.kind in "buif" else contents,
                lambda: _read_matlab_73(file, node, kind),
            )

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        yield found


def _read_matlab_73(file: Any, node: Any, kind: str) -> np.ndarray:
    """A dataset of version 7.3 with MATLAB's axes; cells and rows of text as strings."""
    if kind == "cell":
        require_file_memory(node.shape, 64, "a cell array")
        # The character codes of each word.
        words = [read_node(file[cell], "a cell").ravel() for cell in node[()].ravel()]
        return np.array(["".join(map(chr, word)) for word in words], dtype=object)
    values = read_node(node, kind).T
    if kind == "char":
        return np.array(["".join(map(chr, row)) for row in values], dtype=object)
    return values
