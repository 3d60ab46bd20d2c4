"""Handwritten digits that come with scikit-learn: real scans, no download."""

import torch

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.orders import permutation

_SPLIT_SEED = 1797


def digits() -> Dataset:
    """The 1,797 scans of 8 x 8 pixels in 17 grey levels that are part of scikit-learn.

    Split into 1,257 training, 180 validation and 360 test images, always the same.

    >>> digits().train.shape
    torch.Size([1257, 1, 8, 8])

    Raises:
        ImportError: If scikit-learn cannot be imported.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998),
        https://doi.org/10.24432/C50P49
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"the digits are part of scikit-learn, which cannot be imported ({error}): "
            "pip install scikit-learn"
        ) from error
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.to(torch.uint8).unflatten(1, (1, 8, 8))
    parts = permutation(len(images), seed=_SPLIT_SEED).split([1257, 180, 360])
    splits: dict[str, torch.Tensor] = dict(zip(SPLITS, parts, strict=True))
    return Dataset(
        "digits",
        "integers",
        17,
        *(images[rows] for rows in parts),
        labels={split: labels[rows] for split, rows in splits.items()},
        label_names=tuple("0123456789"),
        rows=splits,
    )
