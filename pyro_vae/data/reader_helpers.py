"""Shared helpers for file readers: one-line errors and memory checks."""

import gzip
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyro_vae.data.memory import require_memory
from pyro_vae.data.rows import Rows
from pyro_vae.data.splits import row_words

if TYPE_CHECKING:
    from scipy import sparse

CellSupport = Literal["binary", "counts", "unit", "real"]


class UnreadableError(ValueError):
    """A file that holds something else than data can be made of, as its message says in full."""


@contextmanager
def reading(path: Path, kind: str, packages: str = "") -> Iterator[None]:
    """Whatever fails inside is one `ValueError` of one line that names the path.

    Args:
        path: The file or folder that is read.
        kind: What it must be.
        packages: What has to be installed to read it, separated by spaces.

    Raises:
        ValueError: If there is nothing of that path, or reading it failed.
        ImportError: If a package cannot be imported.
    """
    # os.path takes any text for a path, however long; a Path's own exists raises.
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
    # h5py, zarr, xarray, SciPy, zlib and zipfile raise a dozen types between them for damaged files.
    except Exception as error:
        said = " ".join(str(error).split())[:300] or "no reason given"
        raise ValueError(
            f"{path} must be {kind}, but is damaged or something else "
            f"({type(error).__name__}: {said})."
        ) from error


def require_room(shape: Sequence[int], itemsize: int, what: str) -> None:
    """As `require_memory`, of a file that is being read."""
    try:
        require_memory(shape, itemsize, what)
    except ValueError as error:
        raise UnreadableError(str(error)) from error


def require_room_of(node: Any, what: str) -> None:
    """As `require_room`, of an array of h5py's or zarr's, or of all arrays of a group together."""
    if not hasattr(node, "dtype"):
        require_room((_bytes(node),), 1, what)
        return
    # A chunk is decompressed as a whole, and may be declared larger than its array.
    for shape in (node.shape, node.chunks or ()):
        require_room(shape, node.dtype.itemsize, what)


def _bytes(node: Any) -> int:
    if hasattr(node, "dtype"):
        return math.prod(node.shape or ()) * node.dtype.itemsize
    return sum(_bytes(node[name]) for name in node)


def read_array(node: Any, what: str) -> np.ndarray:
    """The values of an array of h5py's or zarr's; strings as objects."""
    require_room_of(node, what)
    return np.asarray(node.asstr()[()] if node.dtype.kind in "OS" else node[()])


def open_binary(path: Path) -> Any:
    """A file, decompressed if its name ends in `.gz`."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


class BoundedText:
    """A stream that must be text of at most so many bytes."""

    def __init__(self, stream: Any, limit: int) -> None:
        self.stream = stream
        self.left = limit

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise UnreadableError("there are more bytes than its first line says.")
        # SciPy looks for the end of a line beyond them, and dies of it.
        if b"\0" in content:
            raise UnreadableError("there are bytes of 0 in it, so it is no text.")
        return content


def read_text(path: Path, lines: int) -> list[list[str]]:
    """The tab-separated fields of a file, `.gz` or not, that has so many lines."""
    with open_binary(path) as stream:
        limit = 2**20 + 2**10 * lines
        # A small compressed file may stand for more than memory holds.
        if len(content := stream.read(limit + 1)) > limit:
            raise UnreadableError(
                f"{path.name} is too large for the {lines} rows or columns of the matrix beside it."
            )
    rows = [line.split("\t") for line in content.decode().splitlines()]
    if len(rows) != lines:
        raise UnreadableError(
            f"{path.name} has {len(rows)} lines, but the matrix beside it has {lines} rows or columns "
            "to be named: they belong to different files."
        )
    return rows


def check_zarr(path: Path) -> None:
    """Raise if arrays of a Zarr folder say that they are pickled: reading them would run their code."""
    for name in (".zarray", ".zmetadata", "zarr.json"):
        for metadata in path.rglob(name):
            if "pickle" in json.dumps(json.loads(metadata.read_bytes())).lower():
                raise UnreadableError(
                    f"{metadata.relative_to(path)} names a pickle, which could run any code: write the "
                    "array as numbers or strings."
                )


def checked(matrix: Any) -> "sparse.csr_array":
    """The sparse matrix as CSR with equal places summed, its indices known to be right."""
    from scipy import sparse

    # SciPy takes a file's indices on trust, and would write with them wherever they point.
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)
    require_room((matrix.shape[0] + 1,), 8, "the row pointers of a sparse matrix")
    matrix = sparse.csr_array(matrix)
    if not matrix.has_canonical_format:
        # One in memory may be someone's.
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def are_counts(values: Any) -> bool:
    """Whether a sparse or dense array holds whole numbers of 0 or more alone, of 64 bits."""
    entries = values if isinstance(values, np.ndarray) else values.data
    return entries.dtype.kind in "bu" or bool(
        entries.dtype.kind in "if"
        and np.isfinite(entries).all()
        and (entries >= 0).all()
        and (entries < 2.0**63).all()
        and (entries == np.rint(entries)).all()
    )


def cell_support(values: Any, support: CellSupport | None) -> CellSupport | None:
    """The support of values that are whole or said to be real; None for others."""
    if support in ("real", "unit"):
        return support
    if not are_counts(values):
        return None
    entries = values if isinstance(values, np.ndarray) else values.data
    return support or ("counts" if entries.max(initial=0) > 1 else "binary")


def unique_names(names: Sequence[str], ids: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of which a repeated one is followed by its id, or by its place among its like."""
    total, place = Counter(names), Counter[str]()
    unique = []
    for position, name in enumerate(names):
        place[name] += 1
        told = ids[position] if len(ids) else place[name]
        unique.append(name if total[name] == 1 else f"{name} ({told})")
    return tuple(unique)


def require_label(rows: Rows, label: str | None) -> Rows:
    """The rows, which must have labels if they were asked for; new data need not."""
    if label is not None and rows.labels is None:
        raise ValueError(f"{rows.source}: {rows.notes[-1]}")
    return rows


def beside(rows: Rows, group: str | None, split: str | None) -> Rows:
    """The rows with groups and splits from files, as `row_words` reads them."""
    groups, splits = (
        None if each is None else row_words(each, len(rows)) for each in (group, split)
    )
    return replace(rows, groups=groups, splits=splits)
