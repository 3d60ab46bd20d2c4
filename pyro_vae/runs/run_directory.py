"""A run directory: what one training leaves behind, and how it is read again."""

import csv
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.nn import PyroModule

from pyro_vae.cli.command_line import parse_stored, stored_arguments, stored_model
from pyro_vae.data import DataContract
from pyro_vae.runs.configuration import build_vae, to_yaml
from pyro_vae.runs.model_files import DEFAULT_MODEL
from pyro_vae.runs.resume_plan import PLAN
from pyro_vae.runs.strict_yaml import Configuration, read_yaml
from pyro_vae.training.checkpoint import load_checkpoint, load_parameters, write_atomically
from pyro_vae.training.history import Record

log = logging.getLogger(__name__)


class RunDirectory:
    """`runs/<name>/`: config.yaml, checkpoint.pt, metrics.csv, metrics.json, and what is drawn.

    `evaluation` holds what `scripts/evaluate.py` found out, and in its folder `kept` the chunks
    from which a stopped evaluation goes on. `diagnosis` holds what `scripts/diagnose.py` found out, and
    `codes` those of data that `scripts/encode.py` wrote.

    Args:
        path: The directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoint = self.path / "checkpoint.pt"
        self.records = self.path / "metrics.csv"
        self.metrics = self.path / "metrics.json"
        self.inference_data = self.path / "inference_data.nc"
        self.figures = self.path / "figures"
        self.evaluation = self.path / "evaluation"
        self.diagnosis = self.path / "diagnosis"
        self.codes = self.path / "codes.npz"
        self.log = self.path / "train.log"
        self.model = self.path / "model.py"

    @classmethod
    def unused(cls, parent: Path, name: str) -> "RunDirectory":
        """The first of `name`, `name-2`, `name-3`, ... that is not there yet."""
        counter = 1
        while (path := parent / (name if counter == 1 else f"{name}-{counter}")).exists():
            counter += 1
        return cls(path)

    @property
    def kept(self) -> Path:
        """The folder of an evaluation's chunks."""
        return self.evaluation / "kept"

    @property
    def holds_a_run(self) -> bool:
        """Whether there is something that a new run would overwrite."""
        return self.config.exists() or self.checkpoint.exists()

    def check_free(self, overwrite: bool) -> None:
        """Make sure that nothing would be lost.

        Raises:
            ValueError: If the path is a file, or holds a run and `overwrite` is false.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} must be a directory, got a file.")
        if self.holds_a_run and not overwrite:
            raise ValueError(
                f"{self.path} holds a run already: --resume goes on with it, --overwrite deletes it, "
                "another --out keeps it."
            )

    def check_plain(self) -> None:
        """Make sure that writing here writes nowhere else: somebody's directory may hold links.

        Raises:
            ValueError: If an entry is a link, or neither a file nor one of the run's own folders.
        """
        written = {entry.name for entry in vars(self).values()} - {self.path.name}
        entries = [
            entry
            for entry in (self.path.iterdir() if self.path.is_dir() else ())
            # Files are written under temporary names that begin and end otherwise.
            if any(name in entry.name for name in written)
        ]
        folders = (self.figures, self.evaluation, self.kept, self.diagnosis)
        for folder in folders:
            # Nothing is looked for behind a link: it is among the entries, and refused below.
            if folder.is_dir() and not (folder.is_symlink() or folder.parent.is_symlink()):
                entries += folder.iterdir()
        for entry in entries:
            if entry.is_symlink() or not (
                entry.is_file() or (entry in folders and entry.is_dir())
            ):
                raise ValueError(
                    f"{entry} must be a plain file: a link or another kind of entry in a run directory "
                    "could lead out of it."
                )

    def check_model(self, model: str, state: Mapping[str, Any]) -> None:
        """Make sure that a checkpoint was trained with this model file.

        Args:
            model: The configuration's `model`.
            state: The checkpoint.

        Raises:
            ValueError: If it was another of the user's own. If it was another pyro_vae/model.py, there
                is a warning.
        """
        if state.get("model_hash") == model_hash({"model": model}):
            return
        if model != DEFAULT_MODEL:
            raise ValueError(
                f"{self.model} was changed after the run: its hash is not the checkpoint's."
            )
        log.warning("pyro_vae/model.py was changed since %s was trained.", self.path)

    def create(self, configuration: Configuration) -> Configuration:
        """Make the directory, delete an old run's files, write the configuration; return it.

        A model file of the user's own is copied beside it, and the configuration names the copy.

        Raises:
            ValueError: As `check_plain`.
        """
        self.check_plain()
        self.clear_evaluation()
        for old in (self.checkpoint, self.config, self.records, self.codes, self.log):
            old.unlink(missing_ok=True)
        for folder in (self.evaluation, self.diagnosis):
            shutil.rmtree(folder, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        if configuration["model"] != DEFAULT_MODEL:
            source = Path(configuration["model"])
            if source.resolve() != self.model.resolve():
                write_atomically(self.model, source.read_bytes())
            configuration = {**configuration, "model": str(self.model)}
        else:
            self.model.unlink(missing_ok=True)
        write_atomically(self.config, to_yaml(configuration).encode())
        return configuration

    def plan(self) -> Configuration:
        """How long the run trains, where, and what it does afterwards, as config.yaml says."""
        stored = read_yaml(self.config)
        return {name: stored[name] for name in PLAN if name in stored}

    def write_plan(self, configuration: Configuration) -> None:
        """Write config.yaml anew if a resumed run has another plan."""
        plan = {name: configuration[name] for name in PLAN}
        if plan != self.plan():
            write_atomically(self.config, to_yaml({**read_yaml(self.config), **plan}).encode())

    def clear_evaluation(self) -> None:
        """Delete what an evaluation at the end of training leaves."""
        for old in (self.metrics, self.inference_data):
            old.unlink(missing_ok=True)
        shutil.rmtree(self.figures, ignore_errors=True)

    def write_records(self, history: list[Record]) -> None:
        """Write metrics.csv, a row an epoch."""
        names = list(dict.fromkeys(name for record in history for name in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_atomically(self.records, text.getvalue().encode())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json; what is not defined is null, and NaN is an error."""
        write_atomically(
            self.metrics, (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode()
        )


def model_hash(configuration: Configuration) -> str:
    """The SHA-256 of the model file that a configuration names."""
    import pyro_vae.model

    path = (
        pyro_vae.model.__file__
        if configuration["model"] == DEFAULT_MODEL
        else configuration["model"]
    )
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def load(path: str | Path, *, trust_model_file: bool = False) -> PyroModule:
    """The trained VAE of a run, in evaluation mode on the CPU.

    Beside it are `vae.configuration` and `vae.contract`, what its data were.

    The run may be somebody else's: nothing in it is executed. Its configuration is limited to
    registered parts and their options, its checkpoint to tensors and plain values.

    Args:
        path: A run directory, as `scripts/svi_train.py` leaves it.
        trust_model_file: Run the model file that the run brings along. It is a program, and may do
            anything: read it first.

    Raises:
        ValueError: If there is no run, its configuration or checkpoint is damaged or another model's,
            or it has a model file of its own, which is not trusted or was changed after the run.
    """
    run = RunDirectory(path)
    if not run.holds_a_run:
        raise ValueError(f"no run at {path}: a run directory holds config.yaml and checkpoint.pt.")
    arguments = stored_arguments(run.path, trust_model_file=trust_model_file)
    state = load_checkpoint(run.checkpoint)
    _check_description(run.checkpoint, state)
    # Before the model file is run.
    run.check_model(stored_model(arguments), state)
    configuration = parse_stored(arguments)
    contract = stored_contract(state, run.path)
    # What is drawn to begin with is overwritten, and moves no stream of the caller's.
    with torch.random.fork_rng(devices=[]):
        vae = build_vae(
            configuration,
            state["event_shape"],
            train_size=state["train_size"],
            levels=state.get("levels"),
            units=contract.units,
        )
    load_parameters(vae, state["program"])
    if state["best"] is not None:
        load_parameters(vae, state["best"])
    vae.eval()
    vae.configuration = configuration  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    vae.contract = contract  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    return vae


def stored_contract(state: Mapping[str, Any], path: Path) -> DataContract:
    """What the data of a run were, from its checkpoint.

    Raises:
        ValueError: If an earlier version wrote the checkpoint, or it is damaged.
    """
    if "data" not in state:
        raise ValueError(
            f"{path} was made by an earlier version, which did not keep what its data were: train it "
            "again."
        )
    return DataContract.from_plain(state["data"])


def _check_description(path: Path, state: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint says what it is of."""
    shape, size = state.get("event_shape"), state.get("train_size")
    if not (
        isinstance(shape, (list, tuple))
        and 1 <= len(shape) <= 8
        and all(type(length) is int and 1 <= length < 2**40 for length in shape)
        and type(size) is int
        and (state.get("levels") is None or type(state["levels"]) is int)
        and isinstance(state.get("model_hash"), str)
        and "best" in state
    ):
        raise ValueError(f"{path} is not the checkpoint of a run: it does not say of what data.")
