"""Which loader reads a path of the user's."""

import os
from pathlib import Path

from pyro_vae.data.counts import is_sparse

OWN_DATA = "a folder of images, or a .npy, .npz, .csv or .parquet file"

_LOADERS = {
    ".npy": "array_file",
    ".npz": "array_file",
    ".csv": "table_file",
    ".parquet": "table_file",
}


def own_data(path: str) -> str | None:
    """The name of the loader that reads a path: a folder's, or that of the file's suffix.

    A `.npz` is sparse if it holds what `scipy.sparse.save_npz` writes.

    >>> own_data("faces.npy")
    'array_file'

    Returns:
        A name in `DATASETS`, whether the file exists or not; None if `path` is not a path but,
        perhaps, a misspelt name.

    Raises:
        ValueError: If `path` is a path, but of nothing that a loader reads.
    """
    if os.path.isdir(path):
        return "image_folder"
    suffix = Path(path).suffix.lower()
    if suffix in _LOADERS:
        return "count_file" if suffix == ".npz" and is_sparse(path) else _LOADERS[suffix]
    if os.path.isfile(path):
        raise ValueError(f"data of your own must be {OWN_DATA}, got {path}.")
    if suffix or "/" in path or os.sep in path:
        raise ValueError(f"data of your own must be {OWN_DATA}, but there is no {path}.")
    return None
