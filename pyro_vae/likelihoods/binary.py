"""Likelihoods of binary data."""

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyro_vae import distributions
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks import MaskedMLP, NetworkFactory


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z))), for x in {0, 1}.

    Args:
        event_shape: The shape of a data point.
        decoder: Output shape -> network f that reads z.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.1,
        https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "binary"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return dist.Bernoulli(logits=logits).to_event(self.event_dim)


class AutoregressiveBernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z) + g_i(x_<i, f(z)))), for x in {0, 1}.

    g is a masked perceptron over the elements in row-major order with f(z) as context, so that z also
    changes how an element depends on those before. Such a decoder can model the data alone: then z is
    ignored and KL(q(z | x) || p(z)) goes to 0, the sooner the better the network. A small `hidden`, free
    bits or a beta below 1 keep z in use.

    `mean` is not E[x | z], which has no closed form, but a pass with probabilities in place of draws.

    Args:
        event_shape: The shape of a data point.
        decoder: Output shape -> network f that reads z.
        hidden: The number of hidden units of g.

    Raises:
        ValueError: If `hidden` is below 1.

    References:
        Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731;
        MADE (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    """

    support: ClassVar[str] = "binary"

    def __init__(
        self, event_shape: Sequence[int], decoder: NetworkFactory, hidden: int = 200
    ) -> None:
        super().__init__(event_shape, decoder)
        elements = math.prod(self.event_shape)
        self.masked = MaskedMLP(elements, elements, hidden)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        start = self.masked.start(logits.flatten(logits.dim() - self.event_dim))
        return distributions.AutoregressiveBernoulli(logits, start, self.masked, self.event_dim)
