"""Files that are whole or absent: checkpoints and everything else a run writes."""

import contextlib
import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    The content goes to a temporary file beside it, to the disk, and then takes the name.

    Raises:
        OSError: If the disk is full or the directory not writable; the old content survives and no
            temporary file stays.
    """
    # One name for all: what a killed process left behind is overwritten by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, atomically.

    Raises:
        OSError: As `write_atomically`.
    """
    # Through memory: torch's own writer turns a full disk into an unspecific RuntimeError.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is executed (`weights_only`).

    Raises:
        ValueError: If there is no checkpoint, or it is cut short or not one.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}.")
    try:
        check_archive(path)
        with warnings.catch_warnings():
            # What torch says of old formats and TorchScript; both are refused.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The reader's own message runs over many lines and proposes to switch the safety off.
        raise ValueError(f"{path} is cut short, or not a checkpoint of pyro_vae.") from error
    if not isinstance(state, dict) or not {"program", "step", "history"} <= state.keys():
        raise ValueError(f"{path} is not a checkpoint of pyro_vae.")
    return state


def check_archive(path: Path) -> None:
    """Make sure that reading takes no more memory than the file has bytes.

    `torch.save` and `numpy.savez` compress nothing, so what a file holds is as long as the file.

    Raises:
        ValueError: If the archive is compressed, or claims to hold more than it is long.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("the archive is compressed.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("the entries are longer than the file.")
