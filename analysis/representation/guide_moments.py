"""Mean and variance of q(z | x), datum by datum."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from analysis.check import UndefinedCheckError
from analysis.predictive.model_samples import block_size, has_density, latent_site, to_array
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import as_floats, evaluation_mode

# Where a distribution has no formula for its moments, they are those of so many draws: the mean's own
# error adds 1 / DRAWS of the variance to a squared error.
DRAWS = 200


def guide_moments(
    vae: Any, x: Real[Tensor, " n *event"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "n latent"], Float[np.ndarray, "n latent"]]:
    """E[z_j] and Var[z_j] under q(z | x).

    On the sphere, where the coordinates' axes mean nothing, each has the same share of the variance in
    all, 1 - |E[z]|^2.

    Args:
        vae: A program with one latent site.
        x: Data in the likelihood's support, on the program's device.
        seed: The seed of draws, for a guide without formulas for its moments, such as a flow.

    Raises:
        UndefinedCheckError: If the guide is a point, its variance is not finite, or there are several
            latent sites.
    """
    site = latent_site(vae)
    if not has_density(vae, x):
        raise UndefinedCheckError("q(z | x) is a point: it has no scale.")
    sphere = getattr(getattr(vae, "posterior", None), "support", None) == "sphere"
    means, variances = [], []
    with evaluation_mode(vae, seed=seed):
        for block in x.split(block_size(x, 1)):
            trace = poutine.trace(vae.guide).get_trace(as_floats(block))
            distribution: Any = distribution_at(trace, site)
            mean, variance = _moments(distribution, sphere)
            means.append(to_array(mean).reshape(len(block), -1))
            variances.append(to_array(variance).reshape(len(block), -1))
    mean, variance = (np.concatenate(parts).astype(np.float64) for parts in (means, variances))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise UndefinedCheckError("q(z | x) has no finite mean and variance.")
    return mean, variance


def _moments(distribution: Any, sphere: bool) -> tuple[Tensor, Tensor]:
    try:
        mean = distribution.mean
        if not sphere:
            return mean, distribution.variance
    except (NotImplementedError, AttributeError):
        draws = distribution.sample((DRAWS,)).double()
        return draws.mean(0), draws.var(0)
    mean = mean.double()
    spread = (1 - mean.square().sum(-1, keepdim=True)) / mean.shape[-1]
    return mean, torch.clamp(spread, min=0).expand_as(mean)
