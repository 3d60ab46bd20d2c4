"""Colour without a download: patches of the two photographs that come with scikit-learn."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.orders import permutation

_SPLIT_SEED = 427_640

# The photographs are cut into blocks of this many pixels a side, and blocks are dealt to the splits:
# no pixel is in two of them.
_BLOCK = 64
_BLOCKS = (80, 16, 24)
_PATCH = 32
# Patches of a block begin so many pixels apart. Those of the test set overlap less, because a standard
# error takes them to be independent.
_STRIDES = (4, 8, 8)


def photos() -> Dataset:
    """7,480 patches, 3 x 32 x 32 in 256 levels, of scikit-learn's photographs of a temple and a flower.

    Both are cut into 60 blocks of 64 x 64, and the 120 blocks are dealt to the splits, always in the
    same way: 80 give 6,480 training patches (one every 4 pixels), 16 give 400 for validation and 24
    give 600 for the test (one every 8 pixels). Patches of one block overlap, so scores vary more
    than as many independent images would. The label is the photograph.

    >>> photos().train.shape
    torch.Size([6480, 3, 32, 32])

    Raises:
        ImportError: If scikit-learn or Pillow cannot be imported.

    References:
        scikit-learn, `sklearn.datasets.load_sample_images`, https://scikit-learn.org/stable/datasets
    """
    try:
        from sklearn.datasets import load_sample_images

        images = load_sample_images().images
    # scikit-learn imports Pillow when it reads the photographs.
    except ImportError as error:
        raise ImportError(
            "the photographs are part of scikit-learn and read by Pillow, one of which cannot be "
            f"imported ({error}): pip install scikit-learn pillow"
        ) from error
    blocks = _patches(torch.from_numpy(np.stack(images)).movedim(-1, 1), _BLOCK, _BLOCK)
    photograph = torch.arange(len(images)).repeat_interleave(len(blocks) // len(images))
    parts = permutation(len(blocks), seed=_SPLIT_SEED).split(_BLOCKS)
    splits, labels = [], {}
    for split, rows, stride in zip(SPLITS, parts, _STRIDES, strict=True):
        patches = _patches(blocks[rows], _PATCH, stride)
        splits.append(patches)
        labels[split] = photograph[rows].repeat_interleave(len(patches) // len(rows))
    return Dataset(
        "photos", "integers", 256, *splits, labels=labels, label_names=("temple", "flower")
    )


def _patches(
    images: UInt8[Tensor, "images 3 height width"], size: int, stride: int
) -> UInt8[Tensor, "patches 3 size size"]:
    """The squares of `size` pixels a side that begin every `stride` pixels, image by image."""
    windows = images.unfold(2, size, stride).unfold(3, size, stride)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, size, size)
