"""The plan of a run: how long it trains, on what device, and what to do afterwards.

A resumed run may change its plan, and nothing else.
"""

import math
from collections.abc import Mapping
from typing import Any

from pyro_vae.training.loop import Training
from pyro_vae.training.plain_yaml import Configuration, ConfigurationError
from pyro_vae.training.schedules import TIED_TO_LENGTH

PLAN = ("epochs", "max_steps", "early_stopping", "device", "data_root", "evaluate")


def check_change(before: Configuration, after: Configuration, directory: str) -> None:
    """Make sure that a resumed run changes its plan alone, and as its training allows.

    Args:
        before: The run's configuration.
        after: The one asked for.
        directory: The run directory, for the message.

    Raises:
        ConfigurationError: If another option changes, or a schedule tied to the length of training gets
            another number of epochs.
    """
    for name in after.keys() - {*PLAN}:
        if after[name] != before[name]:
            option, old, new = _first_difference(name, before[name], after[name])
            allowed = ", ".join(map(_option, PLAN))
            raise ConfigurationError(
                f"{option} cannot change when a run is resumed: it has {_value(old)}, got {_value(new)}; "
                f"what may change is {allowed}."
            )
    schedule = before["lr_schedule"]
    if schedule in TIED_TO_LENGTH and before["epochs"] != after["epochs"]:
        raise ConfigurationError(
            f"--epochs cannot change when a run with --lr-schedule {schedule} is resumed: the schedule "
            f"has ended after its {before['epochs']} epochs, got {_value(after['epochs'])}; start a new run with "
            f"--config {directory}/config.yaml --epochs {after['epochs']} --out DIR."
        )


def check_extension(training: Training, before: Mapping[str, Any], after: Configuration) -> None:
    """Make sure that a plan which asks for more training gets some.

    Args:
        training: The training as it was left.
        before: The plan so far.
        after: The new one.

    Raises:
        ValueError: If the run has trained longer already, or something else has ended it.
    """
    limits = [name for name in ("epochs", "max_steps") if after[name] != before[name]]
    if limits and training.step > training.steps:
        raise ValueError(
            f"the run has trained {training.step:,} steps, and "
            f"{' '.join(f'{_option(name)} {_value(after[name])}' for name in limits)} is {training.steps:,}: "
            f"give at least as many ({training.steps_per_epoch:,} steps are an epoch)."
        )
    if training.ended and any(_limit(after[name]) > _limit(before[name]) for name in limits):
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
        plan: Its plan, with its schedule.
    """
    epochs = training.step // training.steps_per_epoch
    if training.stopped_early:
        waited = epochs - training.best_epoch
        why = (
            f"it stopped early after epoch {epochs}, as validation was best at epoch "
            f"{training.best_epoch}; --early-stopping N, above {waited}, trains on"
        )
    elif _limit(plan["max_steps"]) < plan["epochs"] * training.steps_per_epoch:
        why = (
            f"it has trained its {training.step:,} steps; --max-steps N, above {plan['max_steps']}, or "
            f"null for all {plan['epochs']} epochs, trains on"
        )
    elif (schedule := plan["lr_schedule"]) in TIED_TO_LENGTH:
        why = (
            f"it has trained its {plan['epochs']} epochs, after which --lr-schedule {schedule} has "
            "ended: a longer training is a new run"
        )
    else:
        why = f"it has trained its {plan['epochs']} epochs; --epochs N, above {plan['epochs']}, trains on"
    return f"nothing left to train: {why}."


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
