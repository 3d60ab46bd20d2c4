"""A `.npy` larger than memory as a data set: held out rows in memory, all others on the disk."""

from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.npy_file import NpyFile
from pyro_vae.data.orders import permutation
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import (
    Channels,
    Extent,
    Layout,
    Support,
    are_labels,
    arranged,
    as_tensor,
    event_shape,
    labels_error,
    layout_notes,
    native_support,
)

_SPLIT_SEED = 20140501

# What validation and test are held to, each: a tenth and a fifth of the rows if that is less.
HELD_OUT_ROWS = 10_000
HELD_OUT_BYTES = 2**27

# Checking reads so much at a time, and shows a bar if there is more than it does in seconds.
_CHECKED_BYTES = 2**22
_BAR_BYTES = 2**32


def memory_mapped(
    file: NpyFile,
    *,
    levels: int | None = None,
    support: Support | None = None,
    scale: ScaleKind = "standard",
    layout: Layout = "auto",
    channels: Channels = "auto",
) -> Dataset:
    """A data set of a `.npy` of any length, of which memory holds a bounded part.

    Validation and test are at most 10,000 rows each, spread over the file and always the same; all
    others are the training split, a `MemoryMapped`. Every value is checked once, block by block.

    Args:
        file: The file, of an array as for `Dataset.from_array`.
        levels: As for `Dataset.from_array`.
        support: As for `Dataset.from_array`.
        scale: As for `Dataset.from_array`.
        layout: As for `Dataset.from_array`.
        channels: As for `Dataset.from_array`, but not "last".

    Raises:
        ValueError: As `Dataset.from_array`, and if the channels are last.
        OSError: If the file is changed or taken away while it is read.
    """
    name = file.path.stem
    # Its type and shape are refused before a row is read.
    event, dtype, notes = _arrangement(file, layout, channels)
    n = file.shape[0]
    if n < 10:
        raise ValueError(f"{name} must have at least 10 rows to be split, got {n}.")
    if file.row_bytes == 0:
        raise ValueError(f"{name} is empty, of shape {file.shape}.")
    rows = held_out_rows(n, file.row_bytes)
    held_out = np.sort(np.concatenate([*rows.values()]))
    # Made at once: pieces of them between the blocks read would leave holes in memory.
    splits = {
        split: torch.empty((len(numbers), *event), dtype=dtype) for split, numbers in rows.items()
    }
    extents: list[Extent] = []
    labels = len(file.shape) == 2
    step = max(1, _CHECKED_BYTES // file.row_bytes)
    size = n * file.row_bytes
    with tqdm(
        total=size,
        unit="B",
        unit_scale=True,
        desc=f"checking {file.path}",
        disable=size < _BAR_BYTES,
    ) as bar:
        for first in range(0, n, step):
            stop = min(first + step, n)
            values = as_tensor(file.read(first, stop), name, copy=False).reshape(-1, *event)
            labels = labels and are_labels(values)
            for split, numbers in rows.items():
                here = slice(*np.searchsorted(numbers, [first, stop]))
                splits[split][here] = values[torch.from_numpy(numbers[here] - first)]
            trained = torch.ones(stop - first, dtype=torch.bool)
            here = slice(*np.searchsorted(held_out, [first, stop]))
            trained[torch.from_numpy(held_out[here] - first)] = False
            if trained.any():
                extents = [Extent.joined([*extents, Extent.of(values[trained])])]
            bar.update((stop - first) * file.row_bytes)
    if labels:
        raise labels_error(file.shape, name)
    validation, test = splits["validation"], splits["test"]
    train = MemoryMapped(file, event, held_out, dtype, extents[0])
    if support is None:
        extent = Extent.joined([*extents, Extent.of(validation), Extent.of(test)])
        kind, levels = native_support(extent, [dtype], levels, name, event)
    else:
        kind = support
    numbers = {split: torch.from_numpy(numbers) for split, numbers in rows.items()}
    return Dataset(
        name,
        kind,
        levels,
        train,
        validation,
        test,
        rows=numbers,
        scale=scale,
        split_rule="validation and test rows drawn evenly over the file, always the same",
        source=file.path,
        notes=notes,
    )


def mapped_rows(
    file: NpyFile, *, layout: Layout = "auto", channels: Channels = "auto"
) -> MemoryMapped:
    """All rows of a `.npy` of any length, read when they are asked for.

    Raises:
        ValueError: As `memory_mapped`.
        OSError: As `memory_mapped`.
    """
    event, dtype, _ = _arrangement(file, layout, channels)
    if file.shape[0] == 0 or file.row_bytes == 0:
        raise ValueError(f"{file.path.stem} is empty, of shape {file.shape}.")
    none = np.empty(0, np.int64)
    rows = MemoryMapped(file, event, none, dtype, Extent(0, 0, True))
    step = max(1, _CHECKED_BYTES // file.row_bytes)
    parts = (rows[first : first + step] for first in range(0, len(rows), step))
    return replace(rows, extent=Extent.joined(Extent.of(part) for part in parts))


def _arrangement(
    file: NpyFile, layout: Layout, channels: Channels
) -> tuple[tuple[int, ...], torch.dtype, tuple[str, ...]]:
    """The shape of a datum, the type of values, and what to say of the layout.

    Raises:
        ValueError: If type or shape are none of data, or the channels are last.
    """
    name = file.path.stem
    dtype = as_tensor(np.empty(0, file.dtype), name).dtype
    if channels == "last":
        raise ValueError(
            f"{name} is read row by row and must have its channels first: save it again with "
            "numpy.moveaxis(array, -1, 1), or read it whole (--data.memory-map false)."
        )
    notes = layout_notes(file.shape, layout)
    # An array of this shape that takes no memory.
    _, layout = arranged(np.broadcast_to(np.int8(0), file.shape), name, layout, channels)
    return event_shape(file.shape, name, layout), dtype, notes


def held_out_rows(n: int, row_bytes: int) -> dict[str, np.ndarray]:
    """The rows of validation and test, ascending, always the same for the same file.

    One is drawn from each of as many stretches of the file, so that they are spread over it,
    whatever order it is in; which of the two splits it belongs to is drawn, too.

    Args:
        n: The number of rows in the file, at least 10.
        row_bytes: The bytes of a row.
    """
    most = max(1, min(HELD_OUT_ROWS, HELD_OUT_BYTES // row_bytes))
    n_validation, n_test = min(most, n // 10), min(most, n // 5)
    k = n_validation + n_test
    edges = np.arange(k + 1) * n // k
    generator = torch.Generator("cpu").manual_seed(_SPLIT_SEED)
    uniform = torch.rand(k, generator=generator, dtype=torch.float64, device="cpu").numpy()
    drawn = edges[:-1] + (uniform * np.diff(edges)).astype(np.int64)
    which = permutation(k, seed=_SPLIT_SEED).numpy()
    return {
        "validation": np.sort(drawn[which[:n_validation]]),
        "test": np.sort(drawn[which[n_validation:]]),
    }
