"""The plan of a run: how long it trains, on what device, and what to do afterwards.

A resumed run may change its plan, and nothing else.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.runs.strict_yaml import Configuration, ConfigurationError
from pyro_vae.training.loop import Training, default_epochs
from pyro_vae.training.schedules import TIED_TO_LENGTH

PLAN = ("epochs", "max_steps", "early_stopping", "device", "data_root", "evaluate")


def check_change(before: Configuration, after: Configuration) -> None:
    """Make sure that a resumed run changes its plan alone.

    Args:
        before: The run's configuration.
        after: The one asked for.

    Raises:
        ConfigurationError: If another option changes.
    """
    for name in after.keys() - {*PLAN}:
        if after[name] != before[name]:
            option, old, new = _first_difference(name, before[name], after[name])
            allowed = ", ".join(map(_option, PLAN))
            raise ConfigurationError(
                f"{option} cannot change when a run is resumed: it has {_value(old)}, got {_value(new)}; "
                f"what may change is {allowed}."
            )


def check_plan(
    training: Training,
    state: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Configuration,
    directory: Path,
) -> None:
    """Make sure that a run can go on with its new plan.

    Args:
        training: The training with the new plan, before it goes back to its state.
        state: That state.
        before: The plan so far.
        after: The new one.
        directory: The run directory, for the message.

    Raises:
        ValueError: If a schedule tied to the length of training gets another number of epochs, or a
            change of early stopping asks for parameters that were not kept.
    """
    epochs = _epochs(before, training)
    if training.lr_schedule in TIED_TO_LENGTH and epochs != training.epochs:
        raise ValueError(
            f"--epochs cannot change when a run with --lr-schedule {training.lr_schedule} is resumed: the "
            f"schedule spans its {epochs} epochs, got {training.epochs}; start a new run with --config "
            f"{directory}/config.yaml --epochs {training.epochs} --out DIR."
        )
    kept = state.get("best") is not None
    changed = before["early_stopping"] != after["early_stopping"]
    if changed and state.get("history") and kept != training.stopping.keeps_best:
        raise ValueError(
            f"--early-stopping cannot be turned {'off' if kept else 'on'} here when a run is resumed, as the "
            f"best parameters {'would no longer be' if kept else 'so far were not'} kept: "
            + ("give a large number, such as 1000." if kept else "leave it out.")
        )


def check_extension(training: Training, before: Mapping[str, Any], after: Configuration) -> None:
    """Make sure that a plan which asks for more training gets some.

    Args:
        training: The training, in the state in which it was left.
        before: The plan so far.
        after: The new one.

    Raises:
        ValueError: If the run has trained longer already, or something else has ended it.
    """
    limits = {
        "epochs": (_epochs(before, training), training.epochs),
        "max_steps": (_limit(before["max_steps"]), _limit(after["max_steps"])),
    }
    changed = [name for name, (old, new) in limits.items() if old != new]
    if changed and training.step > training.steps:
        raise ValueError(
            f"the run has trained {training.step:,} steps, and "
            f"{' '.join(f'{_option(name)} {_value(after[name])}' for name in changed)} is {training.steps:,}: "
            f"give at least as many ({training.steps_per_epoch:,} steps are an epoch)."
        )
    if training.ended and any(new > old for old, new in limits.values()):
        raise ValueError(nothing_left(training, after))


def plan_notes(training: Training, configuration: Configuration) -> list[str]:
    """What a plan does that may not be meant, one line each."""
    notes = []
    if training.steps == 0:
        name = "epochs" if configuration["epochs"] == 0 else "max_steps"
        notes.append(f"{_option(name)} 0 trains nothing: the model is evaluated as it starts")
    batch, rows = configuration["batch_size"], len(training.data.train)
    if batch > rows:
        notes.append(
            f"a batch of {batch:,} is larger than the {rows:,} training rows: each step takes all of them"
        )
    return notes


def nothing_left(training: Training, plan: Mapping[str, Any]) -> str:
    """Why a training has ended, and what to give to train on, in one line.

    Args:
        training: A training that has ended.
        plan: Its plan.
    """
    if training.stopping.stopped:
        waited = training.stopping.epochs_without_better(training.step // training.steps_per_epoch)
        why = (
            f"it stopped early after epoch {training.step // training.steps_per_epoch}, as validation was "
            f"best at epoch {training.stopping.best_epoch}; --early-stopping N, above {waited}, trains on"
        )
    elif _limit(plan["max_steps"]) < training.epochs * training.steps_per_epoch:
        why = (
            f"it has trained its {training.step:,} steps; --max-steps N, above {plan['max_steps']}, or "
            f"null for all {training.epochs} epochs, trains on"
        )
    elif training.lr_schedule in TIED_TO_LENGTH:
        why = (
            f"it has trained its {training.epochs} epochs, after which --lr-schedule "
            f"{training.lr_schedule} has ended: a longer training is a new run"
        )
    else:
        why = f"it has trained its {training.epochs} epochs; --epochs N, above {training.epochs}, trains on"
    return f"nothing left to train: {why}."


def _epochs(plan: Mapping[str, Any], training: Training) -> int:
    """The epochs of a plan, which may leave them to the number of rows."""
    epochs = plan["epochs"]
    if epochs is None:
        return default_epochs(len(training.data.train), training.steps_per_epoch)
    return epochs


def _first_difference(name: str, before: Any, after: Any) -> tuple[str, Any, Any]:
    """The option that differs, with its two values: of parts the name, or else an option of theirs."""
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
