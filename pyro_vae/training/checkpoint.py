"""Checkpoints: atomic files, the state of a training, and checks of what is loaded."""

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vae.data import DataContract
from pyro_vae.version import __version__, check_version

if TYPE_CHECKING:
    from pyro_vae.training.loop import Training

# Ranges of plain numbers: outside of them torch would fail later, or start as many threads.
_RANGES = {
    "step": (0, 2**48),
    "order_seed": (0, 2**40),
    "best_epoch": (0, 2**48),
    "threads": (1, 4096),
    "seconds": (0, 2**48),
    "aggressive.taken": (0, 2**48),
    "schedule.T_max": (1, 2**48),
}
_RECORD = {"epoch", "step", "validation_elbo", "lr", "skipped", "seconds"}
# Checked elsewhere: modules report what differs, and a contract checks itself.
_CHECKED_ELSEWHERE = {
    *("program", "objective", "best", "best_score", "cuda_random_state", "data", "history"),
}
# Mappings with any names, and the form of their values.
_ENTRIES: dict[str, Any] = {"sums": torch.zeros((), dtype=torch.float64)} | dict.fromkeys(
    ("compile", "compile_inner", "compile_outer"), "off"
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    The content is written to a temporary file beside it and flushed to disk, which then takes the
    name.

    Raises:
        OSError: If the disk is full or the directory not writable; the old content is unchanged
            and no temporary file remains.
    """
    # A fixed name: the file that a killed process left behind is overwritten by the next one.
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
    """Write a checkpoint of tensors and plain values, atomically, with the version of pyro_vae.

    Raises:
        OSError: As `write_atomically`.
    """
    # Through memory: torch's own writer turns a full disk into an unspecific RuntimeError.
    buffer = io.BytesIO()
    torch.save({"version": __version__, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without executing anything in it (`weights_only`).

    Raises:
        ValueError: If there is no checkpoint, or it is truncated, of something else or of a newer
            version.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint at {path}.")
    try:
        check_archive(path)
        with warnings.catch_warnings():
            # torch warns of old formats and TorchScript; both are refused.
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The reader's own message has many lines and suggests disabling the protection.
        raise ValueError(f"{path} is cut short, or not a checkpoint of pyro_vae.") from error
    if not isinstance(state, dict) or not {"program", "step", "history"} <= state.keys():
        raise ValueError(f"{path} is not a checkpoint of pyro_vae.")
    check_version(state.pop("version", None), path)
    return state


def check_archive(path: Path) -> None:
    """Check that reading an archive takes no more memory than the file has bytes.

    `torch.save` and `numpy.savez` do not compress, so the content is as long as the file.

    Raises:
        ValueError: If the archive is compressed, or claims to hold more than the file's length.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("the archive is compressed.")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("the entries are longer than the file.")


# ---- modules -----------------------------------------------------------------------------------


def load_parameters(module: nn.Module, state: Any) -> None:
    """Load a `state_dict`, or report in one line how it differs.

    Raises:
        ValueError: If names, shapes or types differ.
    """
    check_parameters(module, state)
    module.load_state_dict(state)


def check_parameters(module: nn.Module, state: Any) -> None:
    """Check that a `state_dict` fits a module.

    Raises:
        ValueError: If names, shapes or types differ.
    """
    own = module.state_dict()
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"the checkpoint has no tensors of a {type(module).__name__}.")
    different = list(own.keys() ^ state.keys())
    different += [n for n in own.keys() & state.keys() if not _fits(state[n], own[n])]
    if different:
        names = ", ".join(sorted(different)[:4]) + (", ..." if len(different) > 4 else "")
        count = "1 tensor differs" if len(different) == 1 else f"{len(different)} tensors differ"
        raise ValueError(
            f"the checkpoint is of another {type(module).__name__}: {count} in name, shape or "
            "type "
            f"({names})."
        )


