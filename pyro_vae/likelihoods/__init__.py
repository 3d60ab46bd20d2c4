"""Likelihoods p(x | z).

A likelihood is an `nn.Module` that owns its decoder. `likelihood(z)`, with z `(*batch, latent_dim)`,
returns a distribution with batch shape `(*batch,)` and the datum's event shape, which has a `mean`.
It declares in `support` the data it is a density on (binary, unit, real, integers, counts) and asks
its decoder for as many outputs an element as it needs; `Likelihood` does the latter.
"""

from torch import nn

from pyro_vae.likelihoods.binary import Bernoulli
from pyro_vae.likelihoods.continuous import ContinuousBernoulli, Normal
from pyro_vae.likelihoods.counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyro_vae.likelihoods.likelihood import Likelihood

LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "normal": Normal,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "multinomial": Multinomial,
}

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "ContinuousBernoulli",
    "Likelihood",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
