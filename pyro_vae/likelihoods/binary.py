"""Likelihoods of binary data."""

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.networks import NetworkFactory


class Bernoulli(nn.Module):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z))), for x in {0, 1}.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.1,
        https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "binary"

    def __init__(self, event_shape: Sequence[int], decoder: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = decoder((1, *self.event_shape))

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        event_dim = len(self.event_shape)
        (logits,) = self.decoder(z).unbind(-1 - event_dim)
        return dist.Bernoulli(logits=logits).to_event(event_dim)
