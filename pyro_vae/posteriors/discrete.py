"""Posteriors of discrete variables."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Real
from torch import Tensor

from pyro_vae.checks import check_choice, check_positive
from pyro_vae.distributions import OneHots
from pyro_vae.distributions.ranges import TEMPERATURES
from pyro_vae.distributions.straight_through import Estimator
from pyro_vae.networks import NetworkFactory
from pyro_vae.posteriors.posterior import Posterior


class OneHot(Posterior):
    """q(z | x) = prod_v Categorical(z_v | softmax(f_v(x))), one-hot and flattened.

    Its density is a mass; the gradient of its draws is a biased straight-through one. The code is the
    probabilities.

    Args:
        latent_dim: The length of z: variables times values.
        values: The number of values of a variable, which divides `latent_dim`; None for one variable
            of `latent_dim` values.
        encoder: Output shape -> network f that reads x.
        temperature: The temperature of the relaxation whose gradient is used, from 1e-3 to 1e3.
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
        self.values = latent_dim if values is None else values
        if self.values < 2 or latent_dim < 1 or latent_dim % self.values:
            raise ValueError(
                f"values must be at least 2 and divide latent_dim = {latent_dim}, got {self.values}."
            )
        check_positive(TEMPERATURES, temperature=temperature)
        check_choice(Estimator, estimator=estimator)
        super().__init__(latent_dim, encoder)
        self.temperature = temperature
        self.estimator: Estimator = estimator

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(variables, values)."""
        return (self.latent_dim // self.values, self.values)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return OneHots(self.encoder(x), self.temperature, self.estimator)
