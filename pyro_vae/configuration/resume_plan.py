"""The plan of a run: how long and where it trains, and how it is evaluated.

A resumed run may change its plan and nothing else.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.configuration import Configuration, ConfigurationError
from pyro_vae.training.loop import Training
from pyro_vae.training.schedules import TIED_TO_LENGTH, default_epochs

PLAN = ("epochs", "max_steps", "early_stopping", "device", "data_root", "evaluate", "log")


def check_change(before: Configuration, after: Configuration) -> None:
    """Make sure that a resumed run only changes its plan.

    Raises:
        ConfigurationError: If another option changes.
    """
    for name in after.keys() - {*PLAN}:
        if after[name] != before[name]:
            option, old, new = _first_difference(name, before[name], after[name])
            allowed = ", ".join(map(_option, PLAN))
            raise ConfigurationError(
                f"{option} cannot change when a run is resumed: it has {_value(old)}, got "
                f"{_value(new)}; what may change is {allowed}."
            )


def check_plan(
    training: Training,
    state: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Configuration,
    directory: Path,
) -> None:
    """Make sure that a run can continue with its new plan.

    Args:
        training: The training with the new plan, before its state is loaded.
        state: The state to load.
        before: The old plan.
        after: The new plan.
        directory: The run directory, for the message.

    Raises:
        ValueError: If the number of epochs changes under a schedule that depends on it, or early
            stopping is turned on or off when best parameters were not stored, or were.
    """
    epochs = _epochs(before, training)
    if training.lr_schedule in TIED_TO_LENGTH and epochs != training.epochs:
        raise ValueError(
            f"--epochs cannot change when a run with --lr-schedule {training.lr_schedule} is "
            f"resumed: the schedule spans its {epochs} epochs, got {training.epochs}; start a new "
            f"run with --config {directory}/config.yaml --epochs {training.epochs} --out DIR."
        )
    stored = state.get("best") is not None
    changed = before["early_stopping"] != after["early_stopping"]
    if changed and state.get("history") and stored != training.stopping.keeps_best:
        raise ValueError(
            "--early-stopping cannot be turned off when a run is resumed, because its best "
            "parameters are stored: give a large number, such as 1000."
            if stored
            else "--early-stopping cannot be turned on when a run is resumed, because its best "
            "parameters were not stored: leave it out."
        )


def check_extension(training: Training, before: Mapping[str, Any], after: Configuration) -> None:
    """Make sure that a training whose state is loaded has more to do under a changed plan.

    Raises:
        ValueError: If the run has already trained longer, or ended for another reason.
    """
    limits = {
        "epochs": (_epochs(before, training), training.epochs),
        "max_steps": (_limit(before["max_steps"]), _limit(after["max_steps"])),
    }
    changed = [name for name, (old, new) in limits.items() if old != new]
    if changed and training.step > training.steps:
        raise ValueError(
            f"the run has trained {training.step:,} steps, and "
            f"{' '.join(f'{_option(name)} {_value(after[name])}' for name in changed)} is "
            f"{training.steps:,}: give at least as many ({training.steps_per_epoch:,} steps are "
            "an epoch)."
        )
    if training.ended and any(new > old for old, new in limits.values()):
        raise ValueError(nothing_left(training, after))


def plan_notes(training: Training, configuration: Configuration) -> list[str]:
    """Notes about a plan that may be unintended, one line each."""
    notes = []
    if training.steps == 0:
        name = "epochs" if configuration["epochs"] == 0 else "max_steps"
        notes.append(
            f"{_option(name)} 0 trains nothing: the model is evaluated at its initialization"
        )
    batch, rows = configuration["batch_size"], len(training.data.train)
    if batch > rows:
        notes.append(
            f"a batch of {batch:,} is larger than the {rows:,} training rows: each step takes all "
            "of them"
        )
    return notes


def nothing_left(training: Training, plan: Mapping[str, Any]) -> str:
    """Why a training has ended, and the option that continues it, in one line."""
    if training.stopping.stopped:
        waited = training.stopping.epochs_without_better(training.step // training.steps_per_epoch)
        why = (
            f"it stopped early after epoch {training.step // training.steps_per_epoch}, as "
            f"validation was best at epoch {training.stopping.best_epoch}; --early-stopping N "
            f"above {waited} continues"
        )
    elif _limit(plan["max_steps"]) < training.epochs * training.steps_per_epoch:
        why = (
            f"it has trained its {training.step:,} steps; --max-steps N above "
            f"{plan['max_steps']}, or null for all {training.epochs} epochs, continues"
        )
    elif training.lr_schedule in TIED_TO_LENGTH:
        why = (
            f"it has trained its {training.epochs} epochs, after which --lr-schedule "
            f"{training.lr_schedule} has ended: a longer training is a new run"
        )
    else:
        why = (
            f"it has trained its {training.epochs} epochs; --epochs N above {training.epochs} "
            "continues"
        )
    return f"nothing left to train: {why}."


def _epochs(plan: Mapping[str, Any], training: Training) -> int:
    """The number of epochs of a plan, whose default depends on the number of rows."""
    epochs = plan["epochs"]
    if epochs is None:
        return default_epochs(len(training.data.train), training.steps_per_epoch)
    return epochs


def _first_difference(name: str, before: Any, after: Any) -> tuple[str, Any, Any]:
    """The option that differs, of a part its name first, and its two values."""
    if not isinstance(before, Mapping):
        return _option(name), before, after
    if before["name"] != after["name"]:
        return _option(name), before["name"], after["name"]
    inner = next(each for each in after if before[each] != after[each])
    return _option(f"{name}.{inner}"), before[inner], after[inner]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def _limit(value: int | None) -> float:
    return math.inf if value is None else float(value)
