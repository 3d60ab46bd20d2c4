"""Data: named sets, the user's own arrays, and what a likelihood needs of either.

A loader gives a `Dataset`: three splits in their narrowest type, with the support of their values.
`PreparedData` joins it with a likelihood's support: binarised, dequantised, scaled or as it is. A
pair that does not fit is refused, so grey pixels never reach a Bernoulli silently.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pyro_vae.data.anndata_files import anndata_file, anndata_rows
from pyro_vae.data.arrays import array_file, array_rows
from pyro_vae.data.colour_sets import celeba, cifar10, svhn
from pyro_vae.data.contract import (
    ChangedDataError,
    DataContract,
    check_batch,
    check_observed,
    check_prepared,
    prepare,
)
from pyro_vae.data.count_files import mouse_bladder, newsgroups, newsgroups_halves
from pyro_vae.data.counts import count_file, count_rows
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.digits import digits
from pyro_vae.data.gene_matrices import (
    matrix_market_file,
    matrix_market_rows,
    tenx_file,
    tenx_rows,
)
from pyro_vae.data.image_files import dsprites, freyface, omniglot, static_mnist
from pyro_vae.data.image_folders import image_folder, image_rows
from pyro_vae.data.own_data import OWN_DATA, own_data
from pyro_vae.data.photos import photos
from pyro_vae.data.preparation import PreparedData, SupportMismatchError
from pyro_vae.data.rows import Rows
from pyro_vae.data.scientific_files import variable_file, variable_rows
from pyro_vae.data.tables import table_file, table_rows
from pyro_vae.data.torchvision_sets import fashion_mnist, kmnist, mnist
from pyro_vae.data.units import Units
from pyro_vae.data.values import Kind

# A loader that reads from a folder of data sets takes it as `root`; one of the user's own, `path`.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "photos": photos,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "static_mnist": static_mnist,
    "omniglot": omniglot,
    "freyface": freyface,
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

# What reads new data for a trained model, by the loader that reads such a path for training: the same
# values and names, not split.
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


def default_root() -> Path:
    """The folder of data sets: the environment variable PYRO_VAE_DATA, or `data` where we are."""
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
    "image_folder",
    "kmnist",
    "matrix_market_file",
    "mnist",
    "mouse_bladder",
    "newsgroups",
    "newsgroups_halves",
    "omniglot",
    "own_data",
    "photos",
    "prepare",
    "static_mnist",
    "svhn",
    "table_file",
    "tenx_file",
    "variable_file",
]
