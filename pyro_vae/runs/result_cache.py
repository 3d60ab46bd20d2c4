"""Results that are kept as they come, under the name of everything they depend on.

What is long to compute is computed in chunks. A chunk's file is whole or absent, and its name holds
a digest of all that went into it, so that a stopped program goes on where it was and never takes a
number that other options, other data or another checkpoint gave.
"""

import hashlib
import io
import json
import logging
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

import pyro_vae
from pyro_vae.training.checkpoint import check_archive, write_atomically

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Beside a result's own fields, in its file.
_SECONDS = "seconds"
# Numbers, truth values and words; an array of anything else is no result of ours.
_KINDS = "biufU"


class Kept:
    """A folder of results, a file each: `<method>-<digest>.npz`.

    A result is a frozen dataclass of arrays, numbers, words, None and other such dataclasses. Files
    may be somebody else's: nothing in them is executed, and reading takes no more memory than they
    have bytes.

    Args:
        folder: Where the files lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, kind: type[Result], count: int) -> tuple[Result, float] | None:
        """A result and the seconds that it took; None if it is not there, or damaged.

        Args:
            name: The file's name without its suffix.
            kind: The result's class.
            count: The number `n` in its summary.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            return _read(path, kind, count)
        except ValueError as error:
            log.warning("%s is damaged, and made again: %s", path, error)
            return None

    def write(self, name: str, result: Any, seconds: float) -> None:
        """Keep a result.

        Raises:
            OSError: If the disk is full or the folder not writable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path(name), {**to_arrays(result), _SECONDS: np.array(seconds)})

    def forget(self, methods: Iterable[str]) -> None:
        """Delete all that is kept of these methods."""
        for method in methods:
            # A digest is 32 characters; a file that was being written when the power went is one too.
            for pattern in (f"{method}-{'?' * 32}.npz", f".{method}-{'?' * 32}.npz.tmp"):
                for path in self.folder.glob(pattern):
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def digest(depends_on: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that differ where anything that a result depends on does.

    Args:
        depends_on: Plain values, arrays and tensors by name; of the last two every element counts.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return [str(value.dtype), list(value.shape), content]
        raise TypeError(f"a digest is of plain values and arrays, got {type(value).__name__}.")

    text = json.dumps(depends_on, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_hash() -> str:
    """The SHA-256 of this package's source: other code may give other numbers."""
    root = Path(pyro_vae.__file__).parent
    total = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def to_arrays(result: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The fields of a dataclass by name, `field.field` of one inside; None is left out."""
    arrays: dict[str, np.ndarray] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if is_dataclass(value):
            arrays |= to_arrays(value, f"{prefix}{field.name}.")
        elif value is not None:
            arrays[prefix + field.name] = np.asarray(value)
    return arrays


def from_arrays(kind: type[Result], arrays: Mapping[str, np.ndarray], prefix: str = "") -> Result:
    """The dataclass that `to_arrays` took apart.

    Raises:
        ValueError: If a field is absent, or an array not of its field's type or shape.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for field in fields(typing.cast("Any", kind)):
        hint, name = hints[field.name], prefix + field.name
        if isinstance(hint, type) and is_dataclass(hint):
            values[field.name] = from_arrays(hint, arrays, f"{name}.")
            continue
        value = arrays.get(name)
        if value is not None and value.dtype.kind not in _KINDS:
            raise ValueError(f"{name} must hold numbers or words, got {value.dtype}")
        value = value.item() if value is not None and value.ndim == 0 else value
        if not _is(value, hint, lengths):
            raise ValueError(f"{name} is not of its type or shape")
        values[field.name] = value
    return kind(**values)


def _is(value: Any, hint: Any, lengths: dict[str, int]) -> bool:
    """Whether a value is of an annotated type: a class, a jaxtyping shape, a Literal, or one of several.

    Args:
        value: The value.
        hint: The annotation.
        lengths: The lengths of axes seen so far, by name: in all fields it must be the same.
    """
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is(value, each, lengths) for each in typing.get_args(hint))
    if not isinstance(value, hint):
        return False
    names = getattr(hint, "dim_str", "").split()
    shape = value.shape if names else ()
    return all(
        lengths.setdefault(name, length) == length
        for name, length in zip(names, shape, strict=True)
    )


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a `.npz`, whole or not at all.

    Raises:
        OSError: If the disk is full or the directory not writable.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **typing.cast("Any", arrays))
    write_atomically(path, buffer.getvalue())


def _read(path: Path, kind: type[Result], count: int) -> tuple[Result, float]:
    """A result and its seconds.

    Raises:
        ValueError: If the file is damaged, or of another kind or number of data.
    """
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        seconds = float(arrays.pop(_SECONDS))
        result = from_arrays(kind, arrays)
        n = typing.cast("Any", result).summary()["n"]
    # NumPy and zipfile raise a dozen types for damaged files.
    except Exception as error:
        raise ValueError(f"it cannot be read, {' '.join(str(error).split())[:200]}.") from error
    if n != count or not 0 <= seconds < float("inf"):
        raise ValueError(f"it is of {n} data in {seconds} s, not of {count}.")
    return result, seconds