def _fits(value: Any, own: Tensor) -> bool:
    """Whether `value` can be copied to `own`: a dense tensor of its shape and kind of number."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type != "meta"
        and value.shape == own.shape
        and (value.dtype == own.dtype or (value.is_floating_point() and own.is_floating_point()))
    )


# ---- trainings ---------------------------------------------------------------------------------


def training_state(training: "Training") -> dict[str, Any]:
    """The complete state of a training, as tensors and plain values."""
    stopping, cuda = training.stopping, training.device.type == "cuda"
    aggressive = training.aggressive
    return {
        "program": training.program.state_dict(),
        "objective": training.objective.state_dict(),
        "optimizer": training.optimizer_step.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state() if cuda else None,
        "step": training.step,
        "order_seed": training.loader.order_seed,
        "batch_size": training.batch_size,
        "train_size": len(training.data.train),
        "order": training.loader.order,
        "totals": training.totals.to_dict(),
        "seconds": training.seconds,
        "history": training.history,
        "best": stopping.best,
        "best_epoch": stopping.best_epoch,
        "best_score": stopping.best_score,
        "stopped_early": stopping.stopped,
        "threads": training.threads,
        "compile": dict(training.optimizer_step.compiled.decisions),
        "aggressive": None if aggressive is None else aggressive.state_dict(),
        "data": training.contract.to_plain(),
    }


def load_training_state(training: "Training", state: dict[str, Any]) -> None:
    """Load a saved state into a training.

    Raises:
        ValueError: If the state is of another model, objective or batch layout, or not of a
            training.
    """
    # Old checkpoints have no score of the best epoch: it is in the history.
    state = {"best_score": None, **state}
    step, stopping = training.optimizer_step, training.stopping
    # Validate the whole state before loading any of it.
    check_parameters(training.program, state.get("program"))
    check_parameters(training.objective, state.get("objective"))
    _check_state(state, training_state(training))
    if state["best"] is not None:
        check_parameters(training.program, state["best"])
    contract = DataContract.from_plain(state["data"])
    for name, value in (("batch_size", training.batch_size), ("order", training.loader.order)):
        if state[name] != value:
            raise ValueError(f"the checkpoint was trained with {name} {state[name]}, got {value}.")
    contract.check(training.data, trained="the checkpoint")
    # A cosine's number of epochs, and an exponential's rate, which follows from it.
    own = training.schedule.state_dict()
    if any(state["schedule"][name] != own[name] for name in {"T_max", "gamma"} & own.keys()):
        raise ValueError(
            f"the schedule {training.lr_schedule} is tied to the number of epochs, and the "
            f"checkpoint was trained with another one than the {training.epochs} given: train "
            "from scratch for a longer training."
        )
    training.program.load_state_dict(state["program"])
    training.loss.read_labels(training.data)
    training.objective.load_state_dict(state["objective"])
    step.load_state_dict(state["optimizer"], state["totals"])
    step.compiled.decisions = dict(state["compile"])
    if training.aggressive is not None:
        training.aggressive.load_state_dict(state["aggressive"], state["order_seed"])
    training.schedule.load_state_dict(state["schedule"])
    training.step = state["step"]
    training.loader.order_seed = state["order_seed"]
    training.seconds = state["seconds"]
    training.history = list(state["history"])
    stopping.best, stopping.best_epoch = state["best"], state["best_epoch"]
    stopping.best_score = state["best_score"]
    if stopping.best is not None and stopping.best_score is None:
        scored = [r for r in training.history if r["epoch"] == stopping.best_epoch]
        stopping.best_score = stopping.score(scored[0]) if scored else None
    epoch = training.step // training.steps_per_epoch
    # With a longer patience than the one that stopped it, training continues.
    stopping.stopped = state["stopped_early"] and stopping.exhausted(epoch)
    if len(training.history) > epoch and not training.ended:
        # The record of an epoch that `max_steps` cut short, and that now continues.
        training.history.pop()
    # Sums are split among threads: another number of them changes the last bits.
    training.threads = state["threads"]
    torch.set_num_threads(training.threads)
    torch.set_rng_state(state["random_state"])
    if state["cuda_random_state"] is not None and training.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_random_state"])


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check that a state has the form of a training's own: names, shapes and types, not values.

    Raises:
        ValueError: If they differ, in one line that names the place.
    """
    if missing := own.keys() - state.keys():
        raise ValueError(f"the checkpoint has no {min(missing)}.")
    if (state["aggressive"] is None) != (own["aggressive"] is None):
        had, has = ("without", "with") if state["aggressive"] is None else ("with", "without")
        raise ValueError(f"the checkpoint was trained {had} aggressive_steps, got one {has}.")
    for record in state["history"] if isinstance(state["history"], list) else [None]:
        if not (
            isinstance(record, Mapping)
            and record.keys() >= _RECORD
            and type(record["epoch"]) is type(record["step"]) is int
            and all(type(value) in (int, float, type(None)) for value in record.values())
        ):
            raise ValueError(
                "the checkpoint's history must hold a record of numbers for each epoch."
            )
    for name in own.keys() - _CHECKED_ELSEWHERE:
        _check_form(name, state[name], own[name])
    score = state["best_score"]
    if score is not None and not (type(score) is float and math.isfinite(score)):
        raise ValueError("the checkpoint's best_score must be a finite number or None.")
    try:
        torch.Generator().set_state(state["random_state"])
    except RuntimeError as error:
        raise ValueError("the checkpoint's random_state is not a generator's state.") from error


def _check_form(where: str, value: Any, own: Any) -> None:
    name = where.rpartition(".")[2]
    if name in _ENTRIES and isinstance(value, Mapping):
        own = dict.fromkeys(value, _ENTRIES[name])
    if isinstance(own, Tensor):
        if not _fits(value, own):
            kind = f"{str(own.dtype).removeprefix('torch.')} of shape {tuple(own.shape)}"
            raise ValueError(f"the checkpoint's {where} must be a tensor of {kind}.")
    elif isinstance(own, Mapping):
        if not isinstance(value, Mapping) or value.keys() != own.keys():
            raise ValueError(
                f"the checkpoint's {where} must have the names {', '.join(map(str, own))}."
            )
        for key, item in own.items():
            _check_form(f"{where}.{key}", value[key], item)
    elif isinstance(own, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(own):
            raise ValueError(f"the checkpoint's {where} must be a list of {len(own)}.")
        for index, item in enumerate(own):
            _check_form(f"{where}.{index}", value[index], item)
    elif type(value) is not type(own) and (type(value), type(own)) != (int, float):
        kinds = f"{type(own).__name__}, got {type(value).__name__}"
        raise ValueError(f"the checkpoint's {where} must be {kinds}.")
    elif isinstance(own, (str, bool)) and where.startswith(("schedule", "optimizer")):
        if value != own:
            raise ValueError(f"the checkpoint's {where} must be {own}.")
    elif where in _RANGES:
        low, high = _RANGES[where]
        if not low <= value <= high:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"the checkpoint's {where} must be from {low} to {high}.")
