"""Data as read, before splitting and preprocessing: in memory, or from files."""

import gzip
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.layout import Channels, Layout, as_events, labels_error, move_channels_first
from pyro_vae.data.memory_mapped import MemoryMapped, require_memory
from pyro_vae.data.sparse_rows import SparseRows, from_scipy, is_sparse
from pyro_vae.data.splits import read_row_words
from pyro_vae.data.validation import Support, as_tensor

ACCEPTED_DATA = (
    "a NumPy array, a tensor, a list of rows, a pandas or polars DataFrame, a SciPy sparse "
    "matrix, an AnnData, a torch or torchvision data set or DataLoader, a Dataset of pyro_vae, "
    "or a path"
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Data and their labels in the order in which they were read.

    `Dataset.from_rows` splits them for training. New data for a trained model are not split:
    `DataContract.new_data` puts their columns in the order of training.

    Args:
        values: `(n, *event_shape)`: a NumPy array, a tensor, a SciPy sparse matrix, or rows on
            disk; or a mapping from the names of splits to these.
        name: The name of the data in logs and tables.
        labels: A label, or a row of factors, for each row, in any form that `read_labels` accepts.
        label_names: The names of labels 0, 1, ..., if they are such numbers; or of the factors.
        event_names: The names of the elements of a row: columns, genes, words.
        levels: Number of levels of integers 0, ..., levels - 1, if the source states it.
        support: One of `SUPPORTS`, if the source states it.
        splits: "train", "validation" or "test" for each row, if the source is split.
        groups: A group for each row; the rows of a group go into one split.
        source: The file or folder; None for data in memory.
        layout: The meaning of the axes: see `validation.event_shape`.
        notes: What was left out or changed while reading, one line each.
        row_names: The name of each row: a barcode, a sample, a file.
        noun: What a row is called, such as "image", "cell" or "document"; empty to infer it from
            the shape.
    """

    values: Any = field(repr=False)
    name: str = "array"
    labels: Any = field(default=None, repr=False)
    label_names: tuple[str, ...] = ()
    event_names: tuple[str, ...] = ()
    levels: int | None = None
    support: Support | None = None
    splits: np.ndarray | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    source: Path | None = None
    layout: Layout = "auto"
    notes: tuple[str, ...] = ()
    row_names: tuple[str, ...] = field(default=(), repr=False)
    noun: str = ""

    def __len__(self) -> int:
        return self.values.shape[0]

    def with_files(self, group: str | None, split: str | None) -> "Rows":
        """Add groups and splits from files, as `read_row_words` reads them."""
        groups, splits = (
            None if file is None else read_row_words(file, len(self)) for file in (group, split)
        )
        return replace(self, groups=groups, splits=splits)


def to_events(
    rows: Rows,
    arrays: list[Any],
    names: Sequence[str],
    *,
    copy: bool,
    channels: Channels | None = None,
    new: bool = False,
) -> list[Any]:
    """Convert arrays to tensors with an event shape, and sparse matrices to sparse rows.

    Rows on disk and sparse rows are returned unchanged.

    Args:
        rows: The support, levels and layout of the arrays.
        arrays: The arrays.
        names: Their names in messages.
        copy: Whether tensors must not share the arrays' memory.
        channels: The position of the channels; None if they are first.
        new: Whether the arrays are new data for a trained model.

    Raises:
        ValueError: If data cannot have this type or shape, or they look like labels.
    """
    counts = rows.levels is None and rows.support in (None, "binary", "counts")
    arrays = [*arrays]
    sparse = [i for i, array in enumerate(arrays) if is_sparse(array)]
    if sparse:
        found = from_scipy([arrays[i] for i in sparse], names[sparse[0]], counts=counts)
        for i, values in zip(sparse, found, strict=True):
            if not new and isinstance(values, SparseRows) and values.is_one_hot():
                raise labels_error(values.shape, names[i])
            arrays[i] = values
    events = []
    for values, name in zip(arrays, names, strict=True):
        if isinstance(values, SparseRows | MemoryMapped):
            events.append(values)
            continue
        tensor, layout = as_tensor(values, name, copy=copy), rows.layout
        if channels is not None:
            tensor, layout = move_channels_first(tensor, name, layout, channels)
        events.append(as_events(tensor, name, layout, new=new))
    return events


def select_rows(values: Any, index: Tensor) -> Any:
    """Select rows; sparse rows stay sparse."""
    return values.subset(index) if isinstance(values, SparseRows) else values[index]


# ---- data in memory ---------------------------------------------------------------------------


def as_rows(data: Any, name: str = "array", *, new: bool = False) -> Rows:
    """Convert the data that `fit`, `evaluate` and `embed` accept, except paths, to rows.

    Data sets and DataLoaders of pairs `(x, y)` have labels. Their transforms are applied once, in
    the order of the data set.

    Args:
        data: A NumPy array, a tensor, a list of rows, a pandas or polars DataFrame, a SciPy sparse
            matrix, an AnnData, a torch data set or DataLoader, or `Rows`.
        name: Its name in messages.
        new: Whether it is new data for a trained model, as in `frame_rows`.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is empty, or its rows differ in shape.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, np.ndarray | Tensor):
        return Rows(data, name)
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind in ("pandas.DataFrame", "polars.DataFrame"):
        from pyro_vae.data.tables import frame_rows

        return frame_rows(data, name=name, new=new)
    if kind == "anndata.AnnData":
        from pyro_vae.data.cell_files import anndata_object_rows

        return anndata_object_rows(data, name=name)
    if kind.startswith("scipy.") and hasattr(data, "tocsr"):
        return Rows(data, name)
    if isinstance(data, torch.utils.data.DataLoader):
        return _collect_items(_loader_dataset(data), name)
    if isinstance(data, torch.utils.data.Dataset):
        return _collect_items(data, name)
    if isinstance(data, list | tuple):
        try:
            return Rows(np.asarray(data), name)
        except ValueError as error:
            raise ValueError(
                f"the rows of {name} must have one shape, and sequences one length: of a pair (x, "
                "labels), give x alone, or torch.utils.data.TensorDataset(x, labels)."
            ) from error
    remedy = ": of one row give df.iloc[[0]]" if type(data).__name__ == "Series" else ""
    raise TypeError(f"data must be {ACCEPTED_DATA}, got {type(data).__name__}{remedy}.")


