"""The training loop: epochs, validation, early stopping, and a state that resumes bit for bit."""

import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae.checks import check_choice
from pyro_vae.compilation import CompileMode
from pyro_vae.data import DataContract, PreparedData
from pyro_vae.data.nouns import noun
from pyro_vae.networks.layers import require_separable
from pyro_vae.notebooks import progress_bar
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.rng import check_device
from pyro_vae.training.aggressive import Aggressive
from pyro_vae.training.batch_loss import BatchLoss, Precision
from pyro_vae.training.checkpoint import load_training_state, save_checkpoint, training_state
from pyro_vae.training.history import Record, describe_record, describe_terms
from pyro_vae.training.loaders import Batches, make_loader
from pyro_vae.training.loggers import Logger, following
from pyro_vae.training.processes import Processes, on_enough_threads
from pyro_vae.training.schedules import (
    EarlyStopping,
    Keep,
    Schedule,
    default_epochs,
    default_patience,
    learning_rate_schedule,
)
from pyro_vae.training.step import AuxiliaryParameters, Step, Totals
from pyro_vae.training.validation import (
    UNIT_NATS,
    UnitCounts,
    Validation,
    collapse_alarm,
    remedies,
    share_scores,
)

log = logging.getLogger(__name__)

# The largest relative error of a compiled gradient: the compiler rounds in fewer places.
_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}
# Number of steps after which several processes agree on whether to stop.
_AGREEMENT = 10


