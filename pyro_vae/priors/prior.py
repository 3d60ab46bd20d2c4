"""The base of the priors, and the wrapper of their decoders."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import check_at_least
from pyro_vae.networks import NetworkFactory, on_simplex_scale

# Support -> how a decoder of such codes is wrapped, to read them on a suitable scale.
DECODER_WRAPPERS: dict[str, Callable[[NetworkFactory], NetworkFactory]] = {
    "simplex": on_simplex_scale,
}


class Prior(nn.Module):
    """p(z). Abstract: a prior declares its support and has `forward`.

    Args:
        latent_dim: The dimension of z.

    Raises:
        ValueError: If `latent_dim` is below `minimum_dim`.
    """

    # The space of z: real, positive, unit, simplex, sphere, one_hot or sparse.
    support: ClassVar[str]
    minimum_dim: ClassVar[int] = 1
    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_at_least(self.minimum_dim, latent_dim=latent_dim)
        self.latent_dim = latent_dim
        # A buffer, so that .to(device) moves it.
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        raise NotImplementedError

    def full(self, value: float) -> Tensor:
        """A parameter with the same value for each coordinate, `(latent_dim,)`."""
        return self.zeros + value


def wrap_decoder(prior: Any, decoder: NetworkFactory) -> NetworkFactory:
    """A decoder that reads a prior's codes on a suitable scale.

    Args:
        prior: The prior's class. Its static method `wrap_decoder(decoder)` is used, if it has one;
            otherwise the wrapper for its support, if there is one.
        decoder: Output shape -> network that reads z.
    """
    wrap = getattr(prior, "wrap_decoder", None) or DECODER_WRAPPERS.get(prior.support)
    return decoder if wrap is None else wrap(decoder)
