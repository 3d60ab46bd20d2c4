"""Trained runs as subjects of a diagnosis."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from analysis.stored_diagnosis import UNDIAGNOSED
from analysis.subject import Foreign, Steps, Subject
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.configuration import ConfigurationError
from pyro_vae.data.nouns import nouns
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence import defined_rows, undefined_data
from pyro_vae.labelled_rows import WithLabels
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.programs import labels_of_program
from pyro_vae.runs.trained_run import (
    ROWS_FROM_DISK,
    TrainedRun,
    labels_of,
    other_data,
    training_rows,
)


def subject_of_run(
    trained: TrainedRun,
    rows: Int[Tensor, " rows"],
    *,
    num_samples: int,
    seed: int,
    step: Steps,
    foreign: Foreign | None = None,
    report: Callable[[str], None],
) -> Subject:
    """A run with the data that it is diagnosed on; examples without a log density are left out.

    Args:
        trained: The run.
        rows: The rows of its split.
        num_samples: Draws from the guide per example.
        seed: The seed of all draws.
        step: The steps of the diagnosis.
        foreign: Data of another kind.
        report: Called with a message about the examples that are left out.

    Raises:
        ValueError: If log densities are not defined on any example.
    """
    program = trained.vae.program if isinstance(trained.vae, WithLabels) else trained.vae
    if reason := UNDIAGNOSED.get(labels_of_program(program)):
        raise ValueError(
            f"a diagnosis needs p(x) and q(z | x), which {type(program).__name__} does not have: "
            f"{reason}. Its own scores and figures are in the run directory."
        )
    train = trained.train
    rows = _defined(trained, trained.x, rows, f"{trained.split} {nouns()}", report)
    known = _defined(trained, train, torch.arange(len(train)), f"training {nouns()}", report)
    whole = trained.x if isinstance(trained.x, Tensor) else None
    dataset = trained.data.dataset
    return Subject(
        vae=trained.vae,
        x=trained.x[rows].to(trained.device),
        train=train[known],
        support=trained.data.likelihood_support,
        untrained=trained.untrained,
        num_samples=num_samples,
        seed=seed,
        event_names=tuple(dataset.event_names),
        uses_prior=OBJECTIVES[trained.vae.configuration["objective"]["name"]].uses_prior,
        labels=labels_of(trained.data, trained.split, rows),
        train_labels=labels_of(trained.data, "train", known),
        label_names=tuple(dataset.label_names),
        foreign=foreign,
        whole=whole,
        whole_labels=labels_of(
            trained.data, trained.split, slice(None) if whole is not None else rows
        ),
        step=step,
    )


def foreign_of_run(
    trained: TrainedRun,
    name: str | None,
    number: int | None,
    *,
    data_root: Path | None = None,
    trust_model_file: bool = False,
) -> Foreign | None:
    """Data of another kind, prepared as the run's own; None without a name.

    Args:
        trained: The run.
        name: The name or path of the data, as of `--data`.
        number: The number of test examples; None for all.
        data_root: The folder of data sets; None for the default.
        trust_model_file: As in `load`.

    Raises:
        ValueError: As `other_data`, or if they are the run's own.
    """
    if name is None:
        return None
    try:
        data = other_data(
            trained.directory,
            ["--data", name],
            data_root=data_root,
            trust_model_file=trust_model_file,
            split=True,
        )
    except ConfigurationError as error:
        raise ValueError(re.sub(r"^--data\b", "--against", str(error))) from error
    if data.dataset.name == trained.data.dataset.name:
        raise ValueError(
            f"--against must be other data than the run's own, got {data.dataset.name}."
        )
    x = data.fixed("test")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = order[:number].sort().values
    train = training_rows(data)
    return Foreign(
        name=data.dataset.name,
        x=x[rows].to(trained.device),
        train=train,
        labels=labels_of(data, "test", rows),
        train_labels=labels_of(data, "train", slice(len(train))),
    )


def dependencies(subject: Subject, trained: TrainedRun) -> dict[str, Any]:
    """What the sections of a diagnosis depend on: when one of them differs, a section is stale."""
    return {
        "checkpoint_sha256": trained.checkpoint_hash,
        "data_sha256": hashlib.sha256(subject.x.cpu().numpy().tobytes()).hexdigest(),
        "split": trained.split,
        "n": len(subject.x),
        "num_samples": subject.num_samples,
        "seed": subject.seed,
    }


def diagnosis_header(
    trained: TrainedRun, *, n: int, num_samples: int, seed: int
) -> dict[str, Any]:
    """The origin of the numbers of a diagnosis or a comparison."""
    return {
        **trained.header(),
        "scale": trained.data.dataset.units.kind,
        "notes": list(trained.vae.contract.notes),
        "n": n,
        "num_samples": num_samples,
        "seed": seed,
        **trained.vae.training_end,
    }


def _defined(
    trained: TrainedRun,
    x: Tensor | SparseRows,
    rows: Int[Tensor, " rows"],
    what: str,
    report: Callable[[str], None],
) -> Int[Tensor, " defined"]:
    parts = (x[part].to(trained.device) for part in rows.split(ROWS_FROM_DISK))
    with FastFunctions():
        found = np.concatenate([defined_rows(trained.vae, part) for part in parts])
    if not found.all():
        bad = undefined_data(rows[~found].numpy(), len(rows), what)
        if not found.any():
            raise ValueError(f"{bad}.")
        report(f"left out: {bad}.")
    return rows[found]
