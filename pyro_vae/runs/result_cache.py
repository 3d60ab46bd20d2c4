"""On-disk cache of partial results, keyed by a hash of their inputs.

A long computation is split into chunks. Each chunk is a file that is complete or absent, and its
name holds a hash of everything the result depends on. An interrupted program therefore continues
with the next chunk, and never reads a result of other options, other data or another checkpoint.
"""

import functools
import hashlib
import io
import json
import logging
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

import pyro_vae
from pyro_vae.training.checkpoint import write_atomically

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Stored beside the fields of a result.
_SECONDS = "seconds"


class ResultCache:
    """A folder of results, one file each: `<method>-<digest>.npz`.

    A result is a dataclass of arrays, numbers, strings, None and other such dataclasses.

    Args:
        folder: The folder; created with the first result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def map_chunks(
        self,
        method: str,
        kind: type[Result],
        parts: Iterable[Tensor],
        compute: Callable[[Tensor], Result],
        depends_on: Callable[[Tensor], Mapping[str, Any]],
    ) -> Iterator[tuple[Tensor, Result, float]]:
        """Compute the result of each chunk, or read it if it is there.

        Args:
            method: The method's name.
            kind: The class of the results.
            parts: The rows of each chunk.
            compute: Computes the result of a chunk.
            depends_on: Everything that the result of a chunk depends on, as for `digest`.

        Yields:
            Rows, result, and the seconds that it took to compute.
        """
        for part in parts:
            name = f"{method}-{digest(depends_on(part))}"
            found = self.read(name, kind, len(part))
            if found is None:
                started = time.perf_counter()
                result = compute(part)
                found = result, time.perf_counter() - started
                self.write(name, *found)
            yield part, *found

    def read(self, name: str, kind: type[Result], count: int) -> tuple[Result, float] | None:
        """Read a result and its seconds; None if the file is absent or damaged.

        Args:
            name: The file's name without suffix.
            kind: The class of the result.
            count: The expected "n" of its summary.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            return _read(path, kind, count)
        except ValueError as error:
            log.warning("%s is damaged and will be recomputed: %s", path, error)
            return None

    def write(self, name: str, result: Any, seconds: float) -> None:
        """Store a result.

        Raises:
            OSError: If the disk is full or the folder not writable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path(name), {**to_arrays(result), _SECONDS: np.array(seconds)})

    def clear(self, methods: Iterable[str]) -> None:
        """Delete the results of these methods, and files left by an interrupted write."""
        for method in methods:
            for pattern in (f"{method}-{'?' * 32}.npz", f".{method}-{'?' * 32}.npz.tmp"):
                for path in self.folder.glob(pattern):
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


def digest(depends_on: Mapping[str, Any]) -> str:
    """A hash of plain values, arrays and tensors: 32 hexadecimal digits.

    Args:
        depends_on: The values by name; every element of arrays and tensors counts.

    Raises:
        TypeError: If a value is of another type.
    """

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return [str(value.dtype), list(value.shape), content]
        raise TypeError(f"digest takes plain values and arrays, got {type(value).__name__}.")

    text = json.dumps(depends_on, sort_keys=True, default=encode)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def code_hash() -> str:
    """The SHA-256 of this package's source and the versions of torch and NumPy."""
    root = Path(pyro_vae.__file__).parent
    total = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def to_arrays(result: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The fields of a dataclass that are not None as arrays, `field.field` for nested ones."""
    arrays: dict[str, np.ndarray] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if is_dataclass(value):
            arrays |= to_arrays(value, f"{prefix}{field.name}.")
        elif value is not None:
            arrays[prefix + field.name] = np.asarray(value)
    return arrays


def from_arrays(kind: type[Result], arrays: Mapping[str, np.ndarray], prefix: str = "") -> Result:
    """Invert `to_arrays`.

    Raises:
        ValueError: If a field that cannot be None is missing.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(typing.cast("Any", kind)):
        hint, name = hints[field.name], prefix + field.name
        if isinstance(hint, type) and is_dataclass(hint):
            values[field.name] = from_arrays(hint, arrays, f"{name}.")
            continue
        value = arrays.get(name)
        if value is None and types.NoneType not in typing.get_args(hint):
            raise ValueError(f"{name} is missing")
        values[field.name] = value.item() if value is not None and value.ndim == 0 else value
    return kind(**values)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to an `.npz` file, atomically.

    Raises:
        OSError: If the disk is full or the directory not writable.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **typing.cast("Any", arrays))
    write_atomically(path, buffer.getvalue())


def _read(path: Path, kind: type[Result], count: int) -> tuple[Result, float]:
    """Read a result and its seconds.

    Raises:
        ValueError: If the file is damaged, or of another kind or number of examples.
    """
    try:
        # NumPy would not close the path of a damaged file.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        seconds = float(arrays.pop(_SECONDS))
        result = from_arrays(kind, arrays)
        n = typing.cast("Any", result).summary()["n"]
    # NumPy and zipfile raise a dozen types for damaged files.
    except Exception as error:
        raise ValueError(f"{' '.join(str(error).split())[:200]}.") from error
    if n != count:
        raise ValueError(f"expected {count} examples, got {n}.")
    return result, seconds
