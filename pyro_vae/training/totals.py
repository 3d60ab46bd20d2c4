"""What an epoch adds up on the device."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Totals:
    """What an epoch has added up so far, on the device: read once, not every step.

    Its tensors are changed in place, so a compiled step goes on with them.

    Args:
        data: The number of data in the steps taken.
        skipped: The number of steps skipped.
        in_a_row: The number of steps skipped since the last one taken.
        steps: The number of steps begun since training began.
        first_skipped: The step at which the present row of skipped ones began.
        sums: Each logged value, summed over the data of the steps taken.
    """

    data: Tensor
    skipped: Tensor
    in_a_row: Tensor
    steps: Tensor
    first_skipped: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def zero(cls, device: torch.device) -> "Totals":
        """Nothing added up yet."""

        def zero() -> Tensor:
            return torch.zeros((), dtype=torch.int64, device=device)

        return cls(zero(), zero(), zero(), zero(), zero())

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], device: torch.device) -> "Totals":
        """What `dataclasses.asdict` gave, back on the device."""
        # Clones: what is added up in place must not be the saved tensors.
        counts = {
            name: value.clone().to(device) for name, value in saved.items() if name != "sums"
        }
        sums = {name: value.clone().to(device) for name, value in saved["sums"].items()}
        return cls(**counts, sums=sums)

    def add(self, taken: Tensor, data: int | Tensor, sums: Mapping[str, Tensor]) -> None:
        """Add a step.

        Args:
            taken: Whether it was taken, a boolean of no dimension.
            data: The number of its data.
            sums: Each logged value, summed over them.
        """
        begins = (self.in_a_row == 0) & ~taken
        self.first_skipped.copy_(torch.where(begins, self.steps, self.first_skipped))
        self.steps.add_(1)
        self.skipped.add_(~taken)
        self.in_a_row.copy_(torch.where(taken, 0, self.in_a_row + 1))
        self.data.add_(data * taken)
        for name, total in sums.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.data.device)
            # where, not a product: 0 times NaN is NaN.
            self.sums[name].add_(torch.where(taken, total, 0.0))

    def start_epoch(self) -> None:
        """Back to zero, but for what runs across epochs."""
        for total in (self.data, self.skipped, *self.sums.values()):
            total.zero_()

    def means(self) -> dict[str, float]:
        """Each value's mean per datum over the steps taken; none if there were none. This reads."""
        data = int(self.data)
        return {name: float(total) / data for name, total in self.sums.items()} if data else {}
