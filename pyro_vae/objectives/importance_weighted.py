"""Bounds of log p(x) from several weighted draws, tighter than the evidence lower bound."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.checks import check_at_least, check_share
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.latent_sites import check_weights, divergence
from pyro_vae.objectives.objective import Objective, ObjectiveValue


def log_mean_weight(
    log_weight: Float[Tensor, "*groups particles batch"],
) -> Float[Tensor, "*groups batch"]:
    """log 1/K sum_k w_k over each group's K particles, in nats.

    A weight of zero, -inf, has a gradient of zero as long as another weight is above zero.
    """
    return log_weight.logsumexp(-2) - math.log(log_weight.shape[-2])


def elbo_of(terms: LogDensities, kl_by_site: dict[str, str]) -> dict[str, Float[Tensor, " batch"]]:
    """The ELBO of the same draws, its reconstruction and its KL, without gradients, to log.

    Args:
        terms: The terms of the pair.
        kl_by_site: Filled with how each site's KL was computed: in closed form where there is one.
    """
    with torch.no_grad():
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, "auto", kl_by_site)
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}


class _Weighted(Objective):
    """An objective of importance weights. Abstract."""

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        check_weights(type(self).__name__, terms)


class IWAE(_Weighted):
    """E[log 1/K sum_k p(x, z_k) / q(z_k | x)], z_1, ..., z_K ~ q(z | x): at most log p(x).

    With K = 1 it is the ELBO with a Monte Carlo KL, and the bound never gets looser as K grows.
    The gradient is the full one of the logarithm: the guide's part of it loses its signal in noise
    as K grows. `dreg` is the same bound without that.

    Guides over vertices or exact zeros (`one_hot`, `spike_and_slab`) are possible: weights are
    then ratios of masses. Their straight-through gradient is biased here as in the ELBO.

    The ELBO, the reconstruction and the KL of the same draws are logged besides the bound.

    Args:
        num_particles: The number K of draws from the guide per example.

    Raises:
        ValueError: At construction, if `num_particles` is below 1. When called, if a latent site
            of the guide is not reparameterisable, or has a density where the model has a mass.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016),
        https://arxiv.org/abs/1509.00519
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        bound = log_mean_weight(terms.log_weight)
        return ObjectiveValue(-bound, {**elbo_of(terms, self.kl_by_site), "iwae": bound})


class MIWAE(_Weighted):
    """E[1/M sum_m log 1/K sum_k w_mk], w = p(x, z) / q(z | x): M groups of K draws from q(z | x).

    It is the bound of `iwae` with K draws, with M times less variance. Each example takes M K
    draws: at a given cost, more groups give the guide a clearer gradient and a looser bound. M = 1
    is `iwae`, K = 1 the ELBO with a Monte Carlo KL. Guides are restricted as in `iwae`.

    Args:
        groups: The number M of independent groups per example.
        particles_per_group: The number K of draws from the guide in a group.

    Raises:
        ValueError: At construction, if an option is below 1. When called, as `iwae`.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537
    """

    def __init__(self, groups: int = 4, particles_per_group: int = 4) -> None:
        check_at_least(1, groups=groups, particles_per_group=particles_per_group)
        super().__init__(groups * particles_per_group)
        self.groups, self.particles_per_group = groups, particles_per_group

    def value(self, terms: LogDensities) -> ObjectiveValue:
        # The number of groups is fixed, whatever the number of draws of the caller.
        grouped = terms.log_weight.unflatten(0, (self.groups, -1))
        bound = log_mean_weight(grouped).mean(0)
        return ObjectiveValue(-bound, {**elbo_of(terms, self.kl_by_site), "miwae": bound})


class CIWAE(_Weighted):
    """E[a 1/K sum_k log w_k + (1 - a) log 1/K sum_k w_k], w_k = p(x, z_k) / q(z_k | x).

    The ELBO's share a keeps a signal in the guide's gradient, the rest is the tighter bound of
    `iwae`. Both use the same draws, the ELBO with its Monte Carlo KL. Guides are restricted as in
    `iwae`.

    Args:
        elbo_share: The share a of the ELBO, from 0, `iwae`, to 1. It is not a weight of the KL:
            for each a this is a lower bound of log p(x).
        num_particles: The number K of draws from the guide per example.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, as `iwae`.

    References:
        Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018),
        https://arxiv.org/abs/1802.04537, where a is called beta
    """

    elbo_share: Tensor

    def __init__(self, elbo_share: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        check_share(elbo_share=elbo_share)
        self.register_weights(elbo_share=elbo_share)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        iwae = log_mean_weight(terms.log_weight)
        bound = iwae.lerp(terms.log_weight.mean(0), self.elbo_share.to(iwae.dtype))
        values = {**elbo_of(terms, self.kl_by_site), "iwae": iwae, "ciwae": bound}
        return ObjectiveValue(-bound, values)
