"""Decisions after each epoch: the learning rate, the best parameters and early stopping."""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LRScheduler,
    ReduceLROnPlateau,
)

from pyro_vae.networks.dense import FEW_ROWS
from pyro_vae.objectives import Objective

Schedule = Literal["constant", "cosine", "exponential", "plateau"]

# These depend on the length of training, so a resumed run cannot lengthen it.
TIED_TO_LENGTH: tuple[Schedule, ...] = ("cosine", "exponential")

# The parameters with which a training ends: see `Training`.
Keep = Literal["auto", "best", "last"]

# The default number of epochs; with fewer than `FEW_ROWS` training rows, of this many steps.
EPOCHS, LEAST_STEPS = 100, 4000

# With fewer training rows than this, training stops by default after this many steps without a
# better score.
STOPPING_ROWS = 10_000
PATIENCE_STEPS = 1000


def learning_rate_schedule(name: Schedule, optimizer: Optimizer, epochs: int) -> LRScheduler:
    """One of torch's schedules over `epochs`.

    "constant"; "cosine" to zero (Loshchilov & Hutter, 2017, https://arxiv.org/abs/1608.03983);
    "exponential" to a hundredth of the start; "plateau", halved after 10 epochs without a better
    validation score.

    Raises:
        ValueError: If the name is unknown.
    """
    match name:
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
        case "exponential":
            return ExponentialLR(optimizer, gamma=0.01 ** (1 / max(epochs, 1)))
        case "plateau":
            return ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=10)
        case _:
            raise ValueError(
                f"lr_schedule must be one of {', '.join(get_args(Schedule))}, got {name!r}."
            )


def default_epochs(rows: int, steps_per_epoch: int) -> int:
    """The default number of epochs: with few rows as many as make `LEAST_STEPS`."""
    least = LEAST_STEPS if rows < FEW_ROWS else 0
    return max(EPOCHS, math.ceil(least / steps_per_epoch))


def default_patience(
    rows: int, steps_per_epoch: int, keep: Keep, objective: Objective
) -> int | None:
    """The default patience in epochs; None for no limit."""
    if rows >= STOPPING_ROWS or not objective.maximises_score or keep == "last":
        return None
    return math.ceil(PATIENCE_STEPS / steps_per_epoch)


class EarlyStopping:
    """The best parameters of a program by its validation score, and when to stop training.

    Args:
        program: The program that is trained.
        objective: Its objective, whose score is the criterion.
        patience: The epochs without a better score after which training stops; None for no limit.
        keeps_best: Whether to keep the parameters of the best epoch.
    """

    def __init__(
        self, program: nn.Module, objective: Objective, patience: int | None, keeps_best: bool
    ) -> None:
        self.program = program
        self.objective = objective
        self.patience = patience
        self.keeps_best = keeps_best
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0
        self.best_score: float | None = None
        self.stopped = False

    def score(self, record: Mapping[str, Any]) -> float:
        """The score of an epoch, -inf if it is not known."""
        score = record[f"validation_{self.objective.score}"]
        return -math.inf if score is None else score

    def update(self, epoch: int, record: Mapping[str, Any]) -> None:
        """Keep the parameters if no epoch before had a better score."""
        score = self.score(record)
        best = -math.inf if self.best_score is None else self.best_score
        if self.keeps_best and score > -math.inf and score >= best:
            self.best = copy.deepcopy(self.program.state_dict())
            self.best_epoch, self.best_score = epoch, score

    def epochs_without_better(self, epoch: int) -> int:
        """The epochs since the best one, or since the last one in which a weight still changed."""
        unsettled = (
            e for e in range(epoch, self.best_epoch, -1) if not self.objective.settled(float(e))
        )
        return epoch - next(unsettled, self.best_epoch)

    def exhausted(self, epoch: int) -> bool:
        """Whether the patience is exhausted."""
        return self.patience is not None and self.epochs_without_better(epoch) >= self.patience
