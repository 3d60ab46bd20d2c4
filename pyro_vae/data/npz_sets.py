"""Sets stored as `.npz` files in the data root: images, newsgroup posts, cells."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.splits import permutation

if TYPE_CHECKING:
    from scipy import sparse

_STATIC_MNIST_SHA256 = "9b45e636201cc2967c8bf90055894901453d5cf7fe9654465a9fedd07289821a"
_OMNIGLOT_SHA256 = "6c8b4be54470b7f7e80c58343d56bdb2b135005db18260616a620571c7e24611"
_FREYFACE_SHA256 = "3c70375e0a9c4751ad49ad5f1f692bd094c46f133cf4aa8ea77d1cb14e1efcd1"
_DSPRITES_GRID_SHA256 = "721b08f68ce0b216a45088d86c00208b461bd81bd288e66b21d338506dee6c78"
_DSPRITES_RANDOM_SHA256 = "507f831b17ce22d944b474c142258b71474f415d36c2cf37dded871f246c40d2"
_NEWSGROUPS_SHA256 = "281f221db9301344eda14cc5661349d04a3282af47b10c79dfa982d0d33644e4"
_MOUSE_BLADDER_SHA256 = "bc47a36da624108fdc708836b2cf79f4e1a6104f98db9309caf0faa652b68997"

_OMNIGLOT_SEED = 19_280
_FREYFACE_SEED = 1_965
_DSPRITES_SEED = 737_280
_MOUSE_BLADDER_SEED = 108_097

# Number of values of shape, scale, orientation, x and y in the whole dSprites.
_DSPRITES_SIZES = (3, 6, 40, 32, 32)
_DSPRITES_VALIDATION = 5_000
_NEWSGROUPS_FILE = "20news/20ng_bow_3072.npz"
_NEWSGROUPS_SOURCE = (
    "http://qwone.com/~jason/20Newsgroups/, as prepared in https://github.com/adjidieng/ETM"
)
_CELLS, _GENES = 2_100, 20_670


def _read_npz(
    root: Path, file: str, *, sha256: str, shapes: Mapping[str, tuple[int, ...]], source: str
) -> dict[str, np.ndarray]:
    """Read arrays of these shapes from an `.npz` file with this hash.

    Raises:
        ValueError: If the file is missing, has another hash, or holds other arrays.
    """
    path = Path(root) / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{file} is not in {root} ({error.strerror}). It is not downloaded: put it there, or "
            "name the folder that holds it with --data-root or the environment variable "
            f"PYRO_VAE_DATA. Its original source is {source}; its format is in the loader's "
            "docstring."
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(
            f"{path} is damaged or another file: its SHA-256 hash must be {sha256}, got {found}."
        )
    arrays = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        for name, shape in shapes.items():
            arrays[name] = loaded[name] if name in loaded.files else np.empty(0)
            if arrays[name].shape != shape:
                raise ValueError(
                    f"{path} must hold an array {name} of shape {shape}, got {arrays[name].shape}."
                )
    return arrays


def static_mnist(root: Path) -> Dataset:
    """MNIST as binarised once by Larochelle: 70,000 images of 28 x 28, 0 or 1.

    The file's own splits: 50,000 training, 10,000 validation and 10,000 test images. The test
    images are sorted by digit: shuffle before selecting a part. Log-likelihoods are not comparable
    with those under dynamic binarisation.

    `MNIST_static/binarized_mnist_packed.npz` holds `train` (50000, 98), `valid` and `test` (10000,
    98): uint8, eight pixels each, from `numpy.packbits`; and the digits `train_labels`,
    `valid_labels`, `test_labels`.

    Args:
        root: The folder that holds `MNIST_static`.

    Raises:
        ValueError: If the file is missing or its hash differs.

    References:
        On the quantitative analysis of deep belief networks (Salakhutdinov & Murray, 2008),
        https://doi.org/10.1145/1390156.1390266;
        The neural autoregressive distribution estimator (Larochelle & Murray, 2011),
        https://proceedings.mlr.press/v15/larochelle11a.html
    """
    sizes = {"train": 50_000, "valid": 10_000, "test": 10_000}
    arrays = _read_npz(
        root,
        "MNIST_static/binarized_mnist_packed.npz",
        sha256=_STATIC_MNIST_SHA256,
        shapes={
            **{split: (n, 98) for split, n in sizes.items()},
            **{f"{split}_labels": (n,) for split, n in sizes.items()},
        },
        source="Larochelle's binarized_mnist_{train,valid,test}.amat",
    )
    images = (
        torch.from_numpy(np.unpackbits(arrays[split], axis=1)).unflatten(1, (1, 28, 28))
        for split in sizes
    )
    labels = (torch.from_numpy(arrays[f"{split}_labels"]).long() for split in sizes)
    return Dataset(
        "static_mnist",
        "binary",
        None,
        *images,
        labels=dict(zip(SPLITS, labels, strict=True)),
        label_names=tuple("0123456789"),
    )


def omniglot(root: Path) -> Dataset:
    """32,460 handwritten characters of 50 alphabets, 28 x 28 pixels in 256 grey levels.

    The original split by alphabet: the 13,180 test images are of the 20 evaluation alphabets, none
    of which is in training. The 19,280 of the 30 background alphabets are shuffled with a fixed
    seed; the last tenth is validation, which leaves 17,352 and 1,928. Labels are alphabets.
    Log-likelihoods are not comparable with tables on the 24,345 / 8,070 images of Burda et al.
    (2016), which were selected, split and reduced differently.

    `omniglot/omniglot_28x28.npz` holds `images` (32460, 28, 28), uint8, ink 255: area averages of
    the originals; `alphabet` and `evaluation_set` (32460,), integers; `alphabet_names` (50,).

    Args:
        root: The folder that holds `omniglot`.

    Raises:
        ValueError: If the file is missing or its hash differs.

    References:
        Human-level concept learning through probabilistic program induction (Lake et al., 2015),
        https://doi.org/10.1126/science.aab3050
    """
    n = 32_460
    arrays = _read_npz(
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
    # Views of this: training and validation images share memory.
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

    A fixed random split: 1,565 training, 200 validation and 200 test frames. Consecutive frames
    are almost equal, so scores on the test split are too good.

    `freyface/freyface.npz` holds `images` (1965, 28, 20), uint8, in the order of time.

    Args:
        root: The folder that holds `freyface`.

    Raises:
        ValueError: If the file is missing or its hash differs.

    References:
        Global coordination of local linear models (Roweis et al., 2001),
        https://cs.nyu.edu/~roweis/data.html
    """
    frames = freyface_frames(root)
    shuffled = frames[permutation(len(frames), seed=_FREYFACE_SEED)]
    train, validation, test = shuffled.split([1_565, 200, 200])
    return Dataset("freyface", "integers", 256, train, validation, test)


