"""Files that are whole or absent: checkpoints and everything else a run writes."""

import contextlib
import io
import os
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
        _check_archive(path)
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


def _check_archive(path: Path) -> None:
    """Make sure that reading takes no more memory than the file has bytes.

    `torch.save` compresses nothing, so what a file holds is as long as the file.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("a checkpoint is not compressed.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("the entries are longer than the file.")


# ---- the form of a state ---------------------------------------------------------------------

# Beyond these a state is not one of ours, and torch would fail or start as many threads.
_RANGES = {
    "step": (0, 2**48),
    "order_seed": (0, 2**40),
    "best_epoch": (0, 2**48),
    "threads": (1, 4096),
    "seconds": (0, 2**48),
}
_RECORD = {"epoch", "step", "validation_elbo", "lr", "skipped", "seconds"}


def check_state(
    state: Mapping[str, Any], own: Mapping[str, Any], shapes: Sequence[torch.Size]
) -> None:
    """Make sure that a state has the form of a training's own, so that taking it over cannot fail.

    Names, shapes and types are compared; the values of tensors are free, NaN included.

    Args:
        state: What `load_checkpoint` read, perhaps from somebody else.
        own: The `state_dict` of the training that it is for.
        shapes: The shapes of the optimiser's parameters.

    Raises:
        ValueError: If they differ, in one line that says where.
    """
    if missing := own.keys() - state.keys():
        raise ValueError(f"the checkpoint has no {min(missing)}.")
    # Modules say themselves what differs, and how long training was is free.
    for name in own.keys() - {"program", "objective", "best", "cuda_random_state"}:
        value = state[name]
        if name == "optimizer":
            _check_optimizer(value, own[name], shapes)
        elif name == "history":
            _check_history(value)
        elif name == "totals":
            _check_totals(value, own[name])
        else:
            _check_form(name, value, own[name])
    for name, (low, high) in _RANGES.items():
        if not low <= state[name] <= high:
            raise ValueError(f"the checkpoint's {name} must be from {low} to {high}.")
    _check_settings("schedule", state["schedule"], own["schedule"])
    if state["schedule"].get("T_max", 1) < 1:
        raise ValueError("the checkpoint's schedule.T_max must be at least 1.")
    try:
        torch.Generator().set_state(state["random_state"])
    except RuntimeError as error:
        raise ValueError("the checkpoint's random_state is no state of a generator.") from error
    _check_cuda_state(state["cuda_random_state"], own["cuda_random_state"])


def is_like(value: Any, own: Tensor) -> bool:
    """Whether `value` can be copied to `own`: a dense tensor of its shape and kind of number."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type != "meta"
        and value.shape == own.shape
        and (value.dtype == own.dtype or (value.is_floating_point() and own.is_floating_point()))
    )


def _check_form(where: str, value: Any, own: Any) -> None:
    if isinstance(own, Tensor):
        if not is_like(value, own):
            kind = f"{str(own.dtype).removeprefix('torch.')} of shape {tuple(own.shape)}"
            raise ValueError(f"the checkpoint's {where} must be a tensor of {kind}.")
    elif isinstance(own, Mapping):
        _check_names(where, value, own.keys())
        for name, item in own.items():
            _check_form(f"{where}.{name}", value[name], item)
    elif isinstance(own, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(own):
            raise ValueError(f"the checkpoint's {where} must be a list of {len(own)}.")
        for index, item in enumerate(own):
            _check_form(f"{where}.{index}", value[index], item)
    elif type(value) is not type(own) and (type(value), type(own)) != (int, float):
        raise ValueError(
            f"the checkpoint's {where} must be {type(own).__name__}, got {type(value).__name__}."
        )


def _check_names(where: str, value: Any, names: Collection[str]) -> None:
    if not isinstance(value, Mapping) or value.keys() != set(names):
        raise ValueError(f"the checkpoint's {where} must have the names {', '.join(names)}.")


def _check_settings(where: str, value: Any, own: Any) -> None:
    """Words and switches are those of our own."""
    items = own.items() if isinstance(own, Mapping) else enumerate(own)
    for name, item in items:
        if isinstance(item, (str, bool)) and value[name] != item:
            raise ValueError(f"the checkpoint's {where}.{name} must be {item}.")


def _check_optimizer(value: Any, own: Any, shapes: Sequence[torch.Size]) -> None:
    """The groups have the form of our own; the moments come with the first step."""
    _check_names("optimizer", value, ["state", "param_groups"])
    _check_form("optimizer.param_groups", value["param_groups"], own["param_groups"])
    for group, mine in zip(value["param_groups"], own["param_groups"], strict=True):
        _check_settings("optimizer", group, mine)
        if list(group["params"]) != mine["params"]:
            raise ValueError("the checkpoint's optimizer has other parameters.")
    moments = value["state"]
    if not isinstance(moments, Mapping) or not moments.keys() <= set(range(len(shapes))):
        raise ValueError("the checkpoint's optimizer has moments of other parameters.")
    for index, moment in moments.items():
        like = torch.empty(shapes[index], device="meta")
        form = {"step": like.new_empty(()), "exp_avg": like, "exp_avg_sq": like}
        _check_form(f"optimizer.state.{index}", moment, form)


def _check_history(history: Any) -> None:
    for record in history if isinstance(history, list) else [None]:
        if not (
            isinstance(record, Mapping)
            and record.keys() >= _RECORD
            and type(record["epoch"]) is type(record["step"]) is int
            and all(type(name) is str for name in record)
            and all(type(value) in (int, float, type(None)) for value in record.values())
        ):
            raise ValueError(
                "the checkpoint's history must hold a record of numbers for each epoch."
            )


def _check_totals(value: Any, own: Mapping[str, Any]) -> None:
    _check_names("totals", value, own.keys())
    sums = value["sums"]
    if not isinstance(sums, Mapping) or not all(
        type(name) is str and is_like(total, torch.empty((), dtype=torch.float64))
        for name, total in sums.items()
    ):
        raise ValueError("the checkpoint's totals.sums must be numbers by name.")
    _check_form("totals", {**value, "sums": {}}, {**own, "sums": {}})


def _check_cuda_state(value: Any, own: Tensor | None) -> None:
    if value is None:
        return
    like = torch.empty(16, dtype=torch.uint8) if own is None else own
    if not is_like(value, like):
        raise ValueError("the checkpoint's cuda_random_state is no state of a generator.")
