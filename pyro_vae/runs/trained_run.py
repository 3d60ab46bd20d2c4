"""A trained run with its data, as the scripts evaluate, diagnose and encode it."""

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Int, Real
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from pyro_vae.configuration import Configuration
from pyro_vae.configuration.arguments import normalize, override
from pyro_vae.configuration.components import build_vae_for, load_data, prepare_data
from pyro_vae.configuration.parser import parse_stored, stored_arguments
from pyro_vae.data import READERS, DataContract, PreparedData, allow_missing, default_root
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence.evaluation import row_order
from pyro_vae.labelled_rows import WithLabels
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import as_floats
from pyro_vae.runs.run_directory import RunDirectory, load, run_header, stored_contract
from pyro_vae.training.checkpoint import load_checkpoint

# Training data that are read from disk, and elements of sparse ones; others are taken whole.
ROWS_FROM_DISK = 10_000
SPARSE_ELEMENTS = 2**25


@dataclass(frozen=True)
class TrainedRun:
    """A trained run and a split of its data, or of other data.

    Args:
        directory: The run directory.
        vae: The trained program, on the device, with `configuration` and `contract`.
        data: The data.
        split: "train", "validation" or "test".
        device: The device to compute on.
        checkpoint_hash: The SHA-256 of the checkpoint.
        prefix: Prefix of the files written about other data than the run's own, from their name.
    """

    directory: RunDirectory
    vae: Any
    data: PreparedData
    split: str
    device: torch.device
    checkpoint_hash: str
    prefix: str = ""

    @classmethod
    def open(
        cls,
        path: Path,
        split: str,
        *,
        device: torch.device,
        data_root: Path | None = None,
        trust_model_file: bool = False,
        words: Sequence[str] = (),
    ) -> "TrainedRun":
        """Read a run and its data, and check that they belong together.

        Args:
            path: The run directory.
            split: "train", "validation" or "test".
            device: The device to compute on.
            data_root: The folder of data sets; None for the default.
            trust_model_file: As in `load`.
            words: The options that name other data, see `other_data`; empty for the run's own.

        Raises:
            ValueError: If there is no run, it is damaged, or its data are missing or have changed.
        """
        directory = RunDirectory(path)
        vae = load(directory.path, trust_model_file=trust_model_file)
        checkpoint = hashlib.sha256(directory.checkpoint.read_bytes()).hexdigest()
        if words:
            data = other_data(
                directory, words, data_root=data_root, trust_model_file=trust_model_file
            )
        else:
            data = run_data(vae, path, data_root)
        if labels_of_program(vae) == "always":
            vae = WithLabels(vae, data.fixed(split)[:1], _labels(vae, data, split))
        prefix = f"{file_name(data.dataset.name)}-" if words else ""
        return cls(directory, vae.to(device), data, split, device, checkpoint, prefix)

    @cached_property
    def x(self) -> Real[Tensor, " n *event"] | SparseRows:
        """The split on the CPU, in the likelihood's support; sparse if the data are.

        Raises:
            ValueError: If the split is empty.
        """
        if len(getattr(self.data.dataset, self.split)) == 0:
            raise ValueError(f"the {self.split} split of {self.data.dataset.name} holds no data.")
        x = self.data.fixed(self.split)
        return self.joined(x[:], self.split) if isinstance(self.vae, WithLabels) else x

    @cached_property
    def train(self) -> Real[Tensor, " n *event"]:
        """The training data, see `training_rows`."""
        return training_rows(self.data)

    def joined(self, x: Tensor, split: str, start: int = 0) -> Tensor:
        """Rows of a split, from `start` on, with their labels if the program needs them.

        Raises:
            ValueError: If it does, and there are none.
        """
        if not isinstance(self.vae, WithLabels):
            return x
        labels = _labels(self.vae.program, self.data, split)
        return self.vae.pack(as_floats(x), labels[start : start + len(x)])

    @cached_property
    def order(self) -> Int[Tensor, " n"]:
        """The rows of the split in a fixed random order, see `row_order`."""
        return row_order(len(self.x))

    def rows(self, number: int | None) -> Int[Tensor, " rows"]:
        """The first `number` rows in the fixed order, sorted; all if None."""
        return self.order[:number].sort().values

    def batch(self, rows: Int[Tensor, " rows"]) -> Real[Tensor, " rows *event"]:
        """Rows of the split as floats on the device."""
        return as_floats(self.x[rows].to(self.device))

    def untrained(self) -> Any:
        """The program as it was initialized; the global random streams do not move."""
        state = get_rng_state()
        try:
            pyro.set_rng_seed(self.vae.configuration["seed"])
            return build_vae_for(self.vae.configuration, self.data).to(self.device)
        finally:
            set_rng_state(state)

    def header(self) -> dict[str, Any]:
        """The origin of a record of numbers: `run_header`, with device and checkpoint."""
        split = self.split if self.data.dataset.is_split else "new"
        return {
            **run_header(self.vae.configuration, self.data, split),
            "device": self.device.type,
            "checkpoint_sha256": self.checkpoint_hash,
        }


