"""Likelihoods of counts."""

from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.likelihoods.likelihood import Likelihood

# A floor under every rate: softplus underflows to 0 in float32, and log 0 is not finite.
MINIMUM_RATE = 1e-6


class Poisson(Likelihood):
    """p(x | z) = prod_i Poisson(x_i | lambda_i), lambda = softplus(f(z)), for counts x.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.

    References:
        Neural Variational Inference for Text Processing (Miao et al., 2016) uses counts of words in
        a VAE, https://arxiv.org/abs/1511.06038
    """

    support: ClassVar[str] = "counts"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (outputs,) = self.outputs(z)
        return dist.Poisson(F.softplus(outputs) + MINIMUM_RATE).to_event(self.event_dim)