def _loader_dataset(loader: Any) -> Any:
    """The data set of a DataLoader, or the subset that a `SubsetRandomSampler` draws from."""
    from torch.utils import data

    plain = data.SequentialSampler | data.RandomSampler | data.SubsetRandomSampler
    known = isinstance(loader.dataset, data.IterableDataset) or (
        isinstance(loader.sampler, plain) and type(loader.batch_sampler) is data.BatchSampler
    )
    if not known or loader.collate_fn is not data.default_collate:
        raise TypeError(
            "a DataLoader with its own sampler, batch_sampler or collate_fn may give other rows "
            "than its data set: pass the data set, or a torch.utils.data.Subset of it."
        )
    if isinstance(loader.sampler, data.SubsetRandomSampler):
        return data.Subset(loader.dataset, loader.sampler.indices)
    return loader.dataset


def _collect_items(dataset: Any, name: str) -> Rows:
    """Stack the items of a torch data set, and their labels if they are pairs."""
    arrays: list[np.ndarray] = []
    labels: list[Any] = []
    # Not iterated: a torch data set without __iter__ never ends.
    sized = hasattr(dataset, "__len__")
    for item in (dataset[i] for i in range(len(dataset))) if sized else dataset:
        if isinstance(item, list | tuple):
            if not 1 <= len(item) <= 2:
                raise TypeError(
                    f"items of {name} must be x, or (x, y), got {len(item)} things: give x alone."
                )
            labels += [
                label.numpy(force=True) if isinstance(label, Tensor) else label
                for label in item[1:]
            ]
            item = next(iter(item))
        array = item.numpy(force=True) if isinstance(item, Tensor) else np.asarray(item)
        if array.ndim == 3 and hasattr(item, "getbands"):
            # Pillow's images have their channels last.
            array = np.moveaxis(array, -1, 0)
        arrays.append(array)
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"the rows of {name} must have one shape, got {sorted(shapes)[:3]}.")
    if not arrays:
        raise ValueError(f"{name} holds no rows.")
    return Rows(np.stack(arrays), name, labels=np.asarray(labels) if labels else None)


