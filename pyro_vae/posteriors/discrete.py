"""Posteriors of discrete variables."""

from typing import ClassVar, get_args

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.distributions import OneHots
from pyro_vae.distributions.one_hot import Estimator
from pyro_vae.distributions.ranges import TEMPERATURES, check_positive
from pyro_vae.networks import NetworkFactory


class OneHot(nn.Module):
    """q(z | x) = prod_v Categorical(z_v | softmax(f_v(x))), one-hot and flattened.

    Its density is a mass; the gradient of its draws is a straight-through one, and biased.

    Args:
        latent_dim: The length of z: variables times values.
        values: The number of values of a variable, which divides `latent_dim`; None for one variable
            of `latent_dim` values.
        encoder: Output shape -> network f that reads x.
        temperature: The temperature of the relaxation whose gradient is taken, from 1e-3 to 1e3.
        estimator: "gumbel_softmax", or "straight_through" for the gradient of the probabilities.

    Raises:
        ValueError: If `values` does not divide `latent_dim`, or an option is out of its range.
    """

    support: ClassVar[str] = "one_hot"

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        values: int | None = None,
        temperature: float = 1.0,
        estimator: Estimator = "gumbel_softmax",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.values = latent_dim if values is None else values
        if self.values < 2 or latent_dim < 1 or latent_dim % self.values:
            raise ValueError(
                f"values must be at least 2 and divide latent_dim = {latent_dim}, got {self.values}."
            )
        check_positive("temperature", temperature, TEMPERATURES)
        if estimator not in get_args(Estimator):
            raise ValueError(
                f"estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}."
            )
        self.temperature = temperature
        self.estimator: Estimator = estimator
        self.encoder = encoder((latent_dim // self.values, self.values))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return OneHots(self.encoder(x), self.temperature, self.estimator)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The probabilities."""
        return self(x).mean
