"""Gradients that reach the guide along the path of its draws alone, without the score."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.elbo import ELBO
from pyro_vae.objectives.importance_weighted import elbo_of, log_mean_weight
from pyro_vae.objectives.latent_sites import check_path, check_weights
from pyro_vae.objectives.objective import Objective, ObjectiveValue


class _Pathwise(Objective):
    """An objective whose gradient leaves out the score. Abstract."""

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        check_path(type(self).__name__, terms)
        check_weights(type(self).__name__, terms)


class STL(_Pathwise):
    """E_q[log p(x | z) - beta (log q(z | x) - log p(z))], its gradient without the score of q.

    The score d log q(z | x) / d phi at a fixed z has expectation zero. Without it the gradient is
    still unbiased, and is zero for each draw where q(z | x) is p(z | x) and beta is 1: the closer
    the guide, the less noise. Far from there the ELBO's KL in closed form may have less.

    Flows are inverted once more, for the score. Guides whose draws step (`one_hot`,
    `spike_and_slab`) have no path, and the scores of several latent sites cannot be separated:
    both are refused.

    Args:
        beta: The weight of the KL. Reported ELBOs never use it.
        warmup_epochs: The weight grows linearly from 0 to `beta` over this many epochs.
        num_particles: The number of draws from the guide per example.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, unless the
            guide is a single reparameterisable site whose draws have a density.

    References:
        Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference
        (Roeder, Wu & Duvenaud, 2017), https://arxiv.org/abs/1703.09194
    """

    def __init__(
        self, beta: float = 1.0, warmup_epochs: float = 0.0, num_particles: int = 1
    ) -> None:
        super().__init__(num_particles)
        self.elbo = ELBO(beta, warmup_epochs, num_particles=num_particles)
        self.elbo.kl_by_site = self.kl_by_site
        self.maximises_score = self.elbo.maximises_score

    def set_progress(self, epochs: float) -> None:
        super().set_progress(epochs)
        self.elbo.set_progress(epochs)

    def settled(self, epochs: float) -> bool:
        """Whether the weight has reached beta after this many epochs."""
        return self.elbo.settled(epochs)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        with torch.no_grad():
            values = self.elbo.value(terms).values
        score = terms.log_posterior_at_fixed_draws()
        log_posterior = terms.log_posterior - (score - score.detach())
        kl = (log_posterior - terms.log_prior).mean(0)
        return ObjectiveValue(self.elbo.weight * kl - terms.log_likelihood.mean(0), values)


class DReG(_Pathwise):
    """The bound E[log 1/K sum_k w_k] of `iwae`, with the doubly reparameterised gradient.

    With w_k = p(x, z_k) / q(z_k | x) and w~_k = w_k / sum_j w_j, the gradient in the parameters of
    the model is that of `iwae`, sum_k w~_k d log p(x, z_k) / d theta, and in those of the guide

        sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi).

    The score's part of the gradient is reparameterised a second time. Both gradients have the same
    expectation, but the noise of this one falls with K. With K = 1 it is `stl`. Parameters in both
    roles, such as an encoder's under a Vamp prior, have both gradients.

    The gradient at `terms.draws` is reweighted by a hook, for any caller: the terms can be used
    only once, and only for this objective.

    Flows are inverted once more, for the score. Guides are restricted as in `stl`.

    Args:
        num_particles: The number K of draws from the guide per example.

    Raises:
        ValueError: At construction, if `num_particles` is below 1. When called, unless the guide
            is a single reparameterisable site whose draws have a density, or if the terms were
            used already.

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker, Lawson, Gu &
        Maddison, 2019), https://arxiv.org/abs/1810.04152
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        log_weight = terms.log_weight.detach()
        bound, share = log_mean_weight(log_weight), log_weight.softmax(0)
        for draws in terms.draws:
            if draws._backward_hooks:
                raise ValueError(
                    "DReG reweights the gradient of terms once: evaluate the pair again."
                )
            if draws.requires_grad:
                draws.register_hook(partial(_reweight, share))
        log_joint = terms.log_likelihood + terms.log_prior
        path = terms.log_posterior - terms.log_posterior_at_fixed_draws()
        # A draw of weight zero contributes nothing, where zero times its log density would be nan.
        parts = torch.where(share > 0, share * (log_joint - share * path), 0.0)
        surrogate = parts.sum(0)
        values = {**elbo_of(terms, self.kl_by_site), "iwae": bound}
        return ObjectiveValue(-(bound + (surrogate - surrogate.detach())), values)


def _reweight(
    share: Float[Tensor, "particles batch"], gradient: Float[Tensor, "particles batch *event"]
) -> Float[Tensor, "particles batch *event"]:
    """The gradient at each draw times its share of the weights."""
    return gradient * share.reshape(*share.shape, *[1] * (gradient.dim() - 2)).to(gradient.dtype)
