"""The training loop: epochs, validation, early stopping, and a state that can be resumed to the bit."""

import copy
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae.compilation.work import CompileMode
from pyro_vae.data import DataContract, PreparedData
from pyro_vae.data.nouns import noun
from pyro_vae.log_densities import LogDensities, log_densities, without_density
from pyro_vae.networks.dense import FEW_ROWS
from pyro_vae.networks.normalisation import require_separable
from pyro_vae.objectives import ELBO, Objective, ObjectiveValue, Reconstruction, objective_value
from pyro_vae.rng import as_floats, check_device, evaluation_mode
from pyro_vae.training.aggressive import Aggressive
from pyro_vae.training.checkpoint import save_checkpoint
from pyro_vae.training.collapse_monitor import (
    UNIT_NATS,
    Units,
    collapse_alarm,
    remedies,
    units_in_use,
)
from pyro_vae.training.loaders import Batches, Share, feed
from pyro_vae.training.nan_diagnosis import NonFiniteError, explain
from pyro_vae.training.processes import Processes
from pyro_vae.training.schedules import Schedule, learning_rate_schedule
from pyro_vae.training.shared_noise import Draw, SharedNoise, draws_of
from pyro_vae.training.state_checks import check_parameters, check_state
from pyro_vae.training.step import PATIENCE, Loss, Own, Step
from pyro_vae.training.totals import Totals

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

# Whose parameters a training ends with: see `Training`.
Keep = Literal["auto", "best", "last"]

# By default: so many epochs, but with fewer than `FEW_ROWS` training rows as many as make so many steps.
EPOCHS = 100
LEAST_STEPS = 4000
# With fewer training rows than this, training stops by default after so many steps without a better score.
STOPPING_ROWS = 10_000
PATIENCE_STEPS = 1000

# How far a compiled gradient may be from the eager one: the compiler rounds in fewer places.
_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 5e-2}

# An epoch's record: plain numbers by name, densities in nats per datum.
Record = dict[str, float | int | None]

# The validation ELBO uses the same noise every epoch, so that epochs compare.
VALIDATION_SEED = 20_140_401
VALIDATION_BATCH = 1000
# Of long data fewer: so many elements at a time.
VALIDATION_ELEMENTS = 2**22

# Every so many steps several processes ask each other whether to stop.
_AGREEMENT = 10