def freyface_frames(root: Path) -> Integer[Tensor, "frames 1 28 20"]:
    """The frames of `freyface` in the order of time."""
    arrays = _read_npz(
        root,
        "freyface/freyface.npz",
        sha256=_FREYFACE_SHA256,
        shapes={"images": (1_965, 28, 20)},
        source="frey_rawface.mat at https://cs.nyu.edu/~roweis/data.html",
    )
    return torch.from_numpy(arrays["images"]).unsqueeze(1)


def dsprites(root: Path, size: Literal[32, 64] = 64) -> Dataset:
    """White shapes on black with known factors: images of 64 x 64 pixels, 0 or 1.

    The training set is a complete grid: all 46,080 combinations of 3 shapes, 6 scales, every
    fourth of 40 orientations and every second of 32 positions in x and in y. Validation and test
    images are from 20,000 drawn at random from all 737,280, without those in the grid and repeated
    images: 5,000 for validation and 13,601 for the test, always the same. Labels are five factors,
    each the index of its value in the whole dSprites in every split.

    `dsprites/dsprites_grid_46080.npz` and `dsprites/dsprites_random_20000.npz` hold `imgs`
    (n, 64, 64), uint8, 0 or 1, and `original_dataset_indices` (n,), rows of the whole dSprites.

    Args:
        root: The folder that holds `dsprites`.
        size: Height and width in pixels. At 32, a pixel is 1 where at least two of the four that
            it covers are; more images are then equal, and 13,252 are left for the test.

    Raises:
        ValueError: If a file is missing or its hash differs, or `size` is not 32 or 64.

    References:
        dSprites: Disentanglement testing sprites dataset (Matthey et al., 2017),
        https://github.com/google-deepmind/dsprites-dataset
    """
    if size not in (32, 64):
        raise ValueError(f"size must be 32 or 64, got {size}.")
    train, train_indices = _read_sprites(root, "grid", 46_080, _DSPRITES_GRID_SHA256, size)
    others, indices = _read_sprites(root, "random", 20_000, _DSPRITES_RANDOM_SHA256, size)
    held_out = torch.from_numpy(_new_images(others, train))
    order = held_out[permutation(len(held_out), seed=_DSPRITES_SEED)]
    rows = order.split([_DSPRITES_VALIDATION, len(order) - _DSPRITES_VALIDATION])
    images = [torch.from_numpy(train), *(torch.from_numpy(others)[part] for part in rows)]
    factors = (
        torch.from_numpy(np.stack(np.unravel_index(part, _DSPRITES_SIZES), 1))
        for part in (train_indices, *(indices[part.numpy()] for part in rows))
    )
    return Dataset(
        "dsprites",
        "binary",
        None,
        *(part.unsqueeze(1) for part in images),
        labels=dict(zip(SPLITS, factors, strict=True)),
        label_names=("shape", "scale", "orientation", "x", "y"),
    )


