"""Encode data block by block: memory holds a block of them, and many codes are kept in a file."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from analysis.model_samples import latent_site, to_array
from analysis.representation.code_files import Codes
from analysis.row_files import StoredArray
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.runs.trained_run import TrainedRun

# The split's name of data that are not split.
NEW = "new"
# Matrix products of few rows may differ in the last bit from those of many: no block has fewer
# rows, unless all data do.
FEWEST_ROWS = 64
# The elements of a block, which fit in the cache of a core with a layer's output.
ELEMENTS = 2**20
# Codes of more bytes are kept in a temporary file.
MOST_BYTES = 2**26


def encode(
    trained: TrainedRun,
    splits: Sequence[str],
    metadata: Mapping[str, Any],
    *,
    scale: bool = False,
    files: Sequence[Path] = (),
    progress: Callable[[int], object] = lambda _: None,
) -> Codes:
    """The codes of these splits in turn, or in the order of the file they come from.

    They are those of `embed` of the split's rows, to the bit.

    Args:
        trained: The run and the data.
        splits: Which splits.
        metadata: What the file of codes says about itself.
        scale: Whether to compute the standard deviations of q(z | x).
        files: Paths of temporary files for many codes, and for their scales; codes are read from
            them. Without, memory holds all codes.
        progress: Called with the number of rows after each block.

    Raises:
        ValueError: If scales are asked for, and the guide has none or several latent sites.
    """
    vae, dataset = trained.vae, trained.data.dataset
    sizes = [len(getattr(dataset, split)) for split in splits]
    rows_of = [dataset.row_numbers(split) for split in splits]
    # Without a copy of those of a single split.
    row = np.concatenate(rows_of) if len(rows_of) > 1 else rows_of[0]
    of_file = bool(dataset.rows)
    order = None
    if of_file and (row[1:] < row[:-1]).any():
        order = np.argsort(row, kind="stable")
    # The place of each row among all.
    place = None if order is None else np.argsort(order)
    found: list[Any] = [None, None]
    start = 0
    with evaluation_mode(vae):
        for split, size in zip(splits, sizes, strict=True):
            for rows, x in blocks(trained, split):
                where: Any = slice(start + rows.start, start + rows.stop)
                where = where if place is None else place[where]
                made = [to_array(vae.embed(x)), *([scales_of(vae, x)] if scale else [])]
                for number, values in enumerate(made):
                    flat = values.reshape(len(x), -1)
                    if found[number] is None:
                        shape = (sum(sizes), flat.shape[1])
                        path = files[number] if files else None
                        found[number] = empty_array(path, shape, flat.dtype)
                    found[number][where] = flat
                progress(len(x))
            start += size
    labels = [dataset.labels.get(split) for split in splits]
    known = [each for each in labels if each is not None]
    index = np.repeat(np.arange(len(splits), dtype=np.int8), sizes)
    targets = torch.cat(known).numpy() if len(known) == len(splits) else None
    if order is not None:
        row, index, targets = row[order], index[order], None if targets is None else targets[order]
    return Codes(
        codes=found[0],
        split=index,
        split_names=tuple(splits) if dataset.is_split else (NEW,),
        row=row,
        row_names=dataset.names_of_rows(row),
        metadata={**metadata, "row": "in the file" if of_file else "in the split"},
        scale=found[1],
        labels=targets,
        label_names=dataset.label_names,
    )


def empty_array(path: Path | None, shape: tuple[int, int], dtype: np.dtype) -> Any:
    """An array in memory, or in a file if it is large."""
    if path is None or shape[0] * shape[1] * dtype.itemsize <= MOST_BYTES:
        return np.empty(shape, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    return StoredArray(path, shape, dtype)


def blocks(trained: TrainedRun, split: str) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a split as floats on the device, with their places in it."""
    start, event = 0, trained.data.dataset.event_shape
    size = max(FEWEST_ROWS, ELEMENTS // math.prod(event))
    parts = (part for read in trained.data.fixed_blocks(split) for part in read.split(size))
    for block in with_last_joined(parts):
        x = trained.joined(block.to(trained.device), split, start)
        yield slice(start, start + len(block)), as_floats(x)
        start += len(block)


def with_last_joined(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks; one of few rows is joined to the one before."""
    before = None
    for part in parts:
        if before is not None and len(part) < FEWEST_ROWS:
            part = torch.cat([before, part])
        elif before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def scales_of(vae: Any, x: Tensor) -> np.ndarray:
    """The standard deviation of q(z | x) in each dimension.

    Raises:
        ValueError: If the guide has none, or several latent sites.
    """
    if len(vae.latent_sites) > 1:
        raise ValueError(
            f"--scale needs one latent site, but {type(vae).__name__} has "
            f"{', '.join(map(repr, vae.latent_sites))}: one's scale depends on another's draw."
        )
    site = latent_site(vae)
    reason, scale = None, np.zeros(0, np.float32)
    guide = distribution_at(poutine.trace(vae.guide).get_trace(x), site)
    try:
        scale = to_array(guide.stddev)
    except (NotImplementedError, AttributeError) as error:
        reason = error
    # The scale of a point is 0, and that of heavy tails may be infinite.
    if not (np.isfinite(scale).all() and (scale > 0).any()):
        name = vae.configuration.get("posterior", {"name": type(guide).__name__})["name"]
        raise ValueError(f"--scale: the guide {name} has no standard deviation.") from reason
    return scale
