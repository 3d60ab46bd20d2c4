"""Likelihoods of counts."""

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.networks import NetworkFactory

# A floor under every rate: softplus underflows to 0 in float32, and log 0 is not finite.
MINIMUM_RATE = 1e-6


class Poisson(nn.Module):
    """p(x | z) = prod_i Poisson(x_i | lambda_i), lambda = softplus(f(z)), for counts x.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.

    References:
        Neural Variational Inference for Text Processing (Miao et al., 2016) uses counts of words in
        a VAE, https://arxiv.org/abs/1511.06038
    """

    support: ClassVar[str] = "counts"

    def __init__(self, event_shape: Sequence[int], decoder: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = decoder((1, *self.event_shape))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        event_dim = len(self.event_shape)
        (outputs,) = self.decoder(z).unbind(-1 - event_dim)
        return dist.Poisson(F.softplus(outputs) + MINIMUM_RATE).to_event(event_dim)