class Training:
    """A training in progress: all that a checkpoint holds, and how to go on from there.

    Whenever it is stopped and resumed, parameters end as if it had never been stopped, bit for bit
    on the same machine with the same number of threads: the order of the data is a function of
    `order_seed` and the epoch, and the state of every random stream is in the checkpoint.

    Args:
        program: A VAE, or any module with `model(x)` and `guide(x)`, on its device.
        data: Data prepared for the program's likelihood.
        objective: What is maximised; the ELBO if None.
        epochs: The number of passes over the training split; None for 100, or for as many as make 4,000
            steps with fewer than 1,000 training rows.
        max_steps: A bound on the number of steps, if fewer.
        batch_size: The number of data a step. An epoch's last batch may be smaller.
        lr: Adam's learning rate.
        lr_schedule: How it changes by epoch: "constant", "cosine" to zero, "exponential" to a
            hundredth, or "plateau" (halved after 10 epochs without a better score on validation data:
            the ELBO, or for the objective `reconstruction` that).
        clip_norm: The largest norm of a gradient; a longer one is shortened to it. None for no limit.
        early_stopping: Stop after so many epochs without a better score, and go back to the best
            epoch's parameters. "auto" is as many as make 1,000 steps for fewer than 10,000 training rows,
            if the objective maximises the score. None to train to the end.
        keep: The parameters that are kept: those of the epoch with the "best" score, or the "last". "auto"
            is "best" if the objective maximises the score: the ELBO, and not a weighted one.
        compile: Whether the step is compiled: "on", "off", or "auto" where the work that is left
            pays for the compiler.
        aggressive_steps: Before each step of the model, train the guide alone until its bound stops
            improving, for at most so many steps (100 in the paper by He et al., 2019), so that it does
            not lag behind and collapse. After the first epoch that the mutual information of x and z
            on validation data did not climb in, training goes on as usual. 0 for never.
        precision: In what the networks' products are computed while training: "float32", or
            "bfloat16" by autocast. Parameters, densities and evaluation are float32 in both.
        processes: Those that train together, each on its share of every batch; one alone if None.
        notes: What was found in the data, to be kept with the model; one line each.

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
        _at_least("epochs", epochs, 0)
        _at_least("max_steps", max_steps, 0)
        _at_least("batch_size", batch_size, 1)
        if isinstance(early_stopping, str) and early_stopping != "auto":
            raise ValueError(
                f"early_stopping must be a number of epochs, auto or null, got {early_stopping!r}."
            )
        _at_least("early_stopping", None if early_stopping == "auto" else early_stopping, 1)
        if keep not in get_args(Keep):
            raise ValueError(f"keep must be one of {', '.join(get_args(Keep))}, got {keep!r}.")
        _at_least("aggressive_steps", aggressive_steps, 0)
        for name, value in (("lr", lr), ("clip_norm", clip_norm)):
            number = isinstance(value, Real)
            if value is not None and not (number and 0 < value < math.inf):
                raise ValueError(f"{name} must be above 0 and finite, got {value!r}.")
        if precision not in get_args(Precision):
            raise ValueError(
                f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}."
            )
        self.processes = processes or Processes()
        self.program = program
        self.data = data
        self.notes = tuple(notes)
        check_device(program)
        self.device = next(program.parameters()).device
        self.objective: Objective = (ELBO() if objective is None else objective).to(self.device)
        self.batch_size = min(batch_size, len(data.train))
        self.steps_per_epoch = math.ceil(len(data.train) / self.batch_size)
        self.epochs = (
            default_epochs(len(data.train), self.steps_per_epoch) if epochs is None else epochs
        )
        self.steps = self.epochs * self.steps_per_epoch
        if max_steps is not None:
            self.steps = min(self.steps, max_steps)
        if early_stopping == "auto":
            few = (
                len(data.train) < STOPPING_ROWS
                and self.objective.maximises_score
                and keep != "last"
            )
            early_stopping = math.ceil(PATIENCE_STEPS / self.steps_per_epoch) if few else None
        self.early_stopping: int | None = early_stopping
        self.keeps_best = keep == "best" or (
            keep == "auto" and (early_stopping is not None or self.objective.maximises_score)
        )
        self.lr_schedule: Schedule = lr_schedule
        self.precision: Precision = precision
        self._check_objective()
        self._step = Step(
            self._loss,
            _with_gradient(program.named_parameters()),
            lr=lr,
            clip_norm=clip_norm,
            compile=compile,
            expected_steps=self._expected_steps,
            tolerance=_TOLERANCES[precision],
            modules=(program, self.objective, data.transform),
            form=lambda argument, share: str(share.of),
            processes=self.processes,
            own=Own(
                _with_gradient(self.objective.named_parameters("objective")),
                self.objective.own_lr,
                self.objective.own_betas,
            ),
        )
        self._schedule = learning_rate_schedule(lr_schedule, self._step.optimizer, self.epochs)
        self.step = 0
        self.order_seed = int(torch.randint(2**40, ()))
        self.seconds = 0.0
        self.history: list[Record] = []
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0
        self.best_score: float | None = None
        self.stopped_early = False
        self._units: Units | None = None
        self._batches = Batches(
            len(data.train), self.batch_size, self.processes.rank, self.processes.size
        )
        self._feed = feed(data, self._batches, self.order_seed, self.device)
        self._aggressive = (
            Aggressive(
                program,
                self.objective,
                data,
                self._step,
                self._feed,
                batch_size=self.batch_size,
                most=aggressive_steps,
            )
            if aggressive_steps
            else None
        )
        if self.processes.size > 1:
            require_separable(program)
        # What the loss draws for a share of a batch, when processes share the noise.
        self._draws: dict[tuple[int, int], list[Draw]] = {}

    def _check_objective(self) -> None:
        """Make sure that the objective serves the program, from its terms at a few data."""
        if self.processes.size > 1 and self.objective.couples_batch:
            raise ValueError(
                f"{type(self.objective).__name__} couples the data of a batch, of which each process "
                "sees a part: train in one process."
            )
        # In evaluation mode, so that no running statistics move.
        with (
            evaluation_mode(self.program, seed=0),
            pyro.validation_enabled(True),
            pyro.get_param_store().scope(),
        ):
            x = self.data.transform(self.data.train[:2]).to(self.device)
            program: Any = self.program
            terms = log_densities(
                program.model, program.guide, x, num_particles=self.objective.num_particles
            )
            self.objective.check(terms)

    # ---- running -----------------------------------------------------------------------------

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        describe: dict[str, Any] | None = None,
        checkpoint_seconds: float = 10.0,
        on_checkpoint: Callable[["Training"], None] | None = None,
        stop: Callable[[], bool] | None = None,
        progress: bool = False,
    ) -> list[Record]:
        """Train from where it is to the end, and return the records of all epochs.

        Args:
            checkpoint: Where to keep the state; None for nowhere.
            describe: Plain values to keep in the checkpoint beside the state.
            checkpoint_seconds: The time between checkpoints. They change nothing in the outcome.
            on_checkpoint: Called after each checkpoint.
            stop: Training stops before the next step once this is true, checkpoint written.
            progress: Whether to show a bar.

        Raises:
            NonFiniteError: After `PATIENCE` steps in a row without a finite loss and gradient. The
                last checkpoint stays.
            LostProcessError: If another of several processes ends. The last checkpoint stays.
            OSError: If a checkpoint cannot be written, or data on the disk cannot be read any more; the
                checkpoint before stays.
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
        bar = tqdm(total=self.steps, initial=self.step, disable=not shown, unit="step")
        first = True
        self.program.train()
        # The parameters belong to the module. Pyro's global store is left as it was found, so that
        # a second VAE in this process is a second VAE.
        inner = nullcontext() if self._aggressive is None else closing(self._aggressive)
        with bar, closing(self._feed), inner, pyro.get_param_store().scope():
            while not self.ended:
                if self._agree(stop is not None and stop()):
                    break
                started = time.perf_counter()
                # Validation costs a third of a small step: it checks the first batch, no more.
                with pyro.validation_enabled(first):
                    self._one_step()
                first = False
                ended = self.step % self.steps_per_epoch == 0 or self.step == self.steps
                if ended and self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.seconds += time.perf_counter() - started
                bar.update()
                if ended:
                    self._end_epoch()
                    self._watch_the_code()
                    self._show(bar)
                elif self.device.type == "cpu" and self.step % 50 == 0:
                    self._check_finite()
                    self._show(bar)
                if time.monotonic() - saved > checkpoint_seconds:
                    save()
            save()
        self.finish()
        return self.history

    def finish(self) -> None:
        """Put the program into evaluation mode, at its end with the best parameters if they were kept."""
        if self.ended and self.best is not None:
            self.program.load_state_dict(self.best)
        self.program.eval()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.steps or self.stopped_early

    def _agree(self, stop: bool) -> bool:
        """Whether to stop, which several processes must do at the same step."""
        if self.processes.size == 1:
            return stop
        return self.step % _AGREEMENT == 0 and self.processes.any(stop, device=self.device)[0]

    def _one_step(self) -> None:
        self.objective.set_progress(self.step / self.steps_per_epoch)
        argument, share = self._feed.argument(self.step), self._batches.share(self.step)
        if self.processes.size > 1 and (share.rows, share.of) not in self._draws:
            with pyro.validation_enabled(False):
                draws = draws_of(lambda part: self._value(part).loss, argument, share.of)
            self._draws[share.rows, share.of] = draws
        (self._aggressive or self._step)(argument, share)
        self.step += 1

    def _loss(self, argument: Tensor, share: Share) -> Loss:
        """The objective's mean loss at a share of a batch, and what it logs."""
        noise = (
            SharedNoise(self._draws[share.rows, share.of], share.start, share.rows)
            if self.processes.size > 1
            else nullcontext()
        )
        with noise:
            value = self._value(argument)
        sums = {name: v.sum(dtype=torch.float64) for name, v in value.values.items()}
        own = None if value.own_loss is None else value.own_loss.mean()
        return Loss(value.loss.mean(), share.rows, sums, share.weight, own)

    def _value(self, argument: Tensor) -> ObjectiveValue:
        autocast = torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.precision == "bfloat16",
            cache_enabled=False,
        )
        with autocast:
            x = self.data.transform(self._feed.rows(argument))
            return objective_value(self.program, self.objective, x)

    def _expected_steps(self, form: str) -> int:
        """How many steps of a batch of so many rows the training takes."""
        short = len(self.data.train) % self.batch_size != 0
        epochs = math.ceil(self.steps / self.steps_per_epoch)
        return epochs * (self.steps_per_epoch - short) if form == str(self.batch_size) else epochs

    @cached_property
    def contract(self) -> DataContract:
        """What the data are, which is kept in each checkpoint."""
        return DataContract.from_data(self.data, self.notes)

    @property
    def totals(self) -> Totals:
        """What the present epoch has added up."""
        return self._step.totals

    @property
    def compiled(self) -> str:
        """Whether steps of a full batch are compiled, in a word: on or off."""
        decisions = [step.compiled.decisions.get(str(self.batch_size)) for step in self._steps]
        return "on" if "on" in decisions else "off"

    @property
    def compile_seconds(self) -> float | None:
        """The time that compiling took; None if nothing was compiled."""
        return sum(step.compiled.seconds for step in self._steps) or None

    @property
    def _steps(self) -> tuple[Step, ...]:
        return (self._step, *(self._aggressive.parts if self._aggressive is not None else ()))

    def _end_epoch(self) -> None:
        self._check_finite()
        epoch = math.ceil(self.step / self.steps_per_epoch)
        record: Record = {"epoch": epoch, "step": self.step}
        # With every step of the epoch skipped there is no mean.
        record |= self.totals.means()
        record |= {f"validation_{name}": value for name, value in self.validate().items()}
        record["active_units"] = self._units.active if self._units else None
        record["units_above_rate"] = self._units.above_rate if self._units else None
        record["lr"] = self._step.optimizer.param_groups[0]["lr"]
        record["skipped"] = int(self.totals.skipped)
        record["seconds"] = self.seconds
        if self._aggressive is not None:
            record |= self._aggressive.end_epoch(whole=self.step % self.steps_per_epoch == 0)
        if not self.history:
            for site, how in self.objective.kl_by_site.items():
                log.info("KL at site %r: %s.", site, how)
        self.history.append(record)
        if record["skipped"]:
            log.warning(
                "epoch %d: %d steps without a finite gradient were skipped.",
                epoch,
                record["skipped"],
            )
        log.info("%s", describe_record(record))
        if self.step % self.steps_per_epoch:
            # `max_steps` ended the run inside an epoch. A longer run may go on with it.
            self._keep_best(epoch)
            return
        self.seconds = 0.0
        self.totals.start_epoch()
        score = record[f"validation_{self.objective.score}"]
        with warnings.catch_warnings():
            # It misses a call of `optimizer.step()`, which a step that may be a graph does not make.
            warnings.filterwarnings("ignore", "Detected call of", UserWarning)
            if isinstance(self._schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self._schedule.step(score if score is not None else -math.inf)
            else:
                self._schedule.step()
        self._consider_stopping(epoch)

    def _keep_best(self, epoch: int) -> None:
        """Keep the parameters if no epoch had a better score."""
        score = self._score(self.history[-1])
        best = -math.inf if self.best_score is None else self.best_score
        if self.keeps_best and score > -math.inf and score >= best:
            self.best = copy.deepcopy(self.program.state_dict())
            self.best_epoch, self.best_score = epoch, score

    def _score(self, record: Record) -> float:
        score = record[f"validation_{self.objective.score}"]
        return -math.inf if score is None else score

    def _consider_stopping(self, epoch: int) -> None:
        self._keep_best(epoch)
        if self.early_stopping is None or self.epochs_without_better < self.early_stopping:
            return
        name = self.objective.score
        better = "ELBO" if name == "elbo" else name
        log.info("stopped early: no better validation %s since epoch %d.", better, self.best_epoch)
        self.stopped_early = True

    @property
    def epochs_without_better(self) -> int:
        """The epochs since the best one, or since the last in which a weight still changed."""
        epoch = self.step // self.steps_per_epoch
        unsettled = (
            e for e in range(epoch, self.best_epoch, -1) if not self.objective.settled(float(e))
        )
        return epoch - next(unsettled, self.best_epoch)

    def _watch_the_code(self) -> None:
        """Warn if the code has collapsed, and say at the end how much of it is in use."""
        if not self.processes.first:
            return
        total = self._units.total if self._units else None
        alarm = collapse_alarm(
            self.history,
            total,
            settled=self.objective.settled,
            ended=self.ended,
            remedies=lambda: remedies(
                self.program, self.objective, self.data.fixed("validation")[:1000].to(self.device)
            ),
        )
        if alarm is not None:
            log.warning("%s", alarm)
        elif self.ended and self._units:
            log.info("%d of %d units are in use.", self._units.active, self._units.total)
            if self._units.above_rate is not None:
                log.info("%d have a rate above %g nats.", self._units.above_rate, UNIT_NATS)

    def validate(self) -> dict[str, float | None]:
        """ELBO, reconstruction and KL on the validation split, in nats per datum, always beta = 1.

        Of a guide without a density, only the reconstruction is known.
        """
        if self.processes.size > 1:
            # The first one's, for all: what follows from it, such as an end, they must do alike.
            names = ("elbo", "reconstruction", "kl")
            known = self._validation() if self.processes.first else dict.fromkeys(names)
            values = [math.nan if known[name] is None else known[name] for name in names]
            shared = torch.tensor(values, dtype=torch.float64, device=self.device)
            self.processes.follow_first([shared])
            return {
                n: v if math.isfinite(v) else None
                for n, v in zip(names, shared.tolist(), strict=True)
            }
        return self._validation()

    def _validation(self) -> dict[str, float | None]:
        split = self.data.fixed("validation")
        fitting = VALIDATION_ELEMENTS // max(1, math.prod(split.shape[1:]))
        batch = max(1, min(VALIDATION_BATCH, fitting))
        elbo, reconstruction = ELBO(), Reconstruction()
        sums = {"elbo": 0.0, "reconstruction": 0.0, "kl": 0.0}
        first: tuple[Tensor, LogDensities] | None = None
        with evaluation_mode(self.program, seed=VALIDATION_SEED):
            for rows in split.split(batch):
                x = as_floats(rows.to(self.device))
                program: Any = self.program
                terms = log_densities(program.model, program.guide, x)
                known = reconstruction if without_density(terms.guide_trace) else elbo
                values = known(terms).values
                for name in sums:
                    total = values[name].sum(dtype=torch.float64) if name in values else math.nan
                    sums[name] += float(total)
                first = first or (x, terms)
            # After all that draws, so that an `embed` that draws, too, changes nothing before.
            self._units = units_in_use(self.program, *first) if first else None
        means = {name: total / len(split) for name, total in sums.items()}
        # NaN never appears in a record: what is not finite is not known.
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}

    def _check_finite(self) -> None:
        if int(self.totals.in_a_row) < PATIENCE:
            return
        step = int(self.totals.first_skipped)
        x = self.data.transform(self._feed.rows(self._feed.argument(step)))
        why = explain(self.program, self.objective, x)
        raise NonFiniteError(
            f"{PATIENCE} steps in a row had no finite loss and gradient, from step {step + 1} on: {why}."
        )

    def _show(self, bar: tqdm) -> None:
        means = self.totals.means() or (self.history[-1] if self.history else {})
        shown = {name: means.get(name) for name in ("elbo", "reconstruction", "kl")}
        text = ", ".join(f"{n} {value:.2f}" for n, value in shown.items() if value is not None)
        if text:
            epochs = math.ceil(self.steps / self.steps_per_epoch)
            epoch = math.ceil(self.step / self.steps_per_epoch)
            bar.set_postfix_str(f"epoch {epoch}/{epochs}: {text} nats/{noun()}", refresh=False)

    # ---- state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on depends on, as tensors and plain values."""
        return {
            "program": self.program.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self._step.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random_state": torch.get_rng_state(),
            "cuda_random_state": torch.cuda.get_rng_state()
            if self.device.type == "cuda"
            else None,
            "step": self.step,
            "order_seed": self.order_seed,
            "batch_size": self.batch_size,
            "train_size": len(self.data.train),
            "order": self._feed.order,
            "totals": asdict(self.totals),
            "seconds": self.seconds,
            "history": self.history,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "stopped_early": self.stopped_early,
            "threads": torch.get_num_threads(),
            "compile": dict(self._step.compiled.decisions),
            "aggressive": None if self._aggressive is None else self._aggressive.state_dict(),
            "data": self.contract.to_plain(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, so that `run` goes on from there.

        Raises:
            ValueError: If the state is of another model, objective or batch layout, or no state of a
                training.
        """
        # Earlier checkpoints have no score of the best epoch: it is in the history.
        state = {"best_score": None, **state}
        # All of it before anything is taken over: a state may be somebody else's.
        check_parameters(self.program, state.get("program"))
        check_parameters(self.objective, state.get("objective"))
        check_state(state, self.state_dict(), [p.shape for p in self._step.parameters.values()])
        if state["best"] is not None:
            check_parameters(self.program, state["best"])
        contract = DataContract.from_plain(state["data"])
        for name, now in (("batch_size", self.batch_size), ("order", self._feed.order)):
            if state[name] != now:
                raise ValueError(
                    f"the checkpoint was trained with {name} {state[name]}, got {now}."
                )
        contract.check(self.data, trained="the checkpoint")
        # A cosine's number of epochs, and an exponential's rate, which follows from it.
        length = {"T_max", "gamma"} & state["schedule"].keys()
        own = self._schedule.state_dict()
        if any(state["schedule"][name] != own[name] for name in length):
            raise ValueError(
                f"the schedule {self.lr_schedule} is tied to the number of epochs, and the checkpoint was "
                f"trained with another one than the {self.epochs} given: train anew for a longer training."
            )
        self.program.load_state_dict(state["program"])
        self.objective.load_state_dict(state["objective"])
        self._step.load_state_dict(state["optimizer"], state["totals"])
        self._step.compiled.decisions = dict(state["compile"])
        if self._aggressive is not None:
            self._aggressive.load_state_dict(state["aggressive"], state["order_seed"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        self.order_seed = self._feed.order_seed = state["order_seed"]
        self.seconds = state["seconds"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.best_score = state["best_score"]
        # A longer patience than the one that ended it lets it go on.
        patience = math.inf if self.early_stopping is None else self.early_stopping
        self.stopped_early = state["stopped_early"] and self.epochs_without_better >= patience
        self.history = list(state["history"])
        if self.best is not None and self.best_score is None:
            scored = [r for r in self.history if r["epoch"] == self.best_epoch]
            self.best_score = self._score(scored[0]) if scored else None
        if len(self.history) > self.step // self.steps_per_epoch and not self.ended:
            # The record of an epoch that `max_steps` cut short, and that now goes on.
            self.history.pop()
        # Sums are split among threads: another number of them gives other last bits.
        torch.set_num_threads(state["threads"])
        torch.set_rng_state(state["random_state"])
        if state["cuda_random_state"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random_state"])

    @property
    def seconds_per_epoch(self) -> float | None:
        """The median over epochs of the time spent in training steps alone."""
        seconds = [float(record["seconds"] or 0.0) for record in self.history]
        return statistics.median(seconds) if seconds else None


def default_epochs(rows: int, steps_per_epoch: int) -> int:
    """The epochs of a training that is given none: few rows get as many as make `LEAST_STEPS`."""
    least = LEAST_STEPS if rows < FEW_ROWS else 0
    return max(EPOCHS, math.ceil(least / steps_per_epoch))


def describe_record(record: Record) -> str:
    """A record in one line, in nats per datum."""
    parts = [f"epoch {record['epoch']}"]
    for prefix, label in (("", "train"), ("validation_", "validation")):
        values = [(name, record.get(prefix + name)) for name in ("elbo", "reconstruction", "kl")]
        text = ", ".join(f"{name} {value:.2f}" for name, value in values if value is not None)
        parts.append(f"{label}: {text or 'not finite'}")
    return "; ".join(parts) + f" nats/{noun()}"


def _with_gradient(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _at_least(name: str, value: int | None, minimum: int) -> None:
    if value is not None and not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    if value is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")