def _read_sprites(
    root: Path, part: str, n: int, sha256: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images of this size, and their rows in the whole dSprites."""
    arrays = _read_npz(
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


def _new_images(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The indices of images that are not among the others, the first of equal ones."""
    seen = {row.tobytes() for row in np.packbits(others.reshape(len(others), -1), axis=1)}
    new = []
    for index, row in enumerate(np.packbits(images.reshape(len(images), -1), axis=1)):
        key = row.tobytes()
        if key not in seen:
            new.append(index)
            seen.add(key)
    return np.array(new)


def newsgroups(root: Path) -> Dataset:
    """Counts of 3,072 words in 18,845 newsgroup posts, about 80 words a post.

    The file's own splits, which are those of the embedded topic model: 11,214 training, 100
    validation and 7,531 test posts; 11 of the test posts are in the training set too.
    `event_names` are the words. There are no labels.

    `20news/20ng_bow_3072.npz` holds three int32 matrices in SciPy's CSR format, `train_data`,
    `train_indices`, `train_indptr`, and likewise `valid`, `test` and the halves of the test posts,
    `test_h1` and `test_h2` (`newsgroups_halves`); and `vocab` (3072,).

    Args:
        root: The folder that holds `20news`.

    Raises:
        ValueError: If the file is missing or its hash differs.

    References:
        NewsWeeder: Learning to filter netnews (Lang, 1995), http://qwone.com/~jason/20Newsgroups/;
        Topic modeling in embedding spaces (Dieng et al., 2020),
        https://doi.org/10.1162/tacl_a_00325
    """
    sizes = {"train": (11_214, 603_211), "valid": (100, 5_134), "test": (7_531, 397_790)}
    (train, validation, test), words = _read_posts(root, sizes)
    names = {"event_names": tuple(words.tolist()), "noun": "document"}
    return Dataset("newsgroups", "counts", None, train, validation, test, **names)


def newsgroups_halves(
    root: Path,
) -> tuple[Integer[Tensor, "7531 3072"], Integer[Tensor, "7531 3072"]]:
    """The words of each test post of `newsgroups` in two halves, whose sum is the post.

    For document completion: z is inferred from the first half, and the second is scored.

    Args:
        root: The folder that holds `20news`.

    Returns:
        The first and the second halves, in the order of the test posts.

    Raises:
        ValueError: If the file is missing or its hash differs.

    References:
        Topic modeling in embedding spaces (Dieng et al., 2020), section 6,
        https://doi.org/10.1162/tacl_a_00325
    """
    sizes = {"test_h1": (7_531, 217_606), "test_h2": (7_531, 228_113)}
    (first, second), _ = _read_posts(root, sizes)
    return first, second


def _read_posts(
    root: Path, sizes: Mapping[str, tuple[int, int]]
) -> tuple[list[Tensor], np.ndarray]:
    """The matrices with these numbers of posts and of entries, and the words."""
    words = 3_072
    arrays = _read_npz(
        root,
        _NEWSGROUPS_FILE,
        sha256=_NEWSGROUPS_SHA256,
        shapes={
            **{
                f"{part}_{array}": (length,)
                for part, (n, entries) in sizes.items()
                for array, length in (("data", entries), ("indices", entries), ("indptr", n + 1))
            },
            "vocab": (words,),
        },
        source=_NEWSGROUPS_SOURCE,
    )
    counts = [
        torch.from_numpy(_csr(arrays, f"{part}_", (n, words)).toarray())
        for part, (n, _) in sizes.items()
    ]
    return counts, arrays["vocab"]


def mouse_bladder(root: Path, genes: int = 1_000) -> Dataset:
    """Counts of molecules by gene in 2,100 cells of mouse bladders, of 16 cell types.

    A fixed random split: 1,680 training, 210 validation and 210 test cells. The genes are those
    with the highest variance of log(1 + count * median / total) over the training cells, where
    total is the number of molecules in the cell, of all genes, and median the median of the
    totals. They stay in the file's order; `event_names` are their numbers in the file, which has
    no names of genes. Labels are cell types.

    `scrna/mouse_bladder_2100.npz` holds an int32 matrix (cells, genes) in SciPy's CSR format,
    `data`, `indices`, `indptr`; and `labels` (2100,), 1 to 16.

    Args:
        root: The folder that holds `scrna`.
        genes: Number of genes to keep, at most 20,670.

    Raises:
        ValueError: If the file is missing or its hash differs, or there are fewer genes.

    References:
        Mapping the mouse cell atlas by Microwell-seq (Han et al., 2018),
        https://doi.org/10.1016/j.cell.2018.02.001;
        Clustering single-cell RNA-seq data with a model-based deep learning approach (Tian et al.,
        2019), https://doi.org/10.1038/s42256-019-0037-0
    """
    if not 1 <= genes <= _GENES:
        raise ValueError(f"genes must be between 1 and {_GENES}, got {genes}.")
    entries = 2_214_875
    arrays = _read_npz(
        root,
        "scrna/mouse_bladder_2100.npz",
        sha256=_MOUSE_BLADDER_SHA256,
        shapes={
            "data": (entries,),
            "indices": (entries,),
            "indptr": (_CELLS + 1,),
            "labels": (_CELLS,),
        },
        source="GEO GSE108097, as selected in https://github.com/ttgump/scDeepCluster",
    )
    counts = _csr(arrays, "", (_CELLS, _GENES))
    rows = permutation(_CELLS, seed=_MOUSE_BLADDER_SEED).split([1_680, 210, 210])
    columns = _most_variable(counts[rows[0].numpy()], genes)
    labels = torch.from_numpy(arrays["labels"]).long() - 1
    return Dataset(
        "mouse_bladder",
        "counts",
        None,
        *(torch.from_numpy(counts[part.numpy()][:, columns].toarray()) for part in rows),
        labels={split: labels[part] for split, part in zip(SPLITS, rows, strict=True)},
        label_names=tuple(str(kind) for kind in range(1, 17)),
        event_names=tuple(str(gene) for gene in columns),
        noun="cell",
    )


def _csr(
    arrays: Mapping[str, np.ndarray], prefix: str, shape: tuple[int, int]
) -> "sparse.csr_array":
    """The matrix in int16: no count in these files is above 800."""
    from scipy import sparse

    data, indices, indptr = (arrays[f"{prefix}{name}"] for name in ("data", "indices", "indptr"))
    return sparse.csr_array((data.astype(np.int16), indices, indptr), shape=shape)


def _most_variable(counts: "sparse.csr_array", genes: int) -> np.ndarray:
    """The columns with the highest variance of log(1 + count * median / total), in their order."""
    totals = counts.sum(1, dtype=np.int64)
    scale = np.median(totals) / totals
    logs = counts.astype(np.float64)
    # The entries are stored row by row.
    logs.data = np.log1p(logs.data * np.repeat(scale, np.diff(counts.indptr)))
    variance = logs.power(2).mean(0) - logs.mean(0) ** 2
    # A stable sort, so that ties are resolved equally everywhere.
    return np.sort(np.argsort(-variance, kind="stable")[:genes])
