"""Weights on the KL term: schedules, free bits and capacities."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.checks import check_at_least, check_choice, check_nonnegative

ScheduleName = Literal["linear", "cyclical", "constant"]
FreeBitsPer = Literal["dimension", "group", "rate"]


@dataclass(frozen=True)
class Schedule:
    """The fraction w(t) of a weight after t epochs, from 0 to 1.

    "linear" is w(t) = min(t / warmup_epochs, 1), and 1 throughout without warm-up. "cyclical"
    repeats a warm-up: with u the elapsed fraction of a cycle, w(t) = min(u / cycle_ramp, 1), and 1
    after the last cycle. "constant" is 1.

    Args:
        name: "linear", "cyclical" or "constant".
        warmup_epochs: The length of the linear warm-up in epochs.
        cycle_epochs: The length of a cycle in epochs.
        cycles: The number of cycles.
        cycle_ramp: The fraction of a cycle in which the weight grows.

    Raises:
        ValueError: If an option is out of its range, or belongs to another schedule.

    References:
        Ladder Variational Autoencoders (Sonderby et al., 2016), https://arxiv.org/abs/1602.02282;
        Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing (Fu et al.,
        2019), https://arxiv.org/abs/1903.10145
    """

    name: ScheduleName = "linear"
    warmup_epochs: float = 0.0
    cycle_epochs: float = 0.0
    cycles: int = 4
    cycle_ramp: float = 0.5

    def __post_init__(self) -> None:
        check_choice(ScheduleName, schedule=self.name)
        for name, schedule in (("warmup_epochs", "linear"), ("cycle_epochs", "cyclical")):
            epochs = getattr(self, name)
            check_nonnegative(**{name: epochs})
            if epochs and self.name != schedule:
                raise ValueError(f"{name} belongs to the schedule {schedule}, got {self.name}.")
        if self.name == "cyclical" and not self.cycle_epochs:
            raise ValueError("the schedule cyclical needs cycle_epochs above 0, got 0.")
        check_at_least(1, cycles=self.cycles)
        if not 0 < self.cycle_ramp <= 1:
            raise ValueError(f"cycle_ramp must be above 0 and at most 1, got {self.cycle_ramp}.")

    @property
    def epochs(self) -> float:
        """The number of epochs after which the weight is constant."""
        return self.cycles * self.cycle_epochs if self.name == "cyclical" else self.warmup_epochs

    def share(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """w(t) at t = `progress` epochs."""
        if self.name == "cyclical":
            elapsed = (progress / self.cycle_epochs).remainder(1)
            share = (elapsed / self.cycle_ramp).clamp(max=1)
            return torch.where(progress < self.epochs, share, torch.ones_like(share))
        return ramp(progress, self.epochs)


def ramp(progress: Float[Tensor, ""], epochs: float) -> Float[Tensor, ""]:
    """min(t / epochs, 1), and 1 throughout if `epochs` is 0."""
    return (progress / epochs).clamp(max=1) if epochs else torch.ones_like(progress)


@dataclass(frozen=True)
class FreeBits:
    """sum_g max(lambda, mean over the batch of KL_g), over groups g of coordinates of the code.

    Below lambda the KL of a group has no gradient, so nothing pulls the guide to the prior there:
    each group that the decoder can use keeps about lambda nats.

    Args:
        minimum: lambda, in nats; 0 for none.
        per: "dimension" for a group per coordinate, "group" for equal runs of them, "rate" for a
            single group, the whole code.
        groups: The number of runs, with "group" only.

    Raises:
        ValueError: If an option is out of its range, or has no effect.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        appendix C.8, https://arxiv.org/abs/1606.04934
    """

    minimum: float = 0.0
    per: FreeBitsPer = "dimension"
    groups: int | None = None

    def __post_init__(self) -> None:
        check_nonnegative(free_bits=self.minimum)
        check_choice(FreeBitsPer, free_bits_per=self.per)
        if self.groups is not None:
            check_at_least(1, free_bits_groups=self.groups)
        if (self.per == "group") != (self.groups is not None):
            raise ValueError(
                "free_bits_groups and free_bits_per group need each other, got "
                f"{self.groups} and {self.per}."
            )

    def check(self, coordinates: int) -> None:
        """Check that the groups are of equal size.

        Raises:
            ValueError: If they do not divide the number of coordinates.
        """
        if self.groups is not None and coordinates % self.groups:
            raise ValueError(
                f"free_bits_groups must divide the {coordinates} coordinates of the code, "
                f"got {self.groups}."
            )

    def group(
        self, by_coordinate: Float[Tensor, "batch coordinates"]
    ) -> Float[Tensor, "batch groups"]:
        """The KL of each group, from that of each coordinate."""
        if self.groups is None:
            return by_coordinate
        return by_coordinate.unflatten(-1, (self.groups, -1)).sum(-1)

    def penalty(self, kl: Float[Tensor, "batch groups"]) -> Float[Tensor, " batch"]:
        """Terms per example whose mean over the batch is the sum over groups, with its gradient.

        An example's term is lambda for each group whose mean is below it, and its own KL for the
        others, so it depends on the rest of the batch.
        """
        above = kl.mean(0) > self.minimum
        return torch.where(above, kl, torch.full_like(kl, self.minimum)).sum(-1)


@dataclass(frozen=True)
class Capacity:
    """|mean over the batch of KL - C(t)|, with C(t) = nats min(t / epochs, 1) after t epochs.

    It pulls the KL to C from both sides; with 0 epochs, C is constant.

    Args:
        nats: C at the end, in nats.
        epochs: C grows linearly from 0 over this many epochs.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Understanding disentangling in beta-VAE (Burgess et al., 2018),
        https://arxiv.org/abs/1804.03599
    """

    nats: float
    epochs: float = 0.0

    def __post_init__(self) -> None:
        check_nonnegative(capacity=self.nats, capacity_epochs=self.epochs)

    def at(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """C(t) at t = `progress` epochs, in nats."""
        return self.nats * ramp(progress, self.epochs)

    def penalty(
        self, kl: Float[Tensor, " batch"], progress: Float[Tensor, ""]
    ) -> Float[Tensor, " batch"]:
        """Terms per example whose mean over the batch is |mean KL - C(t)|, with its gradient.

        All have the sign of the mean, so a single one may be below 0 and depends on the rest of
        the batch.
        """
        excess = kl - self.at(progress)
        return excess.mean(0).detach().sign() * excess
