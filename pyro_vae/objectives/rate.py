"""What is paid for the rate, the KL of the guide to the prior: all of it, or what it is off a target."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.objectives.schedules import ramp

FreeBitsPer = Literal["dimension", "group", "rate"]


@dataclass(frozen=True)
class FreeBits:
    """sum_g max(lambda, mean over the batch of KL_g), over groups g of coordinates of the code.

    Below lambda a group's KL has no gradient, so that nothing draws the guide to the prior there:
    each group that the decoder can use keeps some lambda nats.

    Args:
        minimum: lambda, in nats; 0 for none.
        per: "dimension" for a group for each coordinate, "group" for equal runs of them, "rate" for
            one group, the whole code.
        groups: The number of runs, with "group" alone.

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
        if not 0 <= self.minimum < math.inf:
            raise ValueError(f"free_bits must be at least 0 and finite, got {self.minimum}.")
        if self.per not in get_args(FreeBitsPer):
            raise ValueError(
                f"free_bits_per must be one of {', '.join(get_args(FreeBitsPer))}, got {self.per!r}."
            )
        if self.groups is not None and self.groups < 1:
            raise ValueError(f"free_bits_groups must be at least 1, got {self.groups}.")
        if (self.per == "group") != (self.groups is not None):
            raise ValueError(
                "free_bits_groups goes with free_bits_per group, and that with it, got "
                f"{self.groups} and {self.per}."
            )

    def check(self, coordinates: int) -> None:
        """Make sure that the groups are of equal size.

        Raises:
            ValueError: If they do not divide the number of coordinates.
        """
        if self.groups is not None and coordinates % self.groups:
            raise ValueError(
                f"free_bits_groups must divide the {coordinates} coordinates of the code, "
                f"got {self.groups}."
            )

    def grouped(
        self, by_coordinate: Float[Tensor, "batch coordinates"]
    ) -> Float[Tensor, "batch groups"]:
        """The KL of each group, from that of each coordinate."""
        if self.groups is None:
            return by_coordinate
        return by_coordinate.unflatten(-1, (self.groups, -1)).sum(-1)

    def paid(self, kl: Float[Tensor, "batch groups"]) -> Float[Tensor, " batch"]:
        """Terms of each datum whose mean over the batch is the sum, with its gradient.

        A datum's term is lambda for each group that is below it in the mean, and its own KL for the
        others. So it depends on the rest of the batch.
        """
        above = kl.mean(0) > self.minimum
        return torch.where(above, kl, torch.full_like(kl, self.minimum)).sum(-1)


@dataclass(frozen=True)
class Capacity:
    """|mean over the batch of KL - C(t)|, with C(t) = nats min(t / epochs, 1) after t epochs.

    It draws the rate to C from both sides: with 0 epochs, to a target that never moves.

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
        for name, value in (("capacity", self.nats), ("capacity_epochs", self.epochs)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}.")

    def at(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """C(t) at t = `progress` epochs, in nats."""
        return self.nats * ramp(progress, self.epochs)

    def paid(
        self, kl: Float[Tensor, " batch"], progress: Float[Tensor, ""]
    ) -> Float[Tensor, " batch"]:
        """Terms of each datum whose mean over the batch is |mean KL - C(t)|, with its gradient.

        All have the sign of the mean, so one datum's may be below 0, and it depends on the rest of
        the batch.
        """
        off = kl - self.at(progress)
        return off.mean(0).detach().sign() * off
