"""The base of the posteriors, and the bounds on their parameters."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_at_least
from pyro_vae.networks import NetworkFactory

# A floor under every scale: softplus underflows to 0 in float32 below about -104.
MINIMUM_SCALE = 1e-5
# A floor under concentrations, below which draws underflow.
MINIMUM_CONCENTRATION = 0.05
# float32 represents squares and densities at e^20 and e^-20 with a scale of 5.
LARGEST_LOG = 20.0
LARGEST_SCALE = 5.0


class Posterior(nn.Module):
    """q(z | x) with parameters from an encoder. Abstract: a posterior has `forward`.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.

    Raises:
        ValueError: If `latent_dim` is below `minimum_dim`.
    """

    # The space of z, which is the prior's: real, positive, unit, simplex, sphere, one_hot or
    # sparse.
    support: ClassVar[str] = "real"
    # Whether q(z | x) has a density; if not, only the objective `reconstruction` is defined.
    has_density: ClassVar[bool] = True
    minimum_dim: ClassVar[int] = 1
    # The number of encoder outputs per coordinate of z.
    outputs_per_coordinate: int = 2

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        check_at_least(self.minimum_dim, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.encoder = encoder(self.output_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the encoder's output."""
        return (self.outputs_per_coordinate, self.latent_dim)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        raise NotImplementedError

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean."""
        return self(x).mean


def positive_scale(raw: Tensor) -> Tensor:
    """softplus(r) + 1e-5."""
    return F.softplus(raw) + MINIMUM_SCALE


def concentration(raw: Tensor) -> Tensor:
    """softplus(r + 1) + 0.05, about 1.4 at r = 0."""
    return F.softplus(raw + 1) + MINIMUM_CONCENTRATION


def bounded(value: Tensor, bound: float) -> Tensor:
    """b tanh(v / b): the value itself near 0, and within [-b, b]."""
    return bound * (value / bound).tanh()


def bounded_loc_and_scale(loc: Tensor, raw_scale: Tensor) -> tuple[Tensor, Tensor]:
    """A location within +-20 and a scale below 5, for logarithms of z."""
    return bounded(loc, LARGEST_LOG), bounded(positive_scale(raw_scale), LARGEST_SCALE)
