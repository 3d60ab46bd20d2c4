"""Count sets of one `.npz` file in the data root: words of newsgroup posts, molecules of cells."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.orders import permutation
from pyro_vae.data.root_files import read_npz

if TYPE_CHECKING:
    from scipy import sparse

_NEWSGROUPS_FILE = "20news/20ng_bow_3072.npz"
_NEWSGROUPS_SOURCE = (
    "http://qwone.com/~jason/20Newsgroups/, as prepared in https://github.com/adjidieng/ETM"
)
_NEWSGROUPS_SHA256 = "281f221db9301344eda14cc5661349d04a3282af47b10c79dfa982d0d33644e4"
_MOUSE_BLADDER_SHA256 = "bc47a36da624108fdc708836b2cf79f4e1a6104f98db9309caf0faa652b68997"

_MOUSE_BLADDER_SEED = 108_097
_CELLS, _GENES = 2_100, 20_670


def newsgroups(root: Path) -> Dataset:
    """How often each of 3,072 words is in 18,845 newsgroup posts: counts, about 80 words a post.

    The file's own splits, which are those of the embedded topic model: 11,214 training, 100
    validation and 7,531 test posts; 11 of the test posts are in the training set too. `event_names`
    are the words. There are no labels.

    `20news/20ng_bow_3072.npz` holds three sparse matrices of int32 as SciPy's CSR format has them,
    `train_data`, `train_indices`, `train_indptr` and likewise `valid`, `test` and the halves of the test
    posts, `test_h1` and `test_h2` (`newsgroups_halves`); and `vocab` (3072,).

    Args:
        root: The folder that holds `20news`.

    Raises:
        ValueError: If the file is missing, damaged or another one.

    References:
        NewsWeeder: Learning to filter netnews (Lang, 1995), http://qwone.com/~jason/20Newsgroups/;
        Topic modeling in embedding spaces (Dieng et al., 2020), https://doi.org/10.1162/tacl_a_00325
    """
    posts = {"train": (11_214, 603_211), "valid": (100, 5_134), "test": (7_531, 397_790)}
    words = 3_072
    arrays = read_npz(
        root,
        _NEWSGROUPS_FILE,
        sha256=_NEWSGROUPS_SHA256,
        shapes={
            **{f"{split}_data": (entries,) for split, (_, entries) in posts.items()},
            **{f"{split}_indices": (entries,) for split, (_, entries) in posts.items()},
            **{f"{split}_indptr": (n + 1,) for split, (n, _) in posts.items()},
            "vocab": (words,),
        },
        source=_NEWSGROUPS_SOURCE,
    )
    train, validation, test = (
        torch.from_numpy(_sparse(arrays, f"{split}_", (n, words)).toarray())
        for split, (n, _) in posts.items()
    )
    return Dataset(
        "newsgroups",
        "counts",
        None,
        train,
        validation,
        test,
        event_names=tuple(arrays["vocab"].tolist()),
        noun="document",
    )


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
        ValueError: If the file is missing, damaged or another one.

    References:
        Topic modeling in embedding spaces (Dieng et al., 2020), section 6,
        https://doi.org/10.1162/tacl_a_00325
    """
    posts, words = 7_531, 3_072
    entries = {"h1": 217_606, "h2": 228_113}
    arrays = read_npz(
        root,
        _NEWSGROUPS_FILE,
        sha256=_NEWSGROUPS_SHA256,
        shapes={
            f"test_{half}_{part}": (n,)
            for half, count in entries.items()
            for part, n in (("data", count), ("indices", count), ("indptr", posts + 1))
        },
        source=_NEWSGROUPS_SOURCE,
    )
    first, second = (
        torch.from_numpy(_sparse(arrays, f"test_{half}_", (posts, words)).toarray())
        for half in entries
    )
    return first, second


def mouse_bladder(root: Path, genes: int = 1_000) -> Dataset:
    """How many molecules of each gene are in 2,100 cells of mouse bladders: counts, 16 kinds of cells.

    A random split that is always the same: 1,680 training, 210 validation and 210 test cells. Kept
    are the genes that vary most among the training cells: with the highest variance of
    log(1 + count * median / total), where total is the number of molecules in the cell, of all
    genes, and median the median of the totals. They stay in the file's order; `event_names` are their
    numbers in the file, which has no names of genes. Labels are kinds of cells.

    `scrna/mouse_bladder_2100.npz` holds a sparse matrix of int32 (cells, genes) as SciPy's CSR format
    has it, `data`, `indices`, `indptr`; and `labels` (2100,), 1 to 16.

    Args:
        root: The folder that holds `scrna`.
        genes: The number of genes to keep, at most 20,670.

    Raises:
        ValueError: If the file is missing, damaged or another one, or there are not so many genes.

    References:
        Mapping the mouse cell atlas by Microwell-seq (Han et al., 2018),
        https://doi.org/10.1016/j.cell.2018.02.001;
        Clustering single-cell RNA-seq data with a model-based deep learning approach (Tian et al.,
        2019), https://doi.org/10.1038/s42256-019-0037-0
    """
    if not 1 <= genes <= _GENES:
        raise ValueError(f"genes must be between 1 and {_GENES}, got {genes}.")
    entries = 2_214_875
    arrays = read_npz(
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
    counts = _sparse(arrays, "", (_CELLS, _GENES))
    rows = permutation(_CELLS, seed=_MOUSE_BLADDER_SEED).split([1_680, 210, 210])
    kept = _most_variable(counts[rows[0].numpy()], genes)
    train, validation, test = (
        torch.from_numpy(counts[part.numpy()][:, kept].toarray()) for part in rows
    )
    labels = torch.from_numpy(arrays["labels"]).long() - 1
    return Dataset(
        "mouse_bladder",
        "counts",
        None,
        train,
        validation,
        test,
        labels={
            split: labels[part]
            for split, part in zip(("train", "validation", "test"), rows, strict=True)
        },
        label_names=tuple(str(kind) for kind in range(1, 17)),
        event_names=tuple(str(gene) for gene in kept),
        noun="cell",
    )


def _sparse(
    arrays: dict[str, np.ndarray], prefix: str, shape: tuple[int, int]
) -> "sparse.csr_array":
    """The matrix, in int16: no count in these files is above 800."""
    from scipy import sparse

    parts = (arrays[f"{prefix}{name}"] for name in ("data", "indices", "indptr"))
    data, indices, indptr = parts
    return sparse.csr_array((data.astype(np.int16), indices, indptr), shape=shape)


def _most_variable(counts: "sparse.csr_array", genes: int) -> np.ndarray:
    """The columns whose log(1 + count * median / total) has the highest variance, in their order."""
    totals = counts.sum(1, dtype=np.int64)
    scale = np.median(totals) / totals
    logs = counts.astype(np.float64)
    # The entries lie row by row, as many as the row pointers say.
    logs.data = np.log1p(logs.data * np.repeat(scale, np.diff(counts.indptr)))
    variance = logs.power(2).mean(0) - logs.mean(0) ** 2
    # Stable, so that ties are the same everywhere.
    return np.sort(np.argsort(-variance, kind="stable")[:genes])
