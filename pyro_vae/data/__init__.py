"""Data: named sets, the user's own files and arrays, and their preparation for a likelihood.

A loader returns a `Dataset`: three splits in their narrowest type, with the support of their
values. `PreparedData` joins it with a likelihood's support: binarised, dequantised, scaled or
unchanged. A pair that does not fit is refused, so grey pixels never reach a Bernoulli silently.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.array_files import (
    array_file,
    array_rows,
    count_file,
    count_rows,
    is_sparse_file,
)
from pyro_vae.data.batch_checks import check_batch, check_observed, check_prepared
from pyro_vae.data.cell_files import (
    anndata_file,
    anndata_rows,
    find_matrix_market,
    is_anndata,
    is_tenx,
    matrix_market_file,
    matrix_market_rows,
    tenx_file,
    tenx_rows,
)
from pyro_vae.data.contract import ChangedDataError, DataContract
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.image_folders import image_folder, image_rows
from pyro_vae.data.image_reading import IMAGE_SUFFIXES
from pyro_vae.data.image_sets import (
    celeba,
    cifar10,
    digits,
    fashion_mnist,
    kmnist,
    mnist,
    photos,
    svhn,
)
from pyro_vae.data.missing import allow_missing
from pyro_vae.data.npz_sets import (
    dsprites,
    freyface,
    mouse_bladder,
    newsgroups,
    newsgroups_halves,
    omniglot,
    static_mnist,
)
from pyro_vae.data.preprocessing import PreparedData, SupportMismatchError
from pyro_vae.data.rows import Rows, as_rows
from pyro_vae.data.scientific_files import (
    HDF5_SUFFIXES,
    NETCDF_SUFFIXES,
    variable_file,
    variable_rows,
)
from pyro_vae.data.sequences import freyface_sequences, pendulum, windows
from pyro_vae.data.tables import table_file, table_rows
from pyro_vae.data.units import Units
from pyro_vae.data.validation import Kind

log = logging.getLogger(__name__)

# Named sets take the folder of data sets as `root`; the user's own data are at `path`.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "photos": photos,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "static_mnist": static_mnist,
    "omniglot": omniglot,
    "freyface": freyface,
    "freyface_sequences": freyface_sequences,
    "pendulum": pendulum,
    "dsprites": dsprites,
    "cifar10": cifar10,
    "svhn": svhn,
    "celeba": celeba,
    "newsgroups": newsgroups,
    "mouse_bladder": mouse_bladder,
    "array_file": array_file,
    "image_folder": image_folder,
    "count_file": count_file,
    "table_file": table_file,
    "anndata_file": anndata_file,
    "tenx_file": tenx_file,
    "matrix_market_file": matrix_market_file,
    "variable_file": variable_file,
}

# Readers of new data for a trained model, by the name of the loader for training data.
READERS: dict[str, Callable[..., Rows]] = {
    "array_file": array_rows,
    "count_file": count_rows,
    "image_folder": image_rows,
    "table_file": table_rows,
    "anndata_file": anndata_rows,
    "tenx_file": tenx_rows,
    "matrix_market_file": matrix_market_rows,
    "variable_file": variable_rows,
}

_BY_SUFFIX = {
    **dict.fromkeys((".npy", ".npz"), "array_file"),
    **dict.fromkeys((".csv", ".parquet"), "table_file"),
    ".h5ad": "anndata_file",
    ".mtx": "matrix_market_file",
    **dict.fromkeys((*HDF5_SUFFIXES, *NETCDF_SUFFIXES, ".mat", ".zarr"), "variable_file"),
    # A single image, for a trained model.
    **dict.fromkeys(IMAGE_SUFFIXES, "image_folder"),
}

OWN_DATA = (
    "a folder of images, or a .npy, .npz, .csv, .parquet, .h5ad, .h5, .mtx, .nc, .zarr or .mat "
    "file"
)


def loader_for_path(path: str) -> str | None:
    """The name of the loader of a file or folder, by its suffix and perhaps its contents.

    >>> loader_for_path("faces.npy")
    'array_file'

    Returns:
        A name in `DATASETS`, whether the file exists or not; None if `path` is not a path but,
        perhaps, a misspelt name.

    Raises:
        ValueError: If no loader reads such a path.
    """
    if os.path.isdir(path):
        folder = Path(path)
        if any((folder / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json")):
            return "anndata_file" if is_anndata(folder) else "variable_file"
        return "matrix_market_file" if find_matrix_market(folder) else "image_folder"
    suffix = ".mtx" if path.lower().endswith(".mtx.gz") else Path(path).suffix.lower()
    if suffix == ".npz" and is_sparse_file(path):
        return "count_file"
    if suffix in HDF5_SUFFIXES and is_tenx(path):
        return "tenx_file"
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if os.path.isfile(path):
        raise ValueError(f"data of your own must be {OWN_DATA}, got {path}.")
    if suffix or "/" in path or os.sep in path:
        raise ValueError(f"data of your own must be {OWN_DATA}, but there is no {path}.")
    return None


def read_rows(data: Any) -> Rows:
    """Read new data for a trained model: what `as_rows` accepts, or a path.

    Raises:
        ValueError: If no loader reads such a path, or the data are not rows of one shape.
        TypeError: If data of this type are not accepted.
    """
    if not isinstance(data, str | Path):
        return as_rows(data, new=True)
    loader = loader_for_path(str(data))
    if loader is None:
        raise ValueError(f"data of your own must be {OWN_DATA}, got {str(data)!r}.")
    return READERS[loader](data)


def prepare(data: Any, contract: DataContract | None) -> Real[Tensor, " n *event"]:
    """Prepare new data like the training data; what was left out is logged as a warning.

    Args:
        data: What `as_rows` accepts, or a path.
        contract: The contract of the training data.

    Raises:
        ValueError: If there is no contract, or the data do not fit it.
        TypeError: If data of this type are not accepted.
    """
    if contract is None:
        raise ValueError(
            "the VAE has not been trained, so how to prepare data is not known: fit it first, or "
            "give a tensor in the likelihood's support."
        )
    if isinstance(data, Dataset):
        raise TypeError("a Dataset has three splits: give one of them, such as dataset.test.")
    with allow_missing(contract.allows_missing):
        rows = read_rows(data)
    prepared = contract.new_data(replace(rows, labels=None))
    for note in prepared.dataset.notes:
        log.warning("%s", note)
    # The slice makes sparse rows dense.
    x = prepared.fixed("test")[:]
    return x if x.dtype == torch.float64 else x.to(torch.get_default_dtype())


def default_root() -> Path:
    """The folder of data sets: the environment variable PYRO_VAE_DATA, or `data`."""
    return Path(os.environ.get("PYRO_VAE_DATA") or "data")


__all__ = [
    "DATASETS",
    "OWN_DATA",
    "READERS",
    "ChangedDataError",
    "DataContract",
    "Dataset",
    "Kind",
    "PreparedData",
    "Rows",
    "SupportMismatchError",
    "Units",
    "allow_missing",
    "anndata_file",
    "array_file",
    "celeba",
    "check_batch",
    "check_observed",
    "check_prepared",
    "cifar10",
    "count_file",
    "default_root",
    "digits",
    "dsprites",
    "fashion_mnist",
    "freyface",
    "freyface_sequences",
    "image_folder",
    "kmnist",
    "loader_for_path",
    "matrix_market_file",
    "mnist",
    "mouse_bladder",
    "newsgroups",
    "newsgroups_halves",
    "omniglot",
    "pendulum",
    "photos",
    "prepare",
    "read_rows",
    "static_mnist",
    "svhn",
    "table_file",
    "tenx_file",
    "variable_file",
    "windows",
]