class Training:
    """A training run: what a checkpoint stores, and how to continue from it.

    A training that is stopped and resumed ends with the parameters of an uninterrupted one, bit
    for bit on the same machine with the same number of threads, and compiled from the same step.

    Args:
        program: A VAE, or any module with `model(x)` and `guide(x)`, on its device.
        data: Data prepared for the program's likelihood.
        objective: The objective to maximise; the ELBO if None.
        epochs: The number of passes over the training split; None for 100, or
            with fewer than 1,000 training rows for as many as 4,000 steps take.
        max_steps: An upper limit on the number of steps.
        batch_size: The number of examples per step. An epoch's last batch may be smaller.
        lr: Adam's learning rate.
        lr_schedule: How it changes by epoch: "constant", "cosine" to zero, "exponential" to a
            hundredth, or "plateau" (halved after 10 epochs without a better score on validation
            data, which is the ELBO, or the reconstruction for the objective of that name).
        clip_norm: The largest norm of a gradient; a longer one is rescaled to it. None for no
            limit.
        early_stopping: Stop after this many epochs without a better score, and restore the
            parameters of the best epoch. "auto" is as many as make 1,000 steps with fewer than
            10,000 training rows, if the objective maximises the score. None to train to the end.
        keep: The parameters to keep: those of the epoch with the "best" score, or the "last".
            "auto" is "best" if the objective maximises the score: the ELBO, and not a weighted
            one.
        compile: How steps run: "off", by the program; "graph", by its graph, with the same bits;
            "on", compiled, and by the graph until another process has compiled it; "auto", by the
            graph, and compiled if the remaining steps save more time than compiling takes.
        aggressive_steps: Before each step of the model, train the guide alone until its bound
            stops improving, for at most this many steps (100 in the paper by He et al., 2019), so
            that it does not lag behind and collapse. Training continues as usual after the first
            epoch in which the mutual information of x and z on validation data did not increase. 0
            for never.
        precision: The type in which the networks' products are computed in training: "float32", or
            "bfloat16" by autocast, on a GPU or on a CPU with instructions for it. Parameters,
            densities and evaluation are float32 in both.
        processes: The processes that train together, each on its share of every batch; one if
            None.
        notes: Findings about the data, to be stored with the model; one line each.

    Raises:
        ValueError: If an option is out of its range, or the objective cannot serve the program.
    """

    def __init__(
        self,
        program: nn.Module,
        data: PreparedData,
        objective: Objective | None = None,
        *,
        epochs: int | None = None,
        max_steps: int | None = None,
        batch_size: int = 64,
        lr: float = 1e-3,
        lr_schedule: Schedule = "constant",
        clip_norm: float | None = None,
        early_stopping: int | Literal["auto"] | None = "auto",
        keep: Keep = "auto",
        compile: CompileMode = "auto",
        aggressive_steps: int = 0,
        precision: Precision = "float32",
        processes: Processes | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        _check_at_least("epochs", epochs, 0)
        _check_at_least("max_steps", max_steps, 0)
        _check_at_least("batch_size", batch_size, 1)
        if isinstance(early_stopping, str) and early_stopping != "auto":
            raise ValueError(
                f"early_stopping must be a number of epochs, auto or null, got {early_stopping!r}."
            )
        _check_at_least("early_stopping", None if early_stopping == "auto" else early_stopping, 1)
        _check_at_least("aggressive_steps", aggressive_steps, 0)
        for name, value in (("lr", lr), ("clip_norm", clip_norm)):
            number = isinstance(value, Real)
            if value is not None and not (number and 0 < value < math.inf):
                raise ValueError(f"{name} must be above 0 and finite, got {value!r}.")
        check_choice(Keep, keep=keep)
        check_choice(Precision, precision=precision)
        self.processes = processes or Processes()
        self.program, self.data = program, data
        self.notes = tuple(notes)
        check_device(program)
        self.device = next(program.parameters()).device
        self.objective: Objective = (ELBO() if objective is None else objective).to(self.device)
        rows = len(data.train)
        self.batch_size = min(batch_size, rows)
        self.steps_per_epoch = math.ceil(rows / self.batch_size)
        self.epochs = default_epochs(rows, self.steps_per_epoch) if epochs is None else epochs
        self.steps = self.epochs * self.steps_per_epoch
        if max_steps is not None:
            self.steps = min(self.steps, max_steps)
        if early_stopping == "auto":
            early_stopping = default_patience(rows, self.steps_per_epoch, keep, self.objective)
        best = early_stopping is not None or self.objective.maximises_score
        keeps_best = keep == "best" or (keep == "auto" and best)
        self.stopping = EarlyStopping(program, self.objective, early_stopping, keeps_best)
        self.lr_schedule: Schedule = lr_schedule
        self.batches = Batches(rows, self.batch_size, self.processes.rank, self.processes.size)
        order_seed = int(torch.randint(2**40, ()))
        self.loader = make_loader(data, self.batches, order_seed, self.device)
        self.loss = BatchLoss(
            program,
            self.objective,
            data.transform,
            self.loader,
            precision=precision,
            processes=self.processes,
        )
        self.loss.read_labels(data)
        self.loss.check(data.train[:2])
        self.optimizer_step = Step(
            self.loss,
            _with_gradient(program.named_parameters()),
            lr=lr,
            clip_norm=clip_norm,
            compile=compile,
            expected_steps=self._expected_steps,
            tolerance=_TOLERANCES[precision],
            modules=(program, self.objective, data.transform),
            form=lambda fetched, share, *y: str(share.of),
            processes=self.processes,
            auxiliary=AuxiliaryParameters(
                _with_gradient(self.objective.named_parameters("objective")),
                self.objective.own_lr,
                self.objective.own_betas,
            ),
        )
        self.schedule = learning_rate_schedule(
            lr_schedule, self.optimizer_step.optimizer, self.epochs
        )
        self.aggressive: Aggressive | None = None
        if aggressive_steps:
            self.aggressive = Aggressive(
                self.loss, data, self.optimizer_step, max_steps=aggressive_steps
            )
        if self.processes.size > 1:
            require_separable(program)
        self.step, self.seconds, self.threads = 0, 0.0, torch.get_num_threads()
        self.history: list[Record] = []
        self._units: UnitCounts | None = None
        self._validation = Validation(program, data, compile, epochs=self._expected_steps(""))

    @on_enough_threads
    def run(
        self,
        *,
        checkpoint: Path | None = None,
        describe: dict[str, Any] | None = None,
        checkpoint_seconds: float = 10.0,
        on_checkpoint: Callable[["Training"], None] | None = None,
        stop: Callable[[], bool] | None = None,
        progress: bool = False,
        loggers: Sequence[Logger] = (),
    ) -> list[Record]:
        """Train from the current state to the end, and return the records of all epochs.

        Args:
            checkpoint: The file for the state; None for none.
            describe: Plain values to store in the checkpoint beside the state.
            checkpoint_seconds: The time between checkpoints, which does not affect the result.
            on_checkpoint: Called after each checkpoint.
            stop: Training stops before the next step once this is true, with a checkpoint.
            progress: Whether to show a progress bar.
            loggers: What to write while training, see `pyro_vae.training.loggers`.

        Raises:
            NonFiniteError: After 20 consecutive steps without a finite loss and gradient. The last
                checkpoint is kept.
            LostProcessError: If another of several processes ends. The last checkpoint is kept.
            OSError: If a checkpoint cannot be written, or data on disk cannot be read any more;
                the previous checkpoint is kept.
        """
        saved = time.monotonic()

        def save() -> None:
            nonlocal saved
            if checkpoint is not None and self.processes.first:
                save_checkpoint(checkpoint, {**self.state_dict(), **(describe or {})})
                if on_checkpoint is not None:
                    on_checkpoint(self)
            saved = time.monotonic()

        save()
        self.processes.follow_first([*self.program.state_dict().values()])
        shown = progress and self.processes.first
        bar = progress_bar(shown, total=self.steps, initial=self.step, unit="step")
        first = True
        self.program.train()
        inner = nullcontext() if self.aggressive is None else closing(self.aggressive)
        logs = following(self, loggers)
        # Parameters belong to the module. Pyro's global store is left unchanged, so that a second
        # VAE in this process does not share them.
        with bar, closing(self.loader), inner, pyro.get_param_store().scope(), logs as log_epoch:
            while not self.ended and not self._should_stop(stop):
                started = time.perf_counter()
                # Validation costs a third of a small step, so only the first batch is validated.
                with pyro.validation_enabled(first):
                    self.take_step()
                first = False
                epoch_ended = self.step % self.steps_per_epoch == 0 or self.step == self.steps
                if epoch_ended and self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.seconds += time.perf_counter() - started
                bar.update()
                if epoch_ended:
                    self._end_epoch()
                    self._report_units()
                    log_epoch()
                    self._show(bar)
                elif self.device.type == "cpu" and self.step % 50 == 0:
                    self.loss.check_finite(self.totals, self.loader)
                    self._show(bar)
                if time.monotonic() - saved > checkpoint_seconds:
                    save()
            save()
        self.finish()
        return self.history

    def take_step(self) -> None:
        """Train on the next batch."""
        self.objective.set_progress(self.step / self.steps_per_epoch)
        fetched, share = self.loader.fetch(self.step), self.batches.share(self.step)
        y = self.loss.labels_of(self.step)
        self.loss.find_draws(fetched, share, *y)
        (self.aggressive or self.optimizer_step)(fetched, share, *y)
        self.step += 1

    def _end_epoch(self) -> None:
        self.loss.check_finite(self.totals, self.loader)
        epoch = math.ceil(self.step / self.steps_per_epoch)
        complete = self.step % self.steps_per_epoch == 0
        record: Record = {"epoch": epoch, "step": self.step}
        # If every step of the epoch was skipped, there is no mean.
        record |= self.totals.means()
        record |= {f"validation_{name}": value for name, value in self.validate().items()}
        record["active_units"] = self._units.active if self._units else None
        record["units_above_rate"] = self._units.above_rate if self._units else None
        record["lr"] = self.optimizer_step.optimizer.param_groups[0]["lr"]
        record["skipped"] = int(self.totals.skipped)
        record["seconds"] = self.seconds
        if self.aggressive is not None:
            record |= self.aggressive.end_epoch(complete=complete)
        if not self.history:
            for site, how in self.objective.kl_by_site.items():
                log.info("KL at site %r: %s.", site, how)
        self.history.append(record)
        if record["skipped"]:
            log.warning(
                "epoch %d: skipped %d steps without a finite gradient.", epoch, record["skipped"]
            )
        log.info("%s", describe_record(record))
        self.stopping.update(epoch, record)
        if not complete:
            # `max_steps` ended training within an epoch. A longer run may continue it.
            return
        self.seconds = 0.0
        self.totals.start_epoch()
        self.optimizer_step.drop_tiny_moments()
        with warnings.catch_warnings():
            # torch expects a call of `optimizer.step()`, which a compiled step does not make.
            warnings.filterwarnings("ignore", "Detected call of", UserWarning)
            if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.schedule.step(self.stopping.score(record))
            else:
                self.schedule.step()
        if self.stopping.exhausted(epoch):
            score = "ELBO" if self.objective.score == "elbo" else self.objective.score
            log.info(
                "stopped early: no better validation %s since epoch %d.",
                score,
                self.stopping.best_epoch,
            )
            self.stopping.stopped = True

    def finish(self) -> None:
        """Switch to evaluation mode, after the last step with the best parameters if kept."""
        for step in self._steps if self.ended else ():
            step.compiled.close()
        if self.ended and self.stopping.best is not None:
            self.program.load_state_dict(self.stopping.best)
        self.program.eval()

    def validate(self) -> dict[str, float | None]:
        """ELBO, reconstruction and KL on the validation split, in nats: see `Validation`."""
        scores: dict[str, float | None] = {}
        if self.processes.first:
            with self.optimizer_step.compiled.fewer_threads():
                scores, self._units = self._validation()
        return share_scores(scores, self.processes, self.device)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, as tensors and plain values."""
        return training_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state, so that `run` continues from there; see `load_training_state`."""
        load_training_state(self, state)

    @property
    def ended(self) -> bool:
        """Whether training has reached its end."""
        return self.step >= self.steps or self.stopping.stopped

    @cached_property
    def contract(self) -> DataContract:
        """The description of the data that is stored in each checkpoint."""
        return DataContract.from_data(self.data, self.notes)

    @property
    def totals(self) -> Totals:
        """The totals of the current epoch."""
        return self.optimizer_step.totals

    @property
    def compiled(self) -> str:
        """How steps of a full batch run: compiled ("on"), as a graph, or eagerly ("off")."""
        found = {s.compiled.decisions.get(str(self.batch_size)) for s in self._steps}
        return "on" if "on" in found else "graph" if found & {"graph", "compiling"} else "off"

    @property
    def compile_seconds(self) -> float | None:
        """The time that compiling took; None if nothing was compiled."""
        return sum(step.compiled.seconds for step in self._steps) or None

    @property
    def seconds_per_epoch(self) -> float | None:
        """The median over epochs of the time spent in training steps alone."""
        seconds = [float(record["seconds"] or 0.0) for record in self.history]
        return statistics.median(seconds) if seconds else None

    @property
    def _steps(self) -> tuple[Step, ...]:
        return (self.optimizer_step, *(self.aggressive.steps if self.aggressive else ()))

    def _expected_steps(self, form: str) -> int:
        """The number of steps with batches of this many rows."""
        short = len(self.data.train) % self.batch_size != 0
        epochs = math.ceil(self.steps / self.steps_per_epoch)
        return epochs * (self.steps_per_epoch - short) if form == str(self.batch_size) else epochs

    def _should_stop(self, stop: Callable[[], bool] | None) -> bool:
        """Whether to stop now, which several processes must do at the same step."""
        requested = stop is not None and stop()
        if self.processes.size == 1:
            return requested
        return self.step % _AGREEMENT == 0 and self.processes.any(requested, device=self.device)[0]

    def _report_units(self) -> None:
        """Warn of posterior collapse, and log the number of units in use at the end."""
        if not self.processes.first:
            return
        units = self._units
        alarm = collapse_alarm(
            self.history,
            units.total if units else None,
            settled=self.objective.settled,
            ended=self.ended,
            remedies=lambda: remedies(
                self.program, self.objective, self.data.fixed("validation")[:1000].to(self.device)
            ),
        )
        if alarm is not None:
            log.warning("%s", alarm)
        elif self.ended and units:
            log.info("%d of %d units are in use.", units.active, units.total)
            if units.above_rate is not None:
                log.info("%d units have a KL above %g nats.", units.above_rate, UNIT_NATS)

    def _show(self, bar: tqdm) -> None:
        means = self.totals.means() or (self.history[-1] if self.history else {})
        if text := describe_terms(means):
            epochs = math.ceil(self.steps / self.steps_per_epoch)
            epoch = math.ceil(self.step / self.steps_per_epoch)
            bar.set_postfix_str(f"epoch {epoch}/{epochs}: {text} nats/{noun()}", refresh=False)


def _with_gradient(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _check_at_least(name: str, value: int | None, minimum: int) -> None:
    if value is not None and not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    if value is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
