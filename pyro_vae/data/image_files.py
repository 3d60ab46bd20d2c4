"""Image sets of one `.npz` file in the data root: static MNIST, Omniglot, Frey faces, dSprites."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.orders import permutation
from pyro_vae.data.root_files import read_npz

_STATIC_MNIST_SHA256 = "9b45e636201cc2967c8bf90055894901453d5cf7fe9654465a9fedd07289821a"
_OMNIGLOT_SHA256 = "6c8b4be54470b7f7e80c58343d56bdb2b135005db18260616a620571c7e24611"
_FREYFACE_SHA256 = "3c70375e0a9c4751ad49ad5f1f692bd094c46f133cf4aa8ea77d1cb14e1efcd1"
_DSPRITES_GRID_SHA256 = "721b08f68ce0b216a45088d86c00208b461bd81bd288e66b21d338506dee6c78"
_DSPRITES_RANDOM_SHA256 = "507f831b17ce22d944b474c142258b71474f415d36c2cf37dded871f246c40d2"

_OMNIGLOT_SEED = 19_280
_FREYFACE_SEED = 1_965
_DSPRITES_SEED = 737_280

# Shape, scale, orientation, x and y of the whole dSprites.
_DSPRITES_SIZES = (3, 6, 40, 32, 32)
_DSPRITES_VALIDATION = 5_000


def static_mnist(root: Path) -> Dataset:
    """MNIST as Larochelle binarised it once: 70,000 images of 28 x 28, 0 or 1.

    The file's own splits: 50,000 training, 10,000 validation and 10,000 test images. Training and
    validation images are a shuffle of MNIST's 60,000, and the test images are sorted by digit:
    shuffle before taking a part. Their log-likelihoods do not compare with dynamic binarisation's.

    `MNIST_static/binarized_mnist_packed.npz` holds `train` (50000, 98), `valid` and `test` (10000, 98):
    uint8, eight pixels each, as `numpy.packbits` makes them; and the digits `train_labels`,
    `valid_labels`, `test_labels`.

    Args:
        root: The folder that holds `MNIST_static`.

    Raises:
        ValueError: If the file is missing, damaged or another one.

    References:
        On the quantitative analysis of deep belief networks (Salakhutdinov & Murray, 2008),
        https://doi.org/10.1145/1390156.1390266;
        The neural autoregressive distribution estimator (Larochelle & Murray, 2011),
        https://proceedings.mlr.press/v15/larochelle11a.html
    """
    sizes = {"train": 50_000, "valid": 10_000, "test": 10_000}
    arrays = read_npz(
        root,
        "MNIST_static/binarized_mnist_packed.npz",
        sha256=_STATIC_MNIST_SHA256,
        shapes={
            **{split: (n, 98) for split, n in sizes.items()},
            **{f"{split}_labels": (n,) for split, n in sizes.items()},
        },
        source="Larochelle's binarized_mnist_{train,valid,test}.amat",
    )
    train, validation, test = (
        torch.from_numpy(np.unpackbits(arrays[split], axis=1)).unflatten(1, (1, 28, 28))
        for split in sizes
    )
    labels = [torch.from_numpy(arrays[f"{split}_labels"]).long() for split in sizes]
    return Dataset(
        "static_mnist",
        "binary",
        None,
        train,
        validation,
        test,
        labels=dict(zip(("train", "validation", "test"), labels, strict=True)),
        label_names=tuple("0123456789"),
    )


def omniglot(root: Path) -> Dataset:
    """Handwritten characters of 50 alphabets: 32,460 images of 28 x 28 pixels in 256 grey levels.

    The original split by alphabets: the test images are the 13,180 of the 20 evaluation alphabets,
    none of which is in training. The 19,280 of the 30 background alphabets are shuffled, always in
    the same way; the last tenth of them is for validation, which leaves 17,352 and 1,928. Labels are
    alphabets. Log-likelihoods do not compare with tables on the 24,345 / 8,070 images of Burda et
    al. (2016), which were chosen, split and reduced in another way.

    `omniglot/omniglot_28x28.npz` holds `images` (32460, 28, 28), uint8, ink 255: area averages of the
    originals; `alphabet` and `evaluation_set` (32460,), integers; `alphabet_names` (50,).

    Args:
        root: The folder that holds `omniglot`.

    Raises:
        ValueError: If the file is missing, damaged or another one.

    References:
        Human-level concept learning through probabilistic program induction (Lake et al., 2015),
        https://doi.org/10.1126/science.aab3050
    """
    n = 32_460
    arrays = read_npz(
        root,
        "omniglot/omniglot_28x28.npz",
        sha256=_OMNIGLOT_SHA256,
        shapes={
            "images": (n, 28, 28),
            "alphabet": (n,),
            "evaluation_set": (n,),
            "alphabet_names": (50,),
        },
        source="https://github.com/brendenlake/omniglot",
    )
    alphabets = torch.from_numpy(arrays["alphabet"]).long()
    background, evaluation = (
        torch.from_numpy((arrays["evaluation_set"] == value).nonzero()[0]) for value in (0, 1)
    )
    background = background[permutation(len(background), seed=_OMNIGLOT_SEED)]
    images = torch.from_numpy(arrays["images"]).unsqueeze(1)
    # Views of this: training and validation images share one memory.
    shuffled = images[background]
    n_train = len(background) - len(background) // 10
    return Dataset(
        "omniglot",
        "integers",
        256,
        train=shuffled[:n_train],
        validation=shuffled[n_train:],
        test=images[evaluation],
        labels={
            "train": alphabets[background[:n_train]],
            "validation": alphabets[background[n_train:]],
            "test": alphabets[evaluation],
        },
        label_names=tuple(arrays["alphabet_names"].tolist()),
    )


def freyface(root: Path) -> Dataset:
    """One face in 1,965 frames of a video, 28 x 20 pixels in 256 grey levels.

    A random split that is always the same: 1,565 training, 200 validation and 200 test frames.
    Neighbouring frames are nearly the same, so scores on the test split are too good.

    `freyface/freyface.npz` holds `images` (1965, 28, 20), uint8, in the order of time.

    Args:
        root: The folder that holds `freyface`.

    Raises:
        ValueError: If the file is missing, damaged or another one.

    References:
        Global coordination of local linear models (Roweis et al., 2001),
        https://cs.nyu.edu/~roweis/data.html
    """
    n = 1_965
    arrays = read_npz(
        root,
        "freyface/freyface.npz",
        sha256=_FREYFACE_SHA256,
        shapes={"images": (n, 28, 20)},
        source="frey_rawface.mat at https://cs.nyu.edu/~roweis/data.html",
    )
    images = torch.from_numpy(arrays["images"]).unsqueeze(1)
    shuffled = images[permutation(n, seed=_FREYFACE_SEED)]
    return Dataset(
        "freyface", "integers", 256, shuffled[:1_565], shuffled[1_565:1_765], shuffled[1_765:]
    )


def dsprites(root: Path, size: Literal[32, 64] = 64) -> Dataset:
    """White shapes on black with known factors: images of 64 x 64 pixels, 0 or 1.

    The training set is a whole grid: all 46,080 combinations of 3 shapes, 6 scales, and every fourth
    of 40 orientations and every second of 32 positions in x and in y. Validation and test images are
    of the 20,000 drawn at random from all 737,280, without those that are in the grid or the same as
    another one in every pixel: 5,000 for validation and 13,601 for the test, always the same.
    Labels are rows of five factors, each the number of its value in the whole dSprites in every split.

    `dsprites/dsprites_grid_46080.npz` and `dsprites/dsprites_random_20000.npz` hold `imgs`
    (n, 64, 64), uint8, 0 or 1, and `original_dataset_indices` (n,), rows of the whole dSprites.

    Args:
        root: The folder that holds `dsprites`.
        size: The number of pixels a side. At 32, a pixel is 1 where at least two of the four that it
            covers are; more images are then the same, and 13,252 are left for the test.

    Raises:
        ValueError: If a file is missing, damaged or another one, or `size` is not 32 or 64.

    References:
        dSprites: Disentanglement testing sprites dataset (Matthey et al., 2017),
        https://github.com/google-deepmind/dsprites-dataset
    """
    if size not in (32, 64):
        raise ValueError(f"size must be 32 or 64, got {size}.")
    train, train_indices = _sprites(root, "grid", 46_080, _DSPRITES_GRID_SHA256, size)
    others, indices = _sprites(root, "random", 20_000, _DSPRITES_RANDOM_SHA256, size)
    held_out = torch.from_numpy(_first_rows_apart_from(others, train))
    order = held_out[permutation(len(held_out), seed=_DSPRITES_SEED)]
    rows = order.split([_DSPRITES_VALIDATION, len(order) - _DSPRITES_VALIDATION])
    validation, test = (torch.from_numpy(others)[part].unsqueeze(1) for part in rows)
    factors = [_factors(train_indices), *(_factors(indices[part.numpy()]) for part in rows)]
    return Dataset(
        "dsprites",
        "binary",
        None,
        torch.from_numpy(train).unsqueeze(1),
        validation,
        test,
        labels=dict(zip(("train", "validation", "test"), factors, strict=True)),
        label_names=("shape", "scale", "orientation", "x", "y"),
    )


def _sprites(
    root: Path, part: str, n: int, sha256: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images of `size` pixels a side, and their rows in the whole dSprites."""
    arrays = read_npz(
        root,
        f"dsprites/dsprites_{part}_{n}.npz",
        sha256=sha256,
        shapes={"imgs": (n, 64, 64), "original_dataset_indices": (n,)},
        source="https://github.com/google-deepmind/dsprites-dataset",
    )
    images = arrays["imgs"]
    if size == 32:
        pairs = images[:, ::2] + images[:, 1::2]
        images = (pairs[:, :, ::2] + pairs[:, :, 1::2] >= 2).view(np.uint8)
    return images, arrays["original_dataset_indices"]


def _first_rows_apart_from(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rows of images that are not among the others, the first of those that are equal."""
    seen = {row.tobytes() for row in np.packbits(others.reshape(len(others), -1), axis=1)}
    kept = []
    for index, row in enumerate(np.packbits(images.reshape(len(images), -1), axis=1)):
        key = row.tobytes()
        if key not in seen:
            kept.append(index)
            seen.add(key)
    return np.array(kept)


def _factors(indices: np.ndarray) -> torch.Tensor:
    """Rows of the whole dSprites as five factors each, `(n, 5)`."""
    return torch.from_numpy(np.stack(np.unravel_index(indices, _DSPRITES_SIZES), 1))
