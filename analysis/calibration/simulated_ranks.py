"""Rank the code that generated an example among the guide's draws for that example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int, Real
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from analysis.model_samples import block_size, latent_site, new_data, to_array
from analysis.result import UndefinedCheckError
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.log_densities import require_density
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode
from pyro_vae.statistics import machine_epsilon, rounding_error, withheld

# Quantities ranked beside each latent dimension. Each is a function of all dimensions.
LOG_GUIDE = "log q(z | x)"
LOG_LIKELIHOOD = "log p(x | z)"
LOG_JOINT = "log p(x, z)"
LOG_WEIGHT = "log weight"
JOINT = (LOG_GUIDE, LOG_LIKELIHOOD, LOG_JOINT, LOG_WEIGHT)


@dataclass(frozen=True)
class Ranks:
    """The ranks of n simulations in several quantities.

    Args:
        ranks: The number of an example's draws below its true code, from 0 to `num_draws`, with
            ties broken at random.
        names: The quantities: each latent dimension, then `JOINT`.
        num_draws: The number L of the guide's draws per example.
        rate: The mean over an example's draws of log q(z | x) - log p(z), in nats.
    """

    ranks: Int[np.ndarray, "n quantities"]
    names: Sequence[str]
    num_draws: int
    rate: Float[np.ndarray, " n"]


def simulated_ranks(
    vae: Any, like: Real[Tensor, " _ *event"], n: int, *, num_draws: int = 199, seed: int = 0
) -> Ranks:
    """The rank of T(z*, x) among T(z_l, x), z* ~ p(z), x ~ p(x | z*), z_1, ..., z_L ~ q(z | x).

    If q(z | x) = p(z | x), then z* and the z_l are L + 1 draws from one distribution, and the rank
    of any T is uniform on 0, ..., L, independently for each example. An amortised guide accepts
    any x, so that nothing is fitted again.

    T is each latent dimension in turn, and four functions of all of z: log q(z | x), which for a
    normal guide is its chi-square; log p(x | z) and log p(x, z), which depend on the data; and the
    log weight log p(x, z) - log q(z | x), which orders codes by the ratio of posterior and guide
    and so discriminates best between the two.

    Args:
        vae: A program with `model(x)`, `guide(x)`, one latent site and the observed site `"x"`.
        like: At least one example in the likelihood's support, for its shape and device.
        n: The number of simulations.
        num_draws: The number L of draws for each.
        seed: The seed of all draws. The global random state is not changed.

    Raises:
        UndefinedCheckError: If there are several latent sites, a log density is NaN, or rounding
            errors dominate it.
        NoDensityError: If the guide has all its mass at one point.
        ValueError: If `n` or `num_draws` is below 1.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        2018), https://arxiv.org/abs/1804.06788; Simulation-Based Calibration Checking for Bayesian
        Computation: The Choice of Test Quantities Shapes Sensitivity (Modrák et al., 2023),
        https://arxiv.org/abs/2211.02383
    """
    for word, value in (("n", n), ("num_draws", num_draws)):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    site = latent_site(vae)
    true = new_data(vae, like, n, seed=seed)
    size = block_size(like, num_draws + 1)
    blocks = []
    with evaluation_mode(vae, seed=derive_seed(seed, "simulated ranks")):
        for start in range(0, n, size):
            x, z = (
                torch.as_tensor(values[start : start + size], device=like.device)
                for values in (true.x, true.z)
            )
            with pyro.validation_enabled(start == 0), FastFunctions():
                blocks.append(_rank_block(vae, site, z, as_floats(x), num_draws))
    ranks, rate, errors, log_densities = map(np.concatenate, zip(*blocks, strict=True))
    if reason := withheld(errors, log_densities):
        raise UndefinedCheckError(reason)
    names = [f"{site}[{index}]" for index in range(ranks.shape[1] - len(JOINT))]
    return Ranks(ranks, (*names, *JOINT), num_draws, rate)


def _rank_block(
    vae: Any, site: str, true: Tensor, x: Tensor, num_draws: int
) -> tuple[Int[np.ndarray, "block quantities"], *tuple[Float[np.ndarray, " block"], ...]]:
    """The ranks, the rate, and rounding error and size of log p(x, z) at the true code."""
    data = torch.arange(len(x), device=x.device)
    # At a random place, since rounding may depend on it and would separate equal values.
    place = torch.randint(num_draws + 1, (len(x),)).to(x.device)
    guide = _trace(vae.guide, x, num_draws + 1)
    require_density(guide, "simulation-based calibration")
    codes = guide.nodes[site]["value"].clone()
    codes[place, data] = true.to(codes.dtype)
    guide.nodes[site]["value"] = codes
    model = _trace(vae.model, x, num_draws + 1, replayed=guide)
    log_guide = _log_density(guide, list(guide.nodes))
    log_prior = _log_density(model, [site])
    log_likelihood = _log_density(model, [name for name in model.nodes if name != site])
    log_joint = log_likelihood + log_prior
    joint = torch.stack([log_guide, log_likelihood, log_joint, log_joint - log_guide], -1)
    quantities = torch.cat([codes.flatten(2).double(), joint], -1)
    if bool(quantities.isnan().any()):
        raise UndefinedCheckError("a code or a log density is NaN and cannot be ranked.")
    at_true = quantities[place, data]
    below = (quantities < at_true).sum(0)
    ties = (quantities == at_true).sum(0) - 1
    ranks = below + (torch.rand(ties.shape) * (ties.cpu() + 1)).long().to(x.device)
    ratio = log_guide - log_prior
    rate = (ratio.sum(0) - ratio[place, data]) / num_draws
    # The guide's error is left out: where a true code is far outside, its rank is clear anyway.
    terms = [to_array(term[place, data]) for term in (log_likelihood, log_prior)]
    error = rounding_error(*terms, eps=machine_epsilon(vae))
    return to_array(ranks), to_array(rate), error, terms[0]


def _trace(program: Any, x: Tensor, num_particles: int, *, replayed: Trace | None = None) -> Any:
    """Trace vectorised runs of a program, with the codes of another trace if there is one."""
    particles = pyro.plate("num_particles_vectorized", num_particles, dim=-2)(program)
    if replayed is not None:
        particles = poutine.replay(particles, trace=replayed)
    return prune_subsample_sites(poutine.trace(particles).get_trace(x))


def _log_density(trace: Any, names: Sequence[str]) -> Float[Tensor, "particles batch"]:
    trace.compute_log_prob()
    sites = (trace.nodes[name] for name in names)
    terms = [site["unscaled_log_prob"].double() for site in sites if site["type"] == "sample"]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)
