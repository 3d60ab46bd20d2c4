"""Variables of HDF5, NetCDF and Zarr files, read lazily."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.reader_helpers import UnreadableError, check_zarr, read_array, require_room

# What xarray decodes, wherever it is written.
_CODED = ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")


@dataclass(frozen=True)
class Variable:
    """A variable of a file, not yet read.

    Args:
        shape: Its shape.
        kind: What it holds, where that is not numbers.
        read: A function that reads it.
        names: A function that gives the names along an axis of a matrix; none where there are none.
        coordinate: Whether it only says where other variables' values are.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Any]
    names: Callable[[int], tuple[str, ...]] = lambda _: ()
    coordinate: bool = False


@contextmanager
def hdf5_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The datasets of all groups of an HDF5 file."""
    import h5py

    found: dict[str, Variable] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            kind = "" if node.dtype.kind in "buif" else _kind(node.dtype)
            found[name] = Variable(node.shape, kind, lambda: _decoded(name, node))

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        yield found


def _kind(dtype: np.dtype) -> str:
    kinds = {"O": "text or objects", "S": "text", "T": "text", "U": "text", "V": "a table"}
    return kinds.get(dtype.kind, str(dtype))


def _decoded(name: str, node: Any) -> np.ndarray:
    """The values of an HDF5 dataset, with its fill value, scale and offset applied."""
    values = read_array(node, name)
    attributes = {key: np.ravel(node.attrs[key])[0] for key in _CODED if key in node.attrs}
    # Fixed-length strings are bytes.
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    if not attributes or values.dtype.kind not in "uif":
        return values
    from xarray import Variable as Decodable
    from xarray.conventions import decode_cf_variable

    axes = [f"axis_{axis}" for axis in range(values.ndim)]
    variable = decode_cf_variable(name, Decodable(axes, values, attributes))
    return _without_gaps(name, variable)


def _without_gaps(name: str, variable: Any) -> np.ndarray:
    """The values of a variable of xarray's, none of which may be missing."""
    require_room(variable.shape, variable.dtype.itemsize, name)
    values = np.asarray(variable.values)
    if values.dtype.kind != "f" or not (missing := np.isnan(values)).any():
        # A fill value makes whole numbers floats, whether it is used or not.
        packed = {"scale_factor", "add_offset"} & variable.encoding.keys()
        stored = np.dtype(variable.encoding.get("dtype", values.dtype))
        if values.dtype.kind != "f" or stored.kind not in "iu" or packed:
            return values
        if np.abs(values).max(initial=0) > 2**53:
            raise UnreadableError(
                f"{name} holds whole numbers beyond 2^53, which its fill value turns into floats that lose "
                "digits: save it without _FillValue."
            )
        # NetCDF 3 has no unsigned types, and says so beside the signed ones.
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
        f"{f' (fill value {fills[0]})' if fills else ''}, in {rows} of {len(values)} entries of its first "
        "axis: fill them, or drop those entries, first."
    )


@contextmanager
def netcdf_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of a NetCDF file, version 3 or 4."""
    import h5netcdf as _  # noqa: F401

    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    with _xarray(path, "scipy" if classic else "h5netcdf") as found:
        yield found


@contextmanager
def zarr_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of a Zarr folder."""
    import zarr as _  # noqa: F401

    check_zarr(path)
    with _xarray(path, "zarr") as found:
        yield found


@contextmanager
def _xarray(path: Path, engine: str) -> Iterator[dict[str, Variable]]:
    """The variables of all groups; bounds and the like are not among them."""
    import xarray as xr

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
            f"{place}/{name}".strip("/"): _of_xarray(str(name), group[name], name in group.coords)
            for place, group in groups.items()
            # A Zarr folder lists them in any order.
            for name in sorted(group.variables, key=str)
        }


def _of_xarray(name: str, array: Any, coordinate: bool) -> Variable:
    def names(axis: int) -> tuple[str, ...]:
        if array.ndim != 2 or array.dims[axis] not in array.coords:
            return ()
        coordinate = array.coords[array.dims[axis]]
        require_room(coordinate.shape, 8, name)
        words = tuple(f"{value}" for value in coordinate.values)
        return words if len(set(words)) == len(words) else ()

    numbers = array.dtype.kind in "buif"
    return Variable(
        array.shape,
        "" if numbers else _kind(array.dtype),
        (lambda: _without_gaps(name, array.variable)) if numbers else (lambda: array.values),
        names,
        coordinate,
    )
