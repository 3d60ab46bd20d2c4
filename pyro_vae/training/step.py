"""One update of model, guide and objective, on the device from end to end."""

from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ObjectiveValue

# So many steps in a row without a finite loss and gradient end a run.
PATIENCE = 20


@dataclass
class Totals:
    """What an epoch has added up so far, on the device: read once, not every step.

    Args:
        sums: Each logged value, summed over the data of the steps taken.
        data: The number of data in the steps taken.
        skipped: The number of steps skipped.
        in_a_row: The number of steps skipped since the last one taken.
        first_skipped: The step at which the present row of skipped ones began.
    """

    data: Tensor
    skipped: Tensor
    in_a_row: Tensor
    first_skipped: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def zero(cls, device: torch.device) -> "Totals":
        """Nothing added up yet."""
        counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(4)]
        return cls(*counts, sums={})

    @classmethod
    def from_dict(cls, saved: dict[str, Any], device: torch.device) -> "Totals":
        """What `dataclasses.asdict` gave, back on the device."""
        counts = {name: value.to(device) for name, value in saved.items() if name != "sums"}
        return cls(
            **counts, sums={name: value.to(device) for name, value in saved["sums"].items()}
        )

    def means(self) -> dict[str, float]:
        """Each value's mean per datum over the steps taken. This reads from the device."""
        data = max(int(self.data), 1)
        return {name: float(total) / data for name, total in self.sums.items()}


def objective_value(
    program: Any, objective: Any, x: Shaped[Tensor, " batch *event"]
) -> ObjectiveValue:
    """The objective of a program at x."""
    terms = log_densities(program.model, program.guide, x, num_particles=objective.num_particles)
    return objective(terms)


class Step:
    """A step of Adam down the objective's mean loss per datum.

    A step whose loss or gradient is not finite changes no parameter and no moment of the optimiser:
    fused Adam reads that from a tensor, so nothing waits for the device. After `PATIENCE` skipped
    steps in a row all others are skipped too, so that the parameters stay as they were when it
    began.

    Args:
        program: Has `model(x)` and `guide(x)`.
        objective: Called on the pair's log densities.
        transform: A raw batch to x, as `PreparedData.transform`.
        lr: Adam's learning rate.
        clip_norm: The largest norm a gradient may have; a longer one is shortened to it.

    References:
        Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015),
        https://arxiv.org/abs/1412.6980
    """

    def __init__(
        self,
        program: nn.Module,
        objective: nn.Module,
        transform: nn.Module,
        lr: float,
        clip_norm: float | None,
    ) -> None:
        self.program: Any = program
        self.objective: Any = objective
        self.transform = transform
        self.clip_norm = clip_norm
        self.parameters = [
            p for p in (*program.parameters(), *objective.parameters()) if p.requires_grad
        ]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)

    def __call__(self, raw: Shaped[Tensor, " batch *event"], step: int, totals: Totals) -> None:
        """Take a step and add what the objective logs to `totals`."""
        self.optimizer.zero_grad(set_to_none=True)
        value = objective_value(self.program, self.objective, self.transform(raw))
        loss = value.loss.mean()
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)

        taken = loss.isfinite() & norm.isfinite() & (totals.in_a_row < PATIENCE)
        self.optimizer.found_inf = (~taken).to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()

        skipped = (~taken).to(torch.int64)
        begins = (totals.in_a_row == 0) & ~taken
        totals.first_skipped = torch.where(begins, step, totals.first_skipped)
        totals.skipped = totals.skipped + skipped
        totals.in_a_row = torch.where(taken, 0, totals.in_a_row + 1)
        totals.data = totals.data + len(raw) * taken
        for name, per_datum in value.values.items():
            # where, not a product: 0 times NaN is NaN.
            total = torch.where(taken, per_datum.sum(dtype=torch.float64), 0.0)
            totals.sums[name] = totals.sums[name] + total if name in totals.sums else total

    def explain(self, raw: Shaped[Tensor, " batch *event"]) -> str:
        """Replay a batch with validation on and name the first term that is not finite."""
        x = self.transform(raw)
        with pyro.validation_enabled(False):
            terms = log_densities(self.program.model, self.program.guide, x)
        named = [
            (f"log q at site {name!r} of the guide", v) for name, v in terms.guide_sites.items()
        ]
        named += [
            (f"log p at site {name!r} of the model", v) for name, v in terms.model_sites.items()
        ]
        term = next((name for name, value in named if not value.isfinite().all()), None)
        reason = ""
        with pyro.validation_enabled(True):
            try:
                self.optimizer.zero_grad(set_to_none=True)
                objective_value(self.program, self.objective, x).loss.mean().backward()
            except (ValueError, RuntimeError) as error:
                reason = f" ({' '.join(str(error).split())[:200]})"
        if term is not None:
            return f"{term} is not finite{reason}"
        names = [*self.program.named_parameters(), *self.objective.named_parameters()]
        for name, parameter in names:
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"the gradient of {name} is not finite{reason}"
        return f"the batch gives finite terms when it is replayed with new noise{reason}"
