"""Variational autoencoders written as Pyro programs.

A VAE is three distributions: a prior p(z), a likelihood p(x | z) and a posterior q(z | x). Swap
any of them in one line, train the pair by stochastic variational inference, and learn whether the
result is any good.
"""

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.model import VAE, build
from pyro_vae.runs import load
from pyro_vae.training import fit
from pyro_vae.version import __version__

__all__ = [
    "VAE",
    "__version__",
    "build",
    "fit",
    "likelihoods",
    "load",
    "networks",
    "posteriors",
    "priors",
]
