"""Data: named sets, the user's own arrays, and what a likelihood needs of either.

A loader gives a `Dataset`: three splits in their narrowest type, with the support of their values.
`PreparedData` joins it with a likelihood's support: binarised, dequantised, scaled or as it is. A
pair that does not fit is refused, so grey pixels never reach a Bernoulli silently.
"""

import os
from collections.abc import Callable
from pathlib import Path

from pyro_vae.data.arrays import array_file
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.digits import digits
from pyro_vae.data.preparation import PreparedData
from pyro_vae.data.torchvision_sets import fashion_mnist, mnist

# A loader that reads from a folder of data sets takes it as `root`.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "array_file": array_file,
}


def default_root() -> Path:
    """The folder of data sets: the environment variable PYRO_VAE_DATA, or `data` where we are."""
    return Path(os.environ.get("PYRO_VAE_DATA") or "data")


__all__ = [
    "DATASETS",
    "Dataset",
    "PreparedData",
    "array_file",
    "default_root",
    "digits",
    "fashion_mnist",
    "mnist",
]
