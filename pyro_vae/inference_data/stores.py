"""A tree to disk, all of it or nothing: `write_netcdf` and `write_zarr`."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray


def write_netcdf(tree: "xarray.DataTree", path: str | os.PathLike[str]) -> Path:
    """Write a tree to a NetCDF file, compressed, all of it or nothing.

    `xarray.open_datatree`, `arviz_base.convert_to_datatree` and either line's `arviz.from_netcdf`
    open the file.

    Args:
        tree: What `from_svi` returns.
        path: The file, which is replaced if it exists.

    Returns:
        The path.
    """
    path = Path(path)
    encoding = {
        node.path: {name: {"zlib": True, "complevel": 4} for name, v in node.items() if v.ndim}
        for node in tree.leaves
    }
    # In the same directory, so that the replacement is one step on one file system.
    # One name for all: what a killed process left behind is overwritten by the next.
    partial = path.with_name(f".{path.name}.tmp")
    try:
        tree.to_netcdf(partial, engine="h5netcdf", encoding=encoding)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_zarr(tree: "xarray.DataTree", path: str | os.PathLike[str]) -> Path:
    """Write a tree to a Zarr store, all of it or nothing.

    The store is a directory. `xarray.open_datatree(path, engine="zarr")` opens it, and so does
    `arviz.from_zarr` from ArviZ 1.0 on; the 0.x line's refuses any Zarr that today's xarray takes. The
    format is Zarr's second, which both read without a warning.

    To replace a store takes two steps, with the old one beside it meanwhile, as `.NAME.old`: a
    process killed between them leaves that, and the new one as `.NAME.tmp`.

    Args:
        tree: What `from_svi` returns.
        path: The store, which is replaced if it exists.

    Returns:
        The path.

    Raises:
        ImportError: If `zarr` is not installed.
        ValueError: If there is something else than a Zarr store at the path.
    """
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError("write_zarr needs Zarr: pip install zarr.") from error
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and the store would be a directory.")
    if path.is_dir() and any(path.iterdir()) and not (path / ".zgroup").exists():
        raise ValueError(f"{path} is a directory, and no Zarr store: it is not replaced.")
    partial, old = (path.with_name(f".{path.name}.{what}") for what in ("tmp", "old"))
    try:
        for directory in (partial, old):
            shutil.rmtree(directory, ignore_errors=True)
        tree.to_zarr(partial, mode="w", zarr_format=2, consolidated=True)
        _exchange(partial, path, old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
    return path


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Put a directory in another's place: a rename over a full directory is refused."""
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
