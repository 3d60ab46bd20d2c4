"""Priors of discrete variables."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import OneHots
from pyro_vae.priors.prior import Prior


class OneHot(Prior):
    """p(z) = prod_v Categorical(z_v | pi_v), one-hot and flattened; pi_v uniform, or learned.

    Args:
        latent_dim: The length of z: variables times values.
        values: The number of values of a variable, which divides `latent_dim`; None for one variable
            of `latent_dim` values.
        learned: Whether pi is learned.

    Raises:
        ValueError: If `values` does not divide `latent_dim`, or an option is out of its range.
    """

    support: ClassVar[str] = "one_hot"
    logits: Tensor

    def __init__(self, latent_dim: int, values: int | None = None, learned: bool = False) -> None:
        super().__init__(latent_dim)
        self.values = latent_dim if values is None else values
        if self.values < 2 or latent_dim % self.values:
            raise ValueError(
                f"values must be at least 2 and divide latent_dim = {latent_dim}, got {self.values}."
            )
        logits = torch.zeros(latent_dim // self.values, self.values)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self) -> dist.Distribution:
        return OneHots(self.logits)
