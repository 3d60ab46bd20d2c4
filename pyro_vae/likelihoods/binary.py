"""Likelihoods of binary data."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyro_vae.likelihoods.likelihood import Likelihood


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z))), for x in {0, 1}.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.1,
        https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "binary"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return dist.Bernoulli(logits=logits).to_event(self.event_dim)
