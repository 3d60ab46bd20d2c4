"""Learning-rate schedules, stepped once an epoch."""

from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LRScheduler,
    ReduceLROnPlateau,
)

Schedule = Literal["constant", "cosine", "exponential", "plateau"]

# These depend on how long training is, so a resumed run cannot lengthen it.
TIED_TO_LENGTH: tuple[Schedule, ...] = ("cosine", "exponential")


def learning_rate_schedule(name: Schedule, optimizer: Optimizer, epochs: int) -> LRScheduler:
    """One of torch's schedules over `epochs`.

    "constant"; "cosine" to zero (Loshchilov & Hutter, 2017, https://arxiv.org/abs/1608.03983);
    "exponential" to a hundredth of the start; "plateau", halved after 10 epochs without a better
    validation ELBO.

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
