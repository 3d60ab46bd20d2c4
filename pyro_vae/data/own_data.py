"""Which loader reads a path of the user's."""

import os
from pathlib import Path

from pyro_vae.data.anndata_files import is_anndata
from pyro_vae.data.counts import is_sparse
from pyro_vae.data.gene_matrices import is_tenx, matrix_market_in
from pyro_vae.data.image_reading import PICTURE_SUFFIXES
from pyro_vae.data.scientific_files import HDF5_SUFFIXES, NETCDF_SUFFIXES

OWN_DATA = "a folder of images, or a .npy, .npz, .csv, .parquet, .h5ad, .h5, .mtx, .nc, .zarr or .mat file"

_LOADERS = {
    ".npy": "array_file",
    ".npz": "array_file",
    ".csv": "table_file",
    ".parquet": "table_file",
    ".h5ad": "anndata_file",
    ".mtx": "matrix_market_file",
    ".mat": "variable_file",
    ".zarr": "variable_file",
    **dict.fromkeys(HDF5_SUFFIXES + NETCDF_SUFFIXES, "variable_file"),
    # One picture, for a trained model.
    **dict.fromkeys(PICTURE_SUFFIXES, "image_folder"),
}


def own_data(path: str) -> str | None:
    """The name of the loader that reads a path: a folder's, or that of the file's suffix.

    A `.npz` is sparse if it holds what `scipy.sparse.save_npz` writes; a `.h5` and a folder are what
    they hold.

    >>> own_data("faces.npy")
    'array_file'

    Returns:
        A name in `DATASETS`, whether the file exists or not; None if `path` is not a path but,
        perhaps, a misspelt name.

    Raises:
        ValueError: If `path` is a path, but of nothing that a loader reads.
    """
    if os.path.isdir(path):
        return _of_folder(Path(path))
    suffix = ".mtx" if path.lower().endswith(".mtx.gz") else Path(path).suffix.lower()
    if suffix == ".npz" and is_sparse(path):
        return "count_file"
    if suffix in HDF5_SUFFIXES and is_tenx(path):
        return "tenx_file"
    if suffix in _LOADERS:
        return _LOADERS[suffix]
    if os.path.isfile(path):
        raise ValueError(f"data of your own must be {OWN_DATA}, got {path}.")
    if suffix or "/" in path or os.sep in path:
        raise ValueError(f"data of your own must be {OWN_DATA}, but there is no {path}.")
    return None


def _of_folder(path: Path) -> str:
    if any((path / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json")):
        return "anndata_file" if is_anndata(path) else "variable_file"
    return "matrix_market_file" if matrix_market_in(path) else "image_folder"
