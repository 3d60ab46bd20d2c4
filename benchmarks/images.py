"""The images that every way trains on."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from pyro_vae.data import DATASETS, default_root

# `digits` is small and always there: to try the program on.
IMAGE_SETS = ("mnist", "digits")


def grey_images(
    name: str, root: str | None = None, count: int | None = None
) -> UInt8[Tensor, "n pixels"]:
    """Training images with grey levels 0 to 255, one flat image a row.

    Args:
        name: One of `IMAGE_SETS`.
        root: The folder of data sets; the default one if None.
        count: How many: the first ones, or all of them again and again. None for all, once.

    Raises:
        ValueError: If there is no such set, or its files are missing.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"data must be one of {', '.join(IMAGE_SETS)}, got {name!r}.")
    folder = default_root() if root is None else Path(root)
    options = {} if name == "digits" else {"root": folder}
    dataset = DATASETS[name](**options)
    images = dataset.split("train").flatten(1)
    top = (dataset.levels or 2) - 1
    if top != 255:
        images = (images.to(torch.int64) * 255 // top).to(torch.uint8)
    if count is None:
        return images
    return images.repeat(-(-count // len(images)), 1)[:count].contiguous()
