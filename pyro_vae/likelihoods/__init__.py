"""Likelihoods p(x | z).

A likelihood is an `nn.Module` that owns its decoder. `likelihood(z)`, with z `(*batch,
latent_dim)`, returns a distribution with batch shape `(*batch,)` and the event shape of the data,
which has a `mean`. It declares in `support` the data on which the density is defined (binary,
unit, real, integers or counts) and asks its decoder for the outputs per element that it needs;
`Likelihood` does the latter.
"""

from torch import nn

from pyro_vae.likelihoods.continuous import (
    Beta,
    ContinuousBernoulli,
    Laplace,
    LogitNormal,
    LowRankNormal,
    Normal,
    StudentT,
)
from pyro_vae.likelihoods.counts import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyro_vae.likelihoods.discrete import (
    AutoregressiveBernoulli,
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    LogisticMixture,
)
from pyro_vae.likelihoods.likelihood import Likelihood as Likelihood
from pyro_vae.likelihoods.likelihood import find_units as find_units
from pyro_vae.likelihoods.likelihood import wrap_encoder as wrap_encoder

LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "autoregressive_bernoulli": AutoregressiveBernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "beta": Beta,
    "logit_normal": LogitNormal,
    "normal": Normal,
    "laplace": Laplace,
    "student_t": StudentT,
    "low_rank_normal": LowRankNormal,
    "discretized_logistic": DiscretizedLogistic,
    "logistic_mixture": LogisticMixture,
    "categorical": Categorical,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "multinomial": Multinomial,
}
