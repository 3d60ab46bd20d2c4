"""The weight of a term as a function of how far training is."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

ScheduleName = Literal["linear", "cyclical", "constant"]


@dataclass(frozen=True)
class Schedule:
    """The share w(t) of a weight that is in force after t epochs, from 0 to 1.

    "linear" is w(t) = min(t / warmup_epochs, 1), and 1 throughout without warm-up. "cyclical" repeats
    a warm-up: with u the share of a cycle that is over, w(t) = min(u / cycle_ramp, 1), and 1 after
    the last cycle. "constant" is 1.

    Args:
        name: "linear", "cyclical" or "constant".
        warmup_epochs: The length of the linear warm-up in epochs.
        cycle_epochs: The length of a cycle in epochs.
        cycles: The number of cycles.
        cycle_ramp: The share of a cycle in which the weight grows.

    Raises:
        ValueError: If an option is out of its range, or belongs to another schedule.

    References:
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282;
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al., 2019),
        https://arxiv.org/abs/1903.10145
    """

    name: ScheduleName = "linear"
    warmup_epochs: float = 0.0
    cycle_epochs: float = 0.0
    cycles: int = 4
    cycle_ramp: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ValueError(
                f"schedule must be one of {', '.join(get_args(ScheduleName))}, got {self.name!r}."
            )
        for name, belongs in (("warmup_epochs", "linear"), ("cycle_epochs", "cyclical")):
            epochs = getattr(self, name)
            if not 0 <= epochs < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {epochs}.")
            if epochs and self.name != belongs:
                raise ValueError(f"{name} belongs to the schedule {belongs}, got {self.name}.")
        if self.name == "cyclical" and not self.cycle_epochs:
            raise ValueError("the schedule cyclical needs cycle_epochs above 0, got 0.")
        if self.cycles < 1:
            raise ValueError(f"cycles must be at least 1, got {self.cycles}.")
        if not 0 < self.cycle_ramp <= 1:
            raise ValueError(f"cycle_ramp must be above 0 and at most 1, got {self.cycle_ramp}.")

    @property
    def epochs(self) -> float:
        """After so many epochs the weight changes no more."""
        return self.cycles * self.cycle_epochs if self.name == "cyclical" else self.warmup_epochs

    def share(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """w(t) at t = `progress` epochs."""
        if self.name == "cyclical":
            over = (progress / self.cycle_epochs).remainder(1)
            share = (over / self.cycle_ramp).clamp(max=1)
            return torch.where(progress < self.epochs, share, torch.ones_like(share))
        return ramp(progress, self.epochs)


def ramp(progress: Float[Tensor, ""], epochs: float) -> Float[Tensor, ""]:
    """min(t / epochs, 1): from 0 to 1 in so many epochs, and 1 throughout if they are 0."""
    return (progress / epochs).clamp(max=1) if epochs else torch.ones_like(progress)
