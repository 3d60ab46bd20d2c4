"""The stored files of a run, as far as they can be read, and what is missing of them."""

import csv
import hashlib
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.html_report.findings import Finding, findings
from analysis.html_report.next_command import options_of_diagnosis
from analysis.stored_diagnosis import UNDIAGNOSED
from pyro_vae.configuration import read_yaml
from pyro_vae.configuration.model_files import DEFAULT_MODEL, is_shipped
from pyro_vae.data import DataContract
from pyro_vae.data.digests import path_digest
from pyro_vae.data.nouns import use_noun
from pyro_vae.json_values import to_jsonable
from pyro_vae.runs.run_directory import RunDirectory, stored_contract
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.loop import default_epochs

if TYPE_CHECKING:
    import xarray

# What metrics.json holds in this version; what an older one lacks is named.
METRICS = (
    *("n", "elbo", "reconstruction", "kl", "log_evidence", "log_evidence_se", "bits_per_dim"),
    *("active_units", "khat_share_above", "baseline", "above_baseline", "above_baseline_se"),
    *("verdicts", "scale", "notes", "best_validation_epoch", "steps", "seed", "git_commit"),
)
NO_EVALUATION = "The evaluation of the test split: there is no metrics.json."
# Of runs of an earlier version, which did not record it.
_LABELS = {"conditional": "always", "semi_supervised": "training"}


@dataclass(frozen=True)
class Missing:
    """Something that a page should have and does not.

    Args:
        what: What is missing and why, as sentences.
        command: The command that makes it; None if there is none.
    """

    what: str
    command: str | None = None


@dataclass(frozen=True)
class StoredRun:
    """The files of a run directory.

    Args:
        directory: The run directory.
        configuration: config.yaml; empty if it cannot be read.
        metrics: metrics.json; None without an evaluation.
        diagnosis: diagnosis/diagnosis.json; None without a diagnosis.
        history: metrics.csv, a record for each epoch.
        contract: The description of the data; None if the checkpoint has none.
        missing: What is missing.
        cut_short: Whether training was stopped before its planned end.
    """

    directory: RunDirectory
    configuration: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    diagnosis: Mapping[str, Any] | None
    history: tuple[Mapping[str, float | int | None], ...]
    contract: DataContract | None
    missing: tuple[Missing, ...]
    cut_short: bool = False

    @classmethod
    def read(cls, path: Path, *, check_data: bool = True) -> "StoredRun":
        """Read what is there.

        Args:
            path: The run directory.
            check_data: Whether to compare the file of the data with that of training.

        Raises:
            ValueError: If there is no run.
        """
        directory = RunDirectory(path)
        if not directory.holds_a_run:
            raise ValueError(
                f"no run at {path}: a run directory holds config.yaml and checkpoint.pt."
            )
        reader = _Reader(directory)
        configuration = reader.configuration()
        state, contract = reader.checkpoint(configuration)
        metrics = reader.metrics(configuration, state)
        diagnosis = reader.diagnosis(configuration, metrics or {})
        reader.training(configuration, state)
        if check_data and contract is not None:
            reader.data(configuration, contract)
        history = _records(directory.records) or tuple(state.get("history", ()))
        missing = tuple(reader.missing)
        stored = directory, configuration, metrics, diagnosis, history, contract, missing
        return cls(*stored, reader.cut_short)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.path.resolve().name

    @property
    def model(self) -> str:
        """The option `--model`: `vae`, a program, or a file."""
        return str(self.configuration.get("model", DEFAULT_MODEL))

    @property
    def noun(self) -> str:
        """What an example is called."""
        return "datum" if self.contract is None else self.contract.noun

    @property
    def nouns(self) -> str:
        """The plural of `noun`."""
        return "data" if self.noun == "datum" else f"{self.noun}s"

    def findings(self) -> list[Finding]:
        """What its stored numbers say about it."""
        with use_noun(self.noun):
            return findings(
                self.metrics,
                self.diagnosis,
                run=str(self.directory.path),
                trust_model_file=not is_shipped(self.model),
                cut_short=self.cut_short,
            )

    @property
    def options_of_diagnosis(self) -> list[str]:
        """The options of its diagnosis that are not the defaults, as words."""
        options = options_of_diagnosis(self.diagnosis or {}, self.metrics or {})
        return [word for pair in options.items() for word in pair]

    def inference_data(self) -> "xarray.DataTree | None":
        """The content of inference_data.nc, in memory; None if it cannot be read."""
        import xarray

        try:
            with xarray.open_datatree(self.directory.inference_data, engine="h5netcdf") as tree:
                return tree.load()
        except (OSError, ValueError, KeyError):
            return None

    def command(self, script: str, *words: str) -> str:
        """A command about this run, which trusts its model file if it has its own."""
        return command(self.directory, self.configuration, script, *words)


def command(
    directory: RunDirectory, configuration: Mapping[str, Any], script: str, *words: str
) -> str:
    """A command about a run; `RUN` in the words stands for its path."""
    trust = [] if is_shipped(configuration.get("model", DEFAULT_MODEL)) else ["--trust-model-file"]
    typed = [str(directory.path) if word == "RUN" else word for word in words]
    return shlex.join(["python", f"scripts/{script}.py", *typed, *trust])