def run_data(vae: Any, path: Path, data_root: Path | None = None) -> PreparedData:
    """The data of a run, which must be the same as in training; changed labels are only reported.

    Args:
        vae: The trained program, with `configuration` and `contract`.
        path: The run directory.
        data_root: The folder of data sets; None for the default.

    Raises:
        ValueError: If they are missing, or have changed since training.
    """
    contract = vae.contract
    configuration = with_data_path(vae.configuration, contract, path)
    data = prepare_data(configuration, load_data(configuration, data_root or default_root()))
    contract.check(data, trained=str(path))
    if note := contract.check_labels(data.dataset):
        sys.stderr.write(f"{note}\n")
    return data


def with_data_path(
    configuration: Configuration, contract: DataContract, path: Path
) -> Configuration:
    """A run's configuration, with the path of its data made absolute if it was relative.

    Args:
        configuration: The run's configuration.
        contract: The contract of its data.
        path: The run directory, for the message.

    Raises:
        ValueError: If the data are missing.
    """
    options = configuration["data"]
    if "path" not in options or not contract.source:
        return configuration
    source = Path(contract.source)
    if not source.exists() and not Path(options["path"]).exists():
        raise ValueError(
            f"{path} was trained on {source}, which is missing: restore it, or give new data with "
            "--data FILE."
        )
    if not source.exists() or Path(options["path"]).is_absolute():
        return configuration
    return {**configuration, "data": {**options, "path": str(source)}}


def other_data(
    directory: RunDirectory,
    words: Sequence[str],
    *,
    data_root: Path | None = None,
    trust_model_file: bool = False,
    split: bool = False,
) -> PreparedData:
    """Other data, prepared like a run's own: same support, same binarisation.

    A file or folder is not split, its columns are matched by name, and labels are not needed. A
    named data set keeps its splits.

    Args:
        directory: The run directory.
        words: Options of `scripts/svi_train.py`: `--data mnist`, `--data x.npy`, `--data.size 32`.
            Without a name they are options of the run's own data.
        data_root: The folder of data sets; None for the default.
        trust_model_file: As in `load`.
        split: Whether to split a file or folder as for training.

    Raises:
        ValueError: If an option is unknown, the data are missing, or they differ from the run's in
            shape, names, levels or support.
    """
    stored = stored_arguments(directory.path, trust_model_file=trust_model_file)
    configuration = parse_stored(override(stored, list(normalize(words))))
    contract = stored_contract(load_checkpoint(directory.checkpoint), directory.path)
    options = dict(configuration["data"])
    reader = READERS.get(options.pop("name"))
    if reader is not None:
        asked = inspect.signature(reader).parameters
        given = {name: value for name, value in options.items() if name in asked}
        if "columns" in asked:
            given["columns"] = contract.event_names
        with allow_missing(contract.allows_missing):
            rows = reader(**given)
        # Data may lack the labels that the run's have, but not those that are asked for.
        asked_for = given.get("label") if "--data.label" in names_of(words) else None
        if asked_for is not None and rows.labels is None:
            raise ValueError(f"{rows.name} has no column {asked_for!r}, which --data.label names.")
        return contract.new_data(rows, split=split)
    data = prepare_data(configuration, load_data(configuration, data_root or default_root()))
    contract.check_format(data.dataset, trained=str(directory.path))
    return data


def training_rows(data: PreparedData) -> Real[Tensor, " n *event"]:
    """The training data in the likelihood's support; only the first ones if sparse or on disk."""
    train = data.train if isinstance(data.train, MemoryMapped) else data.fixed("train")
    if isinstance(train, Tensor):
        return train
    if isinstance(train, SparseRows):
        return train[: max(1, min(ROWS_FROM_DISK, SPARSE_ELEMENTS // train.shape[1]))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return data.transform(train[:ROWS_FROM_DISK])


def _labels(program: Any, data: PreparedData, split: str) -> Tensor:
    labels = data.dataset.labels.get(split)
    if labels is None:
        raise ValueError(
            f"{type(program).__name__} needs labels with its data, and {data.dataset.name} has "
            "none."
        )
    return labels


def labels_of(data: PreparedData, split: str, rows: Tensor | slice) -> np.ndarray | None:
    """Labels, factors or a numeric target of rows of a split; None if there are none."""
    labels = data.dataset.labels.get(split)
    return None if labels is None else labels[rows].numpy()


def names_of(words: Sequence[str]) -> set[str]:
    """The names of the options among words.

    >>> sorted(names_of(["--data", "x.csv", "--data.label=kind"]))
    ['--data', '--data.label']
    """
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def file_name(name: str) -> str:
    """A name of data as part of a file name.

    >>> file_name("my data/2")
    'my_data_2'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
