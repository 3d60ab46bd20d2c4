"""A point mass as the posterior: the encoder of a plain or a denoising autoencoder."""

import math
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.checks import check_choice
from pyro_vae.networks import NetworkFactory, user_units
from pyro_vae.posteriors.posterior import Posterior

Corruption = Literal["none", "masking", "gaussian", "salt_and_pepper"]


class Point(Posterior):
    """q(z | x) = delta(z - f(x)): all mass at one code, which makes the pair a plain autoencoder.

    It has no density: neither an ELBO nor log p(x) is defined, and the objective is `reconstruction`,
    which neither uses nor trains the prior.

    With a corruption it is a denoising autoencoder: in training f reads c(x), redrawn at each visit,
    while the likelihood still sees x. In evaluation mode f reads x itself, as `embed` always does.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        corruption: "masking" sets each element of x to 0 with probability `strength`; "gaussian" adds
            `strength` N(0, 1), times levels - 1 for integers; "salt_and_pepper" sets each element with
            probability `strength` to the lowest or the highest value, with equal probability.
        strength: The amount of corruption; 0 changes nothing.
        data_support: What x is: binary, unit, real, integers or counts. Binary and unit data have the
            extremes 0 and 1, integers 0 and levels - 1.
        levels: The number of levels of integers.

    Raises:
        ValueError: If `latent_dim` is below 1, `corruption` is unknown, `strength` is out of its range
            ([0, 1], or at least 0 for "gaussian"), or undefined for data of this support.

    References:
        Stacked Denoising Autoencoders (Vincent et al., 2010), section 3.3,
        https://www.jmlr.org/papers/v11/vincent10a.html
    """

    has_density: ClassVar[bool] = False

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        corruption: Corruption = "none",
        strength: float = 0.25,
        data_support: str = "unit",
        levels: int | None = None,
    ) -> None:
        check_choice(Corruption, corruption=corruption)
        if corruption == "gaussian" and not 0 <= strength < math.inf:
            raise ValueError(f"strength must be at least 0 and finite, got {strength}.")
        if corruption != "gaussian" and not 0 <= strength <= 1:
            raise ValueError(f"strength must be a share from 0 to 1, got {strength}.")
        if corruption == "salt_and_pepper" and data_support in ("real", "counts"):
            raise ValueError(
                f"salt_and_pepper needs data with a lowest and a highest value, got {data_support} data: "
                "use masking."
            )
        if corruption != "none" and data_support == "integers" and levels is None:
            raise ValueError("a corruption of integers needs their number of levels, got None.")
        super().__init__(latent_dim, encoder)
        self.corruption: Corruption = corruption
        self.strength = strength
        self.highest = levels - 1 if data_support == "integers" and levels is not None else 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(latent_dim,)."""
        return (self.latent_dim,)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        if self.training:
            x = self.corrupt(x)
        return dist.Delta(self.encoder(x)).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The code f(x) of the uncorrupted x, also in training."""
        return self.encoder(x)

    def corrupt(self, x: Real[Tensor, "*batch_event"]) -> Real[Tensor, "*batch_event"]:
        """c(x), with noise from the global random stream."""
        if self.corruption == "none" or self.strength == 0:
            return x
        units = user_units(self.encoder)
        if self.corruption == "gaussian":
            noise = torch.randn(x.shape, device=x.device)
            spread = self.highest if units is None else units.spread
            return x + self.strength * spread * noise
        u = torch.rand(x.shape, device=x.device)
        if self.corruption == "masking":
            middle = x.new_zeros(()) if units is None else units.center.to(x.dtype)
            return torch.where(u < self.strength, middle, x)
        pepper, salt = u < self.strength / 2, (u >= self.strength / 2) & (u < self.strength)
        return x.masked_fill(pepper, 0).masked_fill(salt, self.highest)
