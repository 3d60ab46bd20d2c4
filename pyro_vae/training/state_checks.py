"""The form of a saved state: checked before anything of it is taken over, as it may be somebody else's."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    for name in own.keys() - {
        "program",
        "objective",
        "best",
        "best_score",
        "cuda_random_state",
        "data",
    }:
        value = state[name]
        if name == "optimizer":
            _check_optimizer(value, own[name], shapes)
        elif name == "history":
            _check_history(value)
        elif name == "totals":
            _check_totals(value, own[name])
        elif name == "compile":
            _check_decisions(value)
        elif name == "aggressive":
            _check_aggressive(value, own[name])
        else:
            _check_form(name, value, own[name])
    for name, (low, high) in _RANGES.items():
        if not low <= state[name] <= high:
            raise ValueError(f"the checkpoint's {name} must be from {low} to {high}.")
    score = state["best_score"]
    if score is not None and not (type(score) is float and math.isfinite(score)):
        raise ValueError("the checkpoint's best_score must be a finite number or None.")
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


def _check_decisions(value: Any) -> None:
    if not isinstance(value, Mapping) or not all(
        type(form) is str and decision in ("on", "off") for form, decision in value.items()
    ):
        raise ValueError("the checkpoint's compile must be on or off for each form of a batch.")


def _check_aggressive(value: Any, own: Mapping[str, Any] | None) -> None:
    if (value is None) != (own is None):
        had, has = ("without", "with") if value is None else ("with", "without")
        raise ValueError(f"the checkpoint was trained {had} aggressive_steps, got one {has}.")
    if own is None:
        return
    _check_names("aggressive", value, own.keys())
    plain = {name: item for name, item in own.items() if type(item) in (bool, int, float)}
    for name, item in plain.items():
        _check_form(f"aggressive.{name}", value[name], item)
        if type(item) is int and not 0 <= value[name] <= _RANGES["step"][1]:
            raise ValueError(
                f"the checkpoint's aggressive.{name} must be from 0 to {_RANGES['step'][1]}."
            )
    _check_totals(value["totals"], own["totals"])
    for name in ("compile_inner", "compile_outer"):
        _check_decisions(value[name])


def _check_cuda_state(value: Any, own: Tensor | None) -> None:
    if value is None:
        return
    like = torch.empty(16, dtype=torch.uint8) if own is None else own
    if not is_like(value, like):
        raise ValueError("the checkpoint's cuda_random_state is no state of a generator.")


def load_parameters(module: nn.Module, state: Any) -> None:
    """Load a `state_dict`, or say in one line how it differs.

    Raises:
        ValueError: If names, shapes or types differ: the state is another module's.
    """
    check_parameters(module, state)
    module.load_state_dict(state)


def check_parameters(module: nn.Module, state: Any) -> None:
    """Make sure that a `state_dict` is a module's.

    Raises:
        ValueError: If names, shapes or types differ.
    """
    own = module.state_dict()
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"the checkpoint has no tensors of a {type(module).__name__}.")
    different = [
        name for name in own.keys() | state.keys() if name not in own or name not in state
    ]
    different += [n for n in own.keys() & state.keys() if not is_like(state[n], own[n])]
    if different:
        names = ", ".join(sorted(different)[:4]) + (", ..." if len(different) > 4 else "")
        raise ValueError(
            f"the checkpoint is of another {type(module).__name__}: {len(different)} tensors differ in "
            f"name, shape or type ({names})."
        )
