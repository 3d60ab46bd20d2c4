"""Variables of MATLAB files (v4 to v7.2 and v7.3), read lazily."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.reader_helpers import checked, read_array, require_room
from pyro_vae.data.scientific_variables import Variable

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_COMPRESSED = 15
_NUMBERS = {
    *("double", "single", "logical", "sparse"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}


@contextmanager
def matlab_variables(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of a MATLAB file of any version."""
    with path.open("rb") as file:
        new = _HDF5_SIGNATURE in file.read(1024)
    with (_matlab_73 if new else _matlab_5)(path) as found:
        yield found


@contextmanager
def _matlab_5(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of versions 4 to 7.2."""
    from scipy import io

    def read(name: str, room: tuple[int, ...]) -> Any:
        require_room(room, 8, name)
        values = io.loadmat(path, variable_names=[name])[name]
        return values if isinstance(values, np.ndarray) else checked(values)

    _check_inflated(path)
    # The shape of a sparse matrix says nothing of what it takes.
    yield {
        name: Variable(
            shape,
            "" if kind in _NUMBERS else f"a {kind} array",
            partial(read, name, () if kind == "sparse" else shape),
        )
        for name, shape, kind in io.whosmat(path)
    }


def _check_inflated(path: Path) -> None:
    """Raise if a compressed variable would not fit into memory, whatever its shape says."""
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        # Version 4 has no compression.
        while order and len(tag := file.read(8)) == 8:
            kind, left = struct.unpack(f"{order}II", tag)
            end = file.tell() + left
            inflater, total = zlib.decompressobj(), 0
            while kind == _COMPRESSED and left and (part := file.read(min(left, 2**16))):
                left -= len(part)
                total += len(inflater.decompress(part))
            require_room((total,), 1, "a compressed variable")
            file.seek(end)


@contextmanager
def _matlab_73(path: Path) -> Iterator[dict[str, Variable]]:
    """The variables of version 7.3, which is HDF5 with the axes the other way round."""
    import h5py
    from scipy import sparse

    found: dict[str, Variable] = {}

    def collect(name: str, node: Any) -> None:
        kind = np.bytes_(node.attrs.get("MATLAB_class", b"double")).decode()
        parent = name.rpartition("/")[0]
        # Values that cells point to, and the parts of a sparse matrix.
        if name.startswith("#") or (parent and "MATLAB_sparse" in file[parent].attrs):
            return
        if "MATLAB_sparse" in node.attrs:
            shape = (int(node.attrs["MATLAB_sparse"]), len(node["jc"]) - 1)

            def read() -> Any:
                parts = (
                    read_array(node[part], name) if part in node else np.zeros(0, int)
                    for part in ("data", "ir", "jc")
                )
                return checked(sparse.csc_array(tuple(parts), shape=shape))

            found[name] = Variable(shape, "", read)
        elif "MATLAB_empty" in node.attrs:
            found[name] = Variable((0,), "empty", lambda: np.zeros(0))
        elif isinstance(node, h5py.Dataset) and node.shape is not None:
            numbers = kind in _NUMBERS and node.dtype.kind in "buif"
            said = "a complex array" if kind in _NUMBERS else f"a {kind} array"
            found[name] = Variable(
                node.shape[::-1], "" if numbers else said, lambda: _matlab_values(file, node, kind)
            )

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        yield found


def _matlab_values(file: Any, node: Any, kind: str) -> np.ndarray:
    """A dataset of version 7.3 with MATLAB's axes; cells and rows of text as strings."""
    if kind == "cell":
        require_room(node.shape, 64, "a cell array")
        # The codes of a word's letters.
        words = [read_array(file[cell], "a cell").ravel() for cell in node[()].ravel()]
        return np.array(["".join(map(chr, word)) for word in words], dtype=object)
    values = read_array(node, kind).T
    if kind == "char":
        return np.array(["".join(map(chr, row)) for row in values], dtype=object)
    return values
