"""Densities and moments of a program at given codes and data, and the support of its latent variable."""

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from analysis.predictive.model_samples import (
    UndefinedCheckError,
    as_floats,
    block_size,
    has_density,
    latent_site,
    narrowed,
    to_array,
)
from pyro_vae.inference_data import unconditioned
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import evaluation_mode

# Draws that replace the formulas of moments where a distribution has none: the mean's own error adds
# 1 / DRAWS of the variance to a squared error.
DRAWS = 200


def continuous_support(vae: Any) -> str:
    """The support of z, as priors declare it: "real", "positive", "unit", "simplex", "sphere", "sparse".

    A program that declares none is taken to be on R^d.

    Raises:
        UndefinedCheckError: If there are several latent sites, or z is one-hot.
    """
    latent_site(vae)
    support = getattr(getattr(vae, "prior", None), "support", "real")
    if support == "one_hot":
        raise UndefinedCheckError(
            "continuity is not defined for one-hot codes: nothing lies between two of them."
        )
    return support


def check_codes(codes: Float[np.ndarray, "n latent"], fewest: int) -> None:
    """Validate codes.

    Raises:
        ValueError: If there are fewer than `fewest`, or one is not finite.
    """
    if len(codes) < fewest:
        raise ValueError(f"at least {fewest} codes are needed, got {len(codes)}.")
    if not np.isfinite(codes).all():
        bad = int((~np.isfinite(codes)).any(1).sum())
        raise ValueError(f"codes must be finite, got {bad} of {len(codes)} that are not.")


def prior_and_data_at(
    vae: Any,
    codes: Float[np.ndarray, "n latent"],
    like: Real[Tensor, " _ *event"],
    *,
    seed: int,
) -> tuple[Float[np.ndarray, " n"], Real[np.ndarray, " n *event"]]:
    """log p(z), in nats, and a draw x ~ p(x | z) at each code, in the narrowest type that holds the draws.

    Args:
        vae: A program with `model(x)`, one latent site and the observed site `"x"`.
        codes: In the support of z.
        like: Data in the likelihood's support, which give shape and device.
        seed: The seed of the draws.
    """
    site = latent_site(vae)
    z = torch.as_tensor(codes, dtype=torch.get_default_dtype(), device=like.device)
    densities, data = [], []
    with evaluation_mode(vae, seed=seed):
        for part in z.split(block_size(like, 1)):
            model = poutine.condition(unconditioned(vae.model), data={site: part})
            x = as_floats(like[:1]).expand(len(part), *like.shape[1:])
            nodes = cast("dict[str, Any]", poutine.trace(model).get_trace(x).nodes)
            densities.append(to_array(nodes[site]["fn"].log_prob(part)).astype(np.float64))
            data.append(narrowed(to_array(nodes["x"]["value"])))
    return np.concatenate(densities).reshape(len(codes)), np.concatenate(data)


def guide_moments(
    vae: Any, x: Real[Tensor, " n *event"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "n latent"], Float[np.ndarray, "n latent"]]:
    """E[z_j] and Var[z_j] under q(z | x).

    On the sphere, whose coordinate axes have no meaning, each coordinate has an equal share of the total
    variance, 1 - |E[z]|^2.

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
        raise UndefinedCheckError("q(z | x) is a point and has no scale.")
    sphere = getattr(getattr(vae, "posterior", None), "support", None) == "sphere"
    means, variances = [], []
    with evaluation_mode(vae, seed=seed):
        for block in x.split(block_size(x, 1)):
            trace = poutine.trace(vae.guide).get_trace(as_floats(block))
            mean, variance = _moments(distribution_at(trace, site), sphere)
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
    variance = (1 - mean.square().sum(-1, keepdim=True)) / mean.shape[-1]
    return mean, torch.clamp(variance, min=0).expand_as(mean)