# ---- files ------------------------------------------------------------------------------------


class UnreadableError(ValueError):
    """A file with unusable contents; the message says all that the user needs."""


@contextmanager
def prefix_errors(path: str | Path) -> Iterator[None]:
    """Put the path before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def read_errors(path: Path, kind: str, packages: str = "") -> Iterator[None]:
    """Turn every failure within the block into a `ValueError` of one line that names the path.

    Args:
        path: The file or folder that is read.
        kind: What it must be.
        packages: The packages needed to read it, separated by spaces.

    Raises:
        ValueError: If the path does not exist, or reading it failed.
        ImportError: If a package cannot be imported.
    """
    # os.path accepts any text as a path, however long; Path.exists raises.
    if not os.path.exists(path):
        raise ValueError(f"{path} must be {kind}, but there is no such file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise ImportError(
            f"{kind} is read by {packages.replace(' ', ' and ')}, which cannot be imported "
            f"({error}): pip install {packages}"
        ) from error
    except UnreadableError as error:
        raise ValueError(f"{path}: {error}") from error
    # h5py, zarr, xarray, SciPy, zlib and zipfile raise a dozen types between them.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise ValueError(
            f"{path} must be {kind}, but is damaged or something else "
            f"({type(error).__name__}: {reason})."
        ) from error


def require_node_memory(node: Any, what: str) -> None:
    """Raise unless an h5py or zarr array, or all arrays of a group, fit into memory."""

    def num_bytes(node: Any) -> int:
        if hasattr(node, "dtype"):
            return math.prod(node.shape or ()) * node.dtype.itemsize
        return sum(num_bytes(node[name]) for name in node)

    array = hasattr(node, "dtype")
    shape, itemsize = (node.shape, node.dtype.itemsize) if array else ((num_bytes(node),), 1)
    require_file_memory(shape, itemsize, what)


def require_file_memory(shape: tuple[int, ...], itemsize: int, what: str) -> None:
    """As `require_memory`, within `read_errors`."""
    try:
        require_memory(shape, itemsize, what)
    except ValueError as error:
        raise UnreadableError(str(error)) from error


def read_node(node: Any, what: str) -> np.ndarray:
    """Read an h5py or zarr array; strings as objects."""
    require_node_memory(node, what)
    return np.asarray(node.asstr()[()] if node.dtype.kind in "OS" else node[()])


def refuse_zarr_pickles(path: Path) -> None:
    """Raise if arrays of a Zarr folder are pickled: reading them could run any code."""
    for name in (".zarray", ".zmetadata", "zarr.json"):
        for metadata in path.rglob(name):
            if "pickle" in json.dumps(json.loads(metadata.read_bytes())).lower():
                raise UnreadableError(
                    f"{metadata.relative_to(path)} names a pickle, which could run any code: save "
                    "the array as numbers or strings."
                )


def open_binary(path: Path) -> Any:
    """Open a file, decompressed if its name ends in `.gz`."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


class TextStream:
    """A stream that refuses null bytes, on which SciPy's reader crashes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        content = self.stream.read(size)
        if b"\0" in content:
            raise UnreadableError("it contains null bytes, so it is not a text file.")
        return content


def read_table(path: Path, lines: int) -> list[list[str]]:
    """The tab-separated fields of a file with this number of lines."""
    with open_binary(path) as stream:
        rows = [line.split("\t") for line in stream.read().decode().splitlines()]
    if len(rows) != lines:
        raise UnreadableError(
            f"{path.name} has {len(rows)} lines, but the matrix has {lines} rows or columns to "
            "name: they belong to different files."
        )
    return rows


def unique_names(names: Sequence[str], ids: Sequence[str] = ()) -> tuple[str, ...]:
    """Names, of which repeated ones are followed by their id, or by a counter."""
    total, count = Counter(names), Counter[str]()
    unique = []
    for position, name in enumerate(names):
        count[name] += 1
        suffix = ids[position] if len(ids) else count[name]
        unique.append(name if total[name] == 1 else f"{name} ({suffix})")
    return tuple(unique)
