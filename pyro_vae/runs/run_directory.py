"""Run directories: the files of one training run, written and read."""

import csv
import hashlib
import importlib.metadata
import io
import json
import logging
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule

from pyro_vae.configuration import Configuration, read_yaml
from pyro_vae.configuration.components import build_vae, to_yaml
from pyro_vae.configuration.model_files import DEFAULT_MODEL, is_shipped, model_file
from pyro_vae.configuration.parser import parse_stored, stored_arguments, stored_model
from pyro_vae.configuration.resume_plan import PLAN
from pyro_vae.data import DataContract, PreparedData
from pyro_vae.training.checkpoint import load_checkpoint, load_parameters, write_atomically
from pyro_vae.training.history import Record
from pyro_vae.training.loggers import LOGGERS
from pyro_vae.version import __version__

log = logging.getLogger(__name__)


class RunDirectory:
    """`runs/<name>/`: config.yaml, checkpoint.pt, metrics.csv, metrics.json, figures and results.

    `report` is the page that says whether to trust the model. `evaluation` holds the results of
    `scripts/evaluate.py`, with cached chunks in its folder `kept`; `diagnosis` those of
    `scripts/diagnose.py`; `codes` those of `scripts/encode.py`; `scores` those of
    `scripts/score.py`; `samples` those of `scripts/sample.py`; the folder of a logger's name, such
    as `tensorboard`, what it wrote.

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
        self.scores = self.path / "scores.csv"
        self.samples = self.path / "samples"
        self.log = self.path / "train.log"
        self.report = self.path / "report.html"
        self.model = self.path / "model.py"

    @classmethod
    def of_new_run(cls, configuration: Configuration) -> "RunDirectory":
        """The directory that a configuration asks for, or the next free one."""
        if configuration["out"] is not None:
            return cls(configuration["out"])
        data = Path(configuration["data"].get("path", configuration["data"]["name"])).stem
        model = configuration["model"]
        kind = configuration["prior"]["name"] if model == DEFAULT_MODEL else Path(model).stem
        return cls.unused(Path("runs"), f"{data}-{kind}-{configuration['seed']}")

    @classmethod
    def unused(cls, parent: Path, name: str) -> "RunDirectory":
        """The first of `name`, `name-2`, `name-3`, ... that does not exist."""
        counter = 1
        while (path := parent / (name if counter == 1 else f"{name}-{counter}")).exists():
            counter += 1
        return cls(path)

    @property
    def result_cache(self) -> Path:
        """The folder of the cached chunks of an evaluation."""
        return self.evaluation / "kept"

    @property
    def holds_a_run(self) -> bool:
        """Whether the directory holds a run."""
        return self.config.exists() or self.checkpoint.exists()

    def check_free(self, overwrite: bool) -> None:
        """Make sure that no run would be overwritten.

        Raises:
            ValueError: If the path is a file, or holds a run and `overwrite` is false.
        """
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f"{path} must be a directory, got a file.")
        if self.holds_a_run and not overwrite:
            raise ValueError(
                f"{self.path} holds a run already: --resume continues it, --overwrite deletes it, "
                "another --out keeps it."
            )

    def check_model(self, model: str, state: Mapping[str, Any]) -> None:
        """Check that a checkpoint was trained with this model file; warn of pyro_vae's own.

        Raises:
            ValueError: If it was another model file of the user.
        """
        if state.get("model_hash") == model_hash({"model": model}):
            return
        if not is_shipped(model):
            raise ValueError(
                f"{self.model} was changed after the run: its hash differs from the checkpoint's."
            )
        changed = Path(str(model_file(model).__file__)).name
        log.warning("%s has changed since %s was trained.", changed, self.path)

    def create(self, configuration: Configuration) -> Configuration:
        """Create the directory, delete an old run's files and write the configuration.

        A user's model file is copied into the directory.

        Returns:
            The configuration, which names the copy.
        """
        self.clear_evaluation()
        for old in (self.checkpoint, self.config, self.records, self.codes, self.scores, self.log):
            old.unlink(missing_ok=True)
        logs = (self.path / name for name in LOGGERS)
        for folder in (self.evaluation, self.diagnosis, self.samples, *logs):
            shutil.rmtree(folder, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_shipped(configuration["model"]):
            source = Path(configuration["model"])
            if source.resolve() != self.model.resolve():
                write_atomically(self.model, source.read_bytes())
            configuration = {**configuration, "model": str(self.model)}
        else:
            self.model.unlink(missing_ok=True)
        self._write_configuration(configuration)
        return configuration

    def plan(self) -> Configuration:
        """The plan in config.yaml."""
        stored = read_yaml(self.config)
        return {name: stored[name] for name in PLAN if name in stored}

    def write_plan(self, configuration: Configuration) -> None:
        """Update config.yaml if a resumed run has another plan."""
        plan = {name: configuration[name] for name in PLAN}
        if plan != self.plan():
            self._write_configuration({**read_yaml(self.config), **plan})

    def _write_configuration(self, configuration: Configuration) -> None:
        content = {"version": __version__, **configuration}
        write_atomically(self.config, to_yaml(content).encode())

    def clear_evaluation(self) -> None:
        """Delete the evaluation at the end of training."""
        for old in (self.metrics, self.inference_data, self.report):
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
        """Write metrics.json; undefined numbers are null, and NaN is an error."""
        write_atomically(
            self.metrics, (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode()
        )


def model_hash(configuration: Configuration) -> str:
    """The SHA-256 of the model file that a configuration names."""
    model = configuration["model"]
    path = model_file(model).__file__ if is_shipped(model) else model
    return hashlib.sha256(Path(str(path)).read_bytes()).hexdigest()


def load(path: str | Path, *, trust_model_file: bool = False) -> PyroModule:
    """Load the trained VAE of a run, in evaluation mode on the CPU.

    It has the attributes `configuration`, the options of the run, `contract`, the description of
    its data, and `training_end`: the number of "steps" that trained it, and whether it
    "stopped_early" because validation did not improve. Nothing in the run is executed: the
    configuration is limited to registered parts and their options, the checkpoint to tensors and
    plain values.

    Args:
        path: A run directory of `scripts/svi_train.py`.
        trust_model_file: Execute the model file stored in the run. It can do anything: read it
            first.

    Raises:
        ValueError: If there is no run, its configuration or checkpoint is damaged or of another
            model, or its own model file is not trusted or was changed after the run.
    """
    run = RunDirectory(path)
    if run.path.is_file():
        raise ValueError(f"RUN must be a run directory, got the file {path}.")
    if not run.holds_a_run:
        raise ValueError(f"no run at {path}: a run directory holds config.yaml and checkpoint.pt.")
    arguments = stored_arguments(run.path, trust_model_file=trust_model_file)
    state = load_checkpoint(run.checkpoint)
    _check_description(run.checkpoint, state)
    # Before the model file is executed.
    run.check_model(stored_model(arguments), state)
    configuration = parse_stored(arguments)
    contract = stored_contract(state, run.path)
    # The initial values are overwritten: drawing them does not move the global random stream.
    with torch.random.fork_rng(devices=[]):
        vae = build_vae(
            configuration,
            state["event_shape"],
            train_size=state["train_size"],
            train_labels=state.get("labels"),
            levels=state.get("levels"),
            units=contract.units,
        )
    load_parameters(vae, state["program"])
    if state["best"] is not None:
        load_parameters(vae, state["best"])
    vae.eval()
    vae.configuration = configuration  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    vae.contract = contract  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    ended = {"steps": state["step"], "stopped_early": state.get("stopped_early")}
    vae.training_end = ended  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    return vae


def stored_contract(state: Mapping[str, Any], path: Path) -> DataContract:
    """The contract of a run's data, from its checkpoint.

    Raises:
        ValueError: If an earlier version wrote the checkpoint, or it is damaged.
    """
    if "data" not in state:
        raise ValueError(
            f"{path} was written by an earlier version, without a description of its data: train "
            "it again."
        )
    return DataContract.from_plain(state["data"])


def _check_description(path: Path, state: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint is that of a run, and not just of a training."""
    needed = ("event_shape", "train_size", "model_hash", "best")
    if missing := [name for name in needed if name not in state]:
        raise ValueError(f"{path} is not the checkpoint of a run: it has no {missing[0]}.")


def provenance(libraries: Sequence[str] = ()) -> dict[str, str | None]:
    """The versions of pyro_vae, torch, Pyro and other libraries, and the commit of this checkout.

    The commit ends in "-dirty" if a tracked file has changed since, and is None outside of a
    checkout, such as in an environment in the folder of another one. Call this when a program
    starts: files may change while it runs.
    """
    root = Path(__file__).parents[2]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(root), *describe]
    commit = None
    with suppress(OSError, subprocess.TimeoutExpired):
        if (root / ".git").exists():
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=10, check=False
            )
            commit = answer.stdout.strip() if answer.returncode == 0 else None
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {
        "pyro_vae": __version__,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "git_commit": commit,
        **versions,
    }


def run_header(configuration: Configuration, data: PreparedData, split: str) -> dict[str, Any]:
    """The data and the model that a record of numbers is about."""
    return {
        "data": data.dataset.name,
        "binarisation": data.binarisation,
        "split": split,
        **{
            part: configuration[part]["name"] if part in configuration else None
            for part in ("prior", "likelihood", "posterior")
        },
        "latent_dim": configuration["latent_dim"],
    }
