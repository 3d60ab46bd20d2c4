"""Files of a data root: found, checked by their hash, and read without pickles."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def read_npz(
    root: Path,
    file: str,
    *,
    sha256: str,
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file in the data root.

    Args:
        root: The data root.
        file: The file's path below it.
        sha256: The hash that the file must have.
        shapes: The arrays to read, and the shape that each must have.
        source: The original source, for the message that says that the file is missing.

    Raises:
        ValueError: If the file is missing, has another hash, or holds other arrays.
    """
    path = Path(root) / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{file} is not in {root} ({error.strerror}). It is not downloaded: put it there, or name "
            "the folder that holds it with --data-root or the environment variable PYRO_VAE_DATA. "
            f"Its original source is {source}; its format is in the loader's description."
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
