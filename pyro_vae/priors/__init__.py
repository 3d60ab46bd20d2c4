"""Priors p(z).

A prior is an `nn.Module` called without arguments. It returns a distribution with batch shape `()`
and event shape `(latent_dim,)`, has `latent_dim`, and declares its `support` as a word. `build`
hands the constructor, by name, what it asks for among `latent_dim, event_shape, encoder, decoder,
posterior, train_data, train_size`. A prior never computes its own KL: that is the objective's
task.
"""

from torch import nn

from pyro_vae.priors.constrained import (
    Beta,
    Dirichlet,
    Gamma,
    LogisticNormal,
    LogNormal,
    OneHot,
    PowerSpherical,
    SphericalUniform,
    VonMisesFisher,
)
from pyro_vae.priors.flows import AutoregressiveFlow, Flow, SplineFlow
from pyro_vae.priors.mixture import GaussianMixture, Vamp
from pyro_vae.priors.prior import Prior as Prior
from pyro_vae.priors.prior import wrap_decoder as wrap_decoder
from pyro_vae.priors.real import Laplace, Logistic, SpikeAndSlab, StandardNormal, StudentT

PRIORS: dict[str, type[nn.Module]] = {
    "standard_normal": StandardNormal,
    "laplace": Laplace,
    "student_t": StudentT,
    "logistic": Logistic,
    "gaussian_mixture": GaussianMixture,
    "vamp": Vamp,
    "flow": Flow,
    "spline_flow": SplineFlow,
    "autoregressive_flow": AutoregressiveFlow,
    "log_normal": LogNormal,
    "gamma": Gamma,
    "beta": Beta,
    "dirichlet": Dirichlet,
    "logistic_normal": LogisticNormal,
    "spherical_uniform": SphericalUniform,
    "power_spherical": PowerSpherical,
    "von_mises_fisher": VonMisesFisher,
    "one_hot": OneHot,
    "spike_and_slab": SpikeAndSlab,
}
