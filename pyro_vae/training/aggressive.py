"""Aggressive training of the guide: it catches up before each step of the model."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data import PreparedData
from pyro_vae.data.splits import permutation
from pyro_vae.log_densities import log_densities
from pyro_vae.mutual_information import mutual_information
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode
from pyro_vae.training.batch_loss import BatchLoss
from pyro_vae.training.loaders import Batches, Share
from pyro_vae.training.step import Loss, Step, Totals

log = logging.getLogger(__name__)

# The number of inner steps whose mean loss is compared with that of as many before them.
WINDOW = 10

# The mutual information is estimated on this many validation examples, with the same noise every
# epoch.
VALIDATION_DATA = 1000
VALIDATION_SEED = 20_190_116


class Aggressive:
    """Before each step of the model, steps of the guide until its bound stops improving.

    The guide's parameters are those that log q(z | x) or its draws depend on, and the model's are
    all others. While the phase lasts, an update is

    1. inner steps: the parameters of the guide alone minimise the loss, on batches of their own.
       The mean loss of every `WINDOW` steps is compared with that of the `WINDOW` before; they end
       once it is not lower, or after `max_steps`. This is the only place where training waits for
       the device within an epoch;
    2. a step of the model's parameters alone, on the epoch's batch.

    After each epoch I_q(x; z) is estimated on validation data. Once it is not above the best
    epoch's, the phase ends, and a step is an ordinary one of all parameters. Each parameter keeps
    one state of Adam throughout, and an objective's own parameters are trained by every step.

    The state holds all that the phase depends on, and the n-th inner batch is a function of the
    order seed and n, so that a training that is resumed in the phase ends as an uninterrupted one.

    Args:
        loss: The loss of a batch.
        data: The data.
        step: The ordinary step of all parameters.
        max_steps: The largest number of inner steps before a step of the model.

    Raises:
        ValueError: If there are several processes, guide or model has no parameters of its own, or
            the mutual information of the guide cannot be estimated.

    References:
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He,
        Spokoyny, Neubig & Berg-Kirkpatrick, 2019), https://arxiv.org/abs/1901.05534
    """

    def __init__(self, loss: BatchLoss, data: PreparedData, step: Step, *, max_steps: int) -> None:
        if step.processes.size > 1:
            raise ValueError("aggressive_steps needs a single process: train in one process.")
        self.loss = loss
        self.data = data
        self.max_steps = max_steps
        self.device = next(loss.program.parameters()).device
        guide = self._guide_parameters(step.trained)
        model = step.trained.keys() - guide
        for names, part in ((guide, "guide"), (model, "model")):
            if not names:
                raise ValueError(
                    f"aggressive_steps needs parameters of the {part} alone to train, got none: "
                    f"log q(z | x) depends on {len(guide)} of {len(step.trained)} parameters."
                )
        # In the program's order, which is the same in every run.
        guide, model = ([n for n in step.trained if n in names] for names in (guide, model))
        # Full batches only: each epoch leaves out other rows, fewer than a batch.
        if loss.labels is not None:
            raise ValueError(
                f"aggressive_steps must be 0 for {type(loss.program).__name__}, which is trained "
                "with labels."
            )
        batch_size = loss.loader.batches.batch_size
        rows = len(data.train) // batch_size * batch_size
        self.loader = loss.loader.fork(
            Batches(rows, batch_size), derive_seed(loss.loader.order_seed, "aggressive")
        )
        self._share = Share(0, batch_size, batch_size, 1.0)
        self.ordinary = step
        # The phase has at least two epochs, and an update in it at least two windows.
        least, calls = {str(batch_size): 2 * rows // batch_size}, step.compiled.expected_calls
        self.inner = step.restrict(
            guide,
            lambda form: min(max_steps, 2 * WINDOW) * min(least[form], calls(form)),
            loss=_logging_itself(loss),
        )
        self.outer = step.restrict(
            model, lambda form: min(least.get(form, 2), calls(form)), totals=step.totals
        )
        self.active = True
        self.best = -math.inf
        # The number of inner steps taken in all and in this epoch, and of those skipped in it.
        self.taken = self.epoch_steps = self.skipped = 0

    def __call__(self, *batch: Any) -> Tensor:
        """Take the update that replaces an ordinary step, and return the step's loss."""
        if not self.active:
            return self.ordinary(*batch)
        self.update_guide()
        return self.outer(*batch)

    def update_guide(self) -> None:
        """Take inner steps until the bound stops improving."""
        before = math.inf
        totals = self.inner.totals
        for start in range(0, self.max_steps, WINDOW):
            totals.start_epoch()
            steps = min(WINDOW, self.max_steps - start)
            for _ in range(steps):
                self.inner(self.loader.fetch(self.taken), self._share)
                self.taken += 1
            self.epoch_steps += steps
            self.skipped += int(totals.skipped)
            self.loss.check_finite(totals, self.loader, "inner step")
            # None if every step was skipped: there is no reason to continue.
            mean = totals.means().get("loss")
            if mean is None or not mean < before:
                break
            before = mean

    def end_epoch(self, *, complete: bool) -> dict[str, float | int | None]:
        """The entries of an epoch's record. The phase may end with the epoch.

        Args:
            complete: Whether the epoch is complete.

        Returns:
            Whether the phase lasted (`aggressive`), the number of inner steps and of those skipped
            for want of a finite gradient, and the mutual information in nats, None after the
            phase.
        """
        record: dict[str, float | int | None] = {
            "aggressive": int(self.active),
            "inner_steps": self.epoch_steps,
            "inner_skipped": self.skipped,
            "mutual_information": None,
        }
        if self.active:
            value = self._mutual_information()
            record["mutual_information"] = value if math.isfinite(value) else None
            if complete and not value > self.best:
                self.active = False
                log.info(
                    "stopping aggressive training: mutual information is %.3f nats, previous best "
                    "%.3f.",
                    value,
                    self.best,
                )
            elif complete:
                self.best = value
        if complete:
            self.epoch_steps = self.skipped = 0
        return record

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that an update of the phase is made of."""
        return self.inner, self.outer

    def close(self) -> None:
        """Stop background work of the inner batches' loader."""
        self.loader.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of the phase, without parameters and optimizer."""
        return {
            "active": self.active,
            "best": self.best,
            "taken": self.taken,
            "steps": self.epoch_steps,
            "skipped": self.skipped,
            "totals": self.inner.totals.to_dict(),
            "compile_inner": dict(self.inner.compiled.decisions),
            "compile_outer": dict(self.outer.compiled.decisions),
        }

    def load_state_dict(self, state: Mapping[str, Any], order_seed: int) -> None:
        """Load a saved state, after that of the ordinary step."""
        self.active, self.best = state["active"], float(state["best"])
        self.taken, self.epoch_steps = state["taken"], state["steps"]
        self.skipped = state["skipped"]
        self.loader.order_seed = derive_seed(order_seed, "aggressive")
        self.inner.totals = Totals.from_dict(state["totals"], self.device)
        self.outer.totals = self.ordinary.totals
        for step, name in ((self.inner, "compile_inner"), (self.outer, "compile_outer")):
            step.compiled.decisions = dict(state[name])
            step.compiled.reset()

    def _guide_parameters(self, parameters: Mapping[str, Tensor]) -> set[str]:
        """The names of the parameters that log q(z | x) or its draws depend on."""
        rows = as_floats(self.data.fixed("validation")[:2].to(self.device))
        program: Any = self.loss.program
        # Pyro's global store is left unchanged.
        with evaluation_mode(program, seed=0), torch.enable_grad(), pyro.get_param_store().scope():
            terms = log_densities(program.model, program.guide, rows)
            of_guide = [t for t in (terms.log_posterior, *terms.draws) if t.requires_grad]
            if not of_guide:
                return set()
            total = torch.stack([t.sum() for t in of_guide]).sum()
            found = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
            # Fail now, not after the first epoch, if it cannot be estimated.
            mutual_information(program, rows)
        return {n for n, gradient in zip(parameters, found, strict=True) if gradient is not None}

    def _mutual_information(self) -> float:
        rows = self.data.fixed("validation")
        if len(rows) > VALIDATION_DATA:
            # The choice of `mutual_information`, before rows are made dense and moved to the
            # device.
            rows = rows[permutation(len(rows), seed=VALIDATION_SEED)[:VALIDATION_DATA]]
        x = as_floats(rows[:].to(self.device))
        return mutual_information(
            self.loss.program, x, max_data=VALIDATION_DATA, seed=VALIDATION_SEED
        ).value


def _logging_itself(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """The loss with itself as its only metric."""

    def logged(*batch: Any) -> Loss:
        value = loss(*batch)
        total = value.mean.detach().double() * value.count
        return replace(value, sums={"loss": total})

    return logged
