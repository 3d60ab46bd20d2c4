"""Aggressive training of the inference network: the guide catches up before each step of the model."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.data import PreparedData
from pyro_vae.data.splits import permutation
from pyro_vae.log_densities import log_densities
from pyro_vae.mutual_information import mutual_information
from pyro_vae.objectives import Objective
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode
from pyro_vae.training.loaders import Batches, InMemory, Share, Sparse, Streamed
from pyro_vae.training.nan_diagnosis import NonFiniteError, explain
from pyro_vae.training.step import PATIENCE, Loss, Step
from pyro_vae.training.totals import Totals

log = logging.getLogger(__name__)

# So many inner steps are compared, in their mean loss, with as many before them.
WINDOW = 10

# The mutual information is that among so many validation data, under the same noise every epoch.
VALIDATION_DATA = 1000
VALIDATION_SEED = 20_190_116


class Aggressive:
    """Before each step of the model, steps of the guide until its bound stops improving.

    The guide's parameters are those that log q(z | x) or its draws depend on, and the model's are
    all others. While the phase lasts, an update is

    1. inner steps: the guide's parameters alone go down the objective's loss, on batches of their own.
       Every `WINDOW` of them the mean loss is compared with that of the `WINDOW` before; they end
       once it is not lower, or after `most`. This is the one place where training waits for the
       device inside an epoch;
    2. a step of the model's parameters alone, on the epoch's batch.

    After each epoch I_q(x; z) is estimated on validation data. Once it is not above the best epoch's,
    the phase is over, and a step is an ordinary one of all parameters. Each parameter keeps one state
    of Adam throughout, and an objective's own parameters are trained by every step.

    All that the phase depends on is in its state, and the n-th inner batch is a function of the order
    seed and n: a training that is resumed in the phase ends as one never stopped.

    Args:
        program: A module with `model(x)` and `guide(x)`, on its device.
        objective: What is maximised.
        data: The data.
        step: The ordinary step of all parameters.
        feed: What hands out the epoch's batches.
        batch_size: The number of data in an inner step.
        most: The largest number of inner steps before a step of the model.

    Raises:
        ValueError: If there are several processes, all parameters are the guide's or none is, or the
            mutual information of the guide cannot be estimated.

    References:
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He, Spokoyny,
        Neubig & Berg-Kirkpatrick, 2019), https://arxiv.org/abs/1901.05534
    """

    def __init__(
        self,
        program: nn.Module,
        objective: Objective,
        data: PreparedData,
        step: Step,
        feed: InMemory | Sparse | Streamed,
        *,
        batch_size: int,
        most: int,
    ) -> None:
        if step.processes.size > 1:
            raise ValueError("aggressive_steps is for one process: train in one process.")
        self.program = program
        self.objective = objective
        self.data = data
        self.most = most
        self.device = next(program.parameters()).device
        guide = self._guide_parameters(step.trained)
        model = step.trained.keys() - guide
        for names, whose in ((guide, "guide"), (model, "model")):
            if not names:
                raise ValueError(
                    f"aggressive_steps needs parameters of the {whose} alone to train, got none: "
                    f"log q(z | x) depends on {len(guide)} of {len(step.trained)} parameters."
                )
        # In the program's order, which is the same in every run.
        guide, model = ([n for n in step.trained if n in names] for names in (guide, model))
        # Full batches alone: each epoch leaves out other rows, fewer than a batch.
        rows = len(data.train) // batch_size * batch_size
        self.feed = feed.beside(
            Batches(rows, batch_size), derive_seed(feed.order_seed, "aggressive")
        )
        self._share = Share(0, batch_size, batch_size, 1.0)
        self.ordinary = step
        # Two epochs and two windows are the least that the phase and an update of it may have.
        least, calls = {str(batch_size): 2 * rows // batch_size}, step.compiled.expected_calls
        self.inner = step.over(
            guide,
            lambda form: min(most, 2 * WINDOW) * min(least[form], calls(form)),
            loss=_with_loss(step.loss),
        )
        self.outer = step.over(
            model, lambda form: min(least.get(form, 2), calls(form)), totals=step.totals
        )
        self.active = True
        self.best = -math.inf
        # The number of inner steps taken: of all, and in this epoch; and of those skipped in it.
        self.taken = self.steps = self.skipped = 0

    def __call__(self, *batch: Any) -> Tensor:
        """Take the update that takes the place of an ordinary step, and return the step's loss."""
        if not self.active:
            return self.ordinary(*batch)
        self._update_guide()
        return self.outer(*batch)

    def end_epoch(self, *, whole: bool) -> dict[str, float | int | None]:
        """What the epoch adds to its record. It may be the last of the phase.

        Args:
            whole: Whether the epoch is over, and not cut short.

        Returns:
            Whether the phase lasted (`aggressive`), the number of inner steps and of those skipped
            for want of a finite gradient, and the mutual information in nats, None after the phase.
        """
        record: dict[str, float | int | None] = {
            "aggressive": int(self.active),
            "inner_steps": self.steps,
            "inner_skipped": self.skipped,
            "mutual_information": None,
        }
        if self.active:
            value = self._mutual_information()
            record["mutual_information"] = value if math.isfinite(value) else None
            if whole and not value > self.best:
                self.active = False
                log.info(
                    "aggressive training ends: the mutual information is %.3f nats, after %.3f.",
                    value,
                    self.best,
                )
            elif whole:
                self.best = value
        if whole:
            self.steps = self.skipped = 0
        return record

    @property
    def parts(self) -> tuple[Step, ...]:
        """The steps that an update of the phase is made of."""
        return self.inner, self.outer

    def close(self) -> None:
        """End what the inner batches' feed does in the background."""
        self.feed.close()

    def state_dict(self) -> dict[str, Any]:
        """All that the phase depends on beside the parameters and the optimiser."""
        return {
            "active": self.active,
            "best": self.best,
            "taken": self.taken,
            "steps": self.steps,
            "skipped": self.skipped,
            "totals": asdict(self.inner.totals),
            "compile_inner": dict(self.inner.compiled.decisions),
            "compile_outer": dict(self.outer.compiled.decisions),
        }

    def load_state_dict(self, state: Mapping[str, Any], order_seed: int) -> None:
        """Go back to a saved state. The ordinary step has gone back to its own already."""
        self.active, self.best = state["active"], float(state["best"])
        self.taken, self.steps, self.skipped = state["taken"], state["steps"], state["skipped"]
        self.feed.order_seed = derive_seed(order_seed, "aggressive")
        self.inner.totals = Totals.from_dict(state["totals"], self.device)
        self.outer.totals = self.ordinary.totals
        for step, name in ((self.inner, "compile_inner"), (self.outer, "compile_outer")):
            step.compiled.decisions = dict(state[name])
            step.compiled.forget()

    def _guide_parameters(self, parameters: Mapping[str, Tensor]) -> set[str]:
        """The names of those that log q(z | x) or its draws depend on."""
        rows = as_floats(self.data.fixed("validation")[:2].to(self.device))
        program: Any = self.program
        # Pyro's global store is left as it was found.
        with evaluation_mode(program, seed=0), torch.enable_grad(), pyro.get_param_store().scope():
            terms = log_densities(program.model, program.guide, rows)
            of_guide = [t for t in (terms.log_posterior, *terms.draws) if t.requires_grad]
            if not of_guide:
                return set()
            total = torch.stack([t.sum() for t in of_guide]).sum()
            found = torch.autograd.grad(total, [*parameters.values()], allow_unused=True)
            # Said now, not after the first epoch.
            mutual_information(program, rows)
        return {n for n, gradient in zip(parameters, found, strict=True) if gradient is not None}

    def _update_guide(self) -> None:
        before = math.inf
        totals = self.inner.totals
        for start in range(0, self.most, WINDOW):
            totals.start_epoch()
            steps = min(WINDOW, self.most - start)
            for _ in range(steps):
                self.inner(self.feed.argument(self.taken), self._share)
                self.taken += 1
            self.steps += steps
            self.skipped += int(totals.skipped)
            self._check_finite()
            # None where every step was skipped: there is nothing to go on for.
            mean = totals.means().get("loss")
            if mean is None or not mean < before:
                break
            before = mean

    def _check_finite(self) -> None:
        if int(self.inner.totals.in_a_row) < PATIENCE:
            return
        batch = int(self.inner.totals.first_skipped)
        x = self.data.transform(self.feed.rows(self.feed.argument(batch)))
        raise NonFiniteError(
            f"{PATIENCE} inner steps in a row had no finite loss and gradient, from inner step "
            f"{batch + 1} on: {explain(self.program, self.objective, x)}."
        )

    def _mutual_information(self) -> float:
        rows = self.data.fixed("validation")
        if len(rows) > VALIDATION_DATA:
            # Those that `mutual_information` would choose, before they are dense and on the device.
            rows = rows[permutation(len(rows), seed=VALIDATION_SEED)[:VALIDATION_DATA]]
        x = as_floats(rows[:].to(self.device))
        estimate = mutual_information(
            self.program, x, max_data=VALIDATION_DATA, seed=VALIDATION_SEED
        )
        return estimate.value


def _with_loss(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """The loss, which logs itself and nothing else."""

    def logged(*batch: Any) -> Loss:
        value = loss(*batch)
        total = value.mean.detach().double() * value.data
        return replace(value, sums={"loss": total})

    return logged
