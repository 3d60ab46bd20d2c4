"""`photos`: patches of scikit-learn's photographs."""

import sys

import numpy as np
import pytest
import torch

from pyro_vae.data import (
    photos,
)
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.image_sets import _BLOCK, _BLOCKS, _PATCH, _STRIDES


def test_shapes_and_splits():
    dataset = photos()
    assert (dataset.support, dataset.levels, dataset.event_shape) == (
        "integers",
        256,
        (3, 32, 32),
    )
    assert [len(dataset.split(split)) for split in SPLITS] == [6480, 400, 600]
    assert dataset.train.dtype == torch.uint8
    assert dataset.label_names == ("temple", "flower")
    for split in SPLITS:
        assert len(dataset.labels[split].unique()) == 2
    # The split that reported numbers stand on: it must not drift with versions of torch.
    # (Pixels differ in a level between versions of the JPEG library.)
    assert "".join(map(str, dataset.labels["test"][::25].tolist())) == "000011010111011000100111"


def test_no_pixel_is_in_two_splits(monkeypatch):
    # Photographs in which every pixel is another colour tell where each patch lies.
    numbers = np.arange(2 * 427 * 640).reshape(2, 427, 640)
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1)

    class Sample:
        images = tuple(colours.astype(np.uint8))

    monkeypatch.setattr("sklearn.datasets.load_sample_images", Sample)
    dataset = photos()
    seen = {}
    for split in SPLITS:
        red, green, blue = dataset.split(split).long().unbind(1)
        place = red + 256 * green + 65536 * blue
        # A patch is a square of neighbouring pixels of one photograph.
        assert (place[:, :, 1:] - place[:, :, :-1] == 1).all()
        assert (place[:, 1:] - place[:, :-1] == 640).all()
        assert torch.equal(place[:, 0, 0] // (427 * 640), dataset.labels[split])
        seen[split] = set(place.flatten().tolist())
    blocks = dict(zip(SPLITS, _BLOCKS, strict=True))
    for split, places in seen.items():
        assert len(places) == blocks[split] * _BLOCK**2
        assert not any(places & seen[other] for other in SPLITS if other != split)
    for split, stride in zip(SPLITS, _STRIDES, strict=True):
        per_block = ((_BLOCK - _PATCH) // stride + 1) ** 2
        assert len(dataset.split(split)) == blocks[split] * per_block


@pytest.mark.parametrize("module", ["sklearn.datasets", "PIL"])
def test_what_cannot_be_imported_is_named(monkeypatch, module):
    # None in sys.modules makes `import` raise ImportError.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install scikit-learn pillow"):
        photos()