@dataclass
class _Reader:
    directory: RunDirectory

    def __post_init__(self) -> None:
        self.missing: list[Missing] = []
        self.cut_short = False

    def configuration(self) -> Mapping[str, Any]:
        try:
            return read_yaml(self.directory.config)
        except ValueError as error:
            self.missing.append(Missing(f"The options of the run: {error}"))
            return {}

    def checkpoint(
        self, configuration: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], DataContract | None]:
        """The state of the training, and the description of its data."""
        try:
            state = load_checkpoint(self.directory.checkpoint)
        except ValueError as error:
            words = ("--config", str(self.directory.config), "--out", "RUN", "--overwrite")
            again = self._command(configuration, "svi_train", *words)
            self.missing.append(Missing(f"The trained model: {error}", again))
            return {}, None
        try:
            return state, stored_contract(state, self.directory.path)
        except ValueError as error:
            self.missing.append(Missing(f"The description of the data: {error}"))
            return state, None

    def metrics(
        self, configuration: Mapping[str, Any], state: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """The evaluation after training."""
        resume = ("--resume", "--out", "RUN")
        evaluate = self._command(configuration, "svi_train", *resume, "--evaluate", "quick")
        metrics = self._json(self.directory.metrics, "The evaluation", evaluate)
        if metrics is None:
            if not self.directory.metrics.exists():
                self.missing.append(Missing(NO_EVALUATION, evaluate))
            return None
        # metrics.json is removed first: an evaluation that is up to date is not repeated.
        again = f"rm {shlex.quote(str(self.directory.metrics))} && "
        again += self._command(configuration, "svi_train", *resume)
        if lacking := [name for name in METRICS if name not in metrics]:
            self.missing.append(
                Missing(
                    "Of the evaluation: metrics.json was written by an earlier version and has no "
                    f"{', '.join(lacking)}.",
                    again,
                )
            )
        steps, trained = metrics.get("steps"), state.get("step")
        if None not in (steps, trained) and steps != trained:
            self.missing.append(
                Missing(
                    f"An evaluation of the present model: metrics.json is of step {steps}, the "
                    f"checkpoint of step {trained}.",
                    again,
                )
            )
        return metrics

    def diagnosis(
        self, configuration: Mapping[str, Any], metrics: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """The diagnosis, whose sections are marked as stale if the checkpoint has changed."""
        diagnose = self._command(configuration, "diagnose", "RUN")
        path = self.directory.diagnosis / "diagnosis.json"
        diagnosis = self._json(path, "The diagnosis", diagnose)
        if diagnosis is None:
            if path.exists():
                return None
            model = configuration.get("model", DEFAULT_MODEL)
            labels = metrics.get("labels", _LABELS.get(model, "none"))
            if reason := UNDIAGNOSED.get(labels):
                self.missing.append(
                    Missing(
                        f"The checks of a diagnosis, which are not defined for {model}: {reason}. "
                        "Its own scores and figures are below."
                    )
                )
            else:
                what = "The checks of model, guide and code: no diagnosis was made."
                self.missing.append(Missing(what, diagnose))
            return None
        if self.directory.checkpoint.is_file():
            now = hashlib.sha256(self.directory.checkpoint.read_bytes()).hexdigest()
            for section in diagnosis.values():
                then = (section.get("of") or {}) if isinstance(section, dict) else {}
                if then.get("checkpoint_sha256", now) != now:
                    section["stale"] = section.get("stale") or "made for another checkpoint"
        return diagnosis

    def training(self, configuration: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Whether training has reached its planned end."""
        rows, size, step = state.get("train_size"), state.get("batch_size"), state.get("step")
        if not (rows and size) or step is None or state.get("stopped_early"):
            return
        per_epoch = math.ceil(rows / size)
        epochs = configuration.get("epochs") or default_epochs(rows, per_epoch)
        steps = min(epochs * per_epoch, configuration.get("max_steps") or math.inf)
        if step < steps:
            self.cut_short = True
            # The same command makes the evaluation.
            self.missing = [each for each in self.missing if each.what != NO_EVALUATION]
            evaluated = self.directory.metrics.exists()
            self.missing.append(
                Missing(
                    f"The rest of training{'' if evaluated else ', and the evaluation'}: it was "
                    f"cut short at step {step:,} of {steps:,}.",
                    self._command(configuration, "svi_train", "--resume", "--out", "RUN"),
                )
            )

    def data(self, configuration: Mapping[str, Any], contract: DataContract) -> None:
        """Whether the file of the data is that of training."""
        if not contract.source:
            return
        source = Path(contract.source)
        if not source.exists():
            self.missing.append(
                Missing(
                    f"The data: {source} does not exist any more. The numbers below are of the "
                    "data as they were; restore the file to compute others."
                )
            )
        elif contract.source_digest and path_digest(source) != contract.source_digest:
            words = ("--config", str(self.directory.config), "--out", f"{self.directory.path}-new")
            self.missing.append(
                Missing(
                    f"The data of training: {source} has changed since. The numbers below are of "
                    "the data as they were; restore the file, or train on the new data.",
                    self._command(configuration, "svi_train", *words),
                )
            )

    def _json(self, path: Path, what: str, make: str) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            record = to_jsonable(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OSError, RecursionError):
            record = None
        if not isinstance(record, dict):
            remove = f"rm {shlex.quote(str(path))} && {make}"
            self.missing.append(Missing(f"{what}: {path.name} cannot be read.", remove))
            return None
        return record

    def _command(self, configuration: Mapping[str, Any], script: str, *words: str) -> str:
        return command(self.directory, configuration, script, *words)


def _records(path: Path) -> tuple[dict[str, float | int | None], ...]:
    """The rows of metrics.csv; none if it is missing or damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [*csv.DictReader(file)]
        return tuple(
            {name: _number(value) for name, value in row.items() if name is not None}
            for row in rows
        )
    except (OSError, ValueError, csv.Error):
        return ()


def _number(text: str | None) -> float | int | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
