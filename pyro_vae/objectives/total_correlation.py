"""Weights on the total correlation: beta-TCVAE, from the batch; FactorVAE, with a critic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_at_least, check_choice, check_nonnegative, check_positive
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.kl_weighting import ramp
from pyro_vae.objectives.latent_sites import (
    KL,
    check_coordinates,
    check_product_support,
    divergence,
    latent_site,
    log_prob_of_pairs,
)
from pyro_vae.objectives.objective import Objective, ObjectiveValue

Estimator = Literal["stratified", "weighted"]

# FactorVAE's: Adam's decays for the critic, and the slope of its units below 0.
_BETAS = (0.5, 0.9)
_SLOPE = 0.2


@dataclass(frozen=True)
class Decomposition:
    """KL(q(z | x) || p(z)), averaged over data, as a sum of three terms, per example in nats.

    Args:
        mutual_information: E[log q(z | x) - log q(z)], of data and latent variables.
        total_correlation: E[log q(z) - sum_j log q(z_j)], KL(q(z) || prod_j q(z_j)).
        dimension_wise_kl: E[sum_j log q(z_j) - log p(z)]; sum_j KL(q(z_j) || p(z_j)) under a prior
            of independent coordinates.
    """

    mutual_information: Float[Tensor, " batch"]
    total_correlation: Float[Tensor, " batch"]
    dimension_wise_kl: Float[Tensor, " batch"]


class BetaTC(Objective):
    r"""E_q[log p(x | z)] - alpha I(x; z) - beta TC(z) - gamma DWKL(z).

    The mean KL of the ELBO is the sum of the mutual information I, the total correlation TC and
    the dimension-wise KL, so with all weights at 1 this is the ELBO; a larger beta favours
    independent coordinates of z without reducing its information about x.

    The three terms compare q(z | x) with the aggregate posterior q(z), estimated from the batch by
    `log_aggregates`. They are for training only: logarithms of an estimate from few data are
    biased, the more so the further apart the data; numbers to report need all of the data. All are
    Monte Carlo estimates from the same draws, and sum to `kl`.

    Guides need coordinates that are independent given x, or correlated normals; any prior is
    possible. A step holds num_particles x batch^2 x latent_dim numbers.

    Args:
        train_size: The number N of training examples.
        alpha: The weight of the mutual information.
        beta: The weight of the total correlation.
        gamma: The weight of the dimension-wise KL.
        warmup_epochs: All three weights grow linearly from 0 over this many epochs.
        estimator: The estimator of q(z): "stratified", which is unbiased, or "weighted",
            minibatch-weighted sampling, which is not.
        num_particles: The number of draws from the guide per example.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if there are
            several latent sites, the guide's coordinates have no closed-form densities (flows;
            simplices, spheres, discrete and sparse codes), or the batch is larger than
            `train_size`.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse &
        Duvenaud, 2018), https://arxiv.org/abs/1802.04942
    """

    couples_batch: bool = True

    alpha: Tensor
    beta: Tensor
    gamma: Tensor

    def __init__(
        self,
        train_size: int,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        warmup_epochs: float = 0.0,
        estimator: Estimator = "stratified",
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles)
        check_at_least(1, train_size=train_size)
        check_nonnegative(alpha=alpha, beta=beta, gamma=gamma, warmup_epochs=warmup_epochs)
        check_choice(Estimator, estimator=estimator)
        self.train_size = train_size
        self.warmup_epochs = warmup_epochs
        self.estimator: Estimator = estimator
        self.register_weights(alpha=alpha, beta=beta, gamma=gamma)

    def settled(self, epochs: float) -> bool:
        """Whether the weights have reached their final values after this many epochs."""
        return epochs >= self.warmup_epochs

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        check_coordinates(latent_site(terms, type(self).__name__), type(self).__name__)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        kl = (terms.log_posterior - terms.log_prior).mean(0)
        self.kl_by_site[next(iter(terms.guide_sites))] = "Monte Carlo"
        parts = decomposition(terms, self.train_size, self.estimator)
        # The sum at weights of 1 is the KL itself, in which the large log q(z) need not cancel.
        weighted = (
            kl
            + (self.alpha - 1) * parts.mutual_information
            + (self.beta - 1) * parts.total_correlation
            + (self.gamma - 1) * parts.dimension_wise_kl
        )
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "mutual_information": parts.mutual_information,
            "total_correlation": parts.total_correlation,
            "dimension_wise_kl": parts.dimension_wise_kl,
        }
        warmup = ramp(self.progress, self.warmup_epochs)
        return ObjectiveValue(warmup * weighted - reconstruction, values)


def decomposition(
    terms: LogDensities, train_size: int, estimator: Estimator = "stratified"
) -> Decomposition:
    """The KL of each example as mutual information, total correlation and dimension-wise KL.

    Averaged over particles. The three sum to log q(z | x) - log p(z), to rounding, with any
    estimator of log q(z), which only divides the sum among them.

    Args:
        terms: The terms of a pair with one latent site, at a batch of training data.
        train_size: The number of training examples.
        estimator: The estimator of `log_aggregates`.

    Raises:
        ValueError: If the batch is larger than `train_size`, there are several latent sites, or
            the guide's coordinates have no closed-form densities.
    """
    latent = latent_site(terms, "decomposition")
    check_coordinates(latent, "decomposition")
    pairs, coordinates = log_prob_of_pairs(latent)
    dtype = terms.log_posterior.dtype
    joint, marginals = log_aggregates(pairs, coordinates, train_size, estimator)
    product = marginals.sum(-1)
    # log q(z | x), computed like the others, so that they are exactly equal in a batch of one.
    own = pairs.diagonal(dim1=-2, dim2=-1)
    return Decomposition(
        (own - joint).mean(0).to(dtype),
        (joint - product).mean(0).to(dtype),
        (product - terms.log_prior).mean(0).to(dtype),
    )


def log_aggregates(
    pairs: Float[Tensor, "*particles batch batch"],
    coordinates: Float[Tensor, "*particles batch batch latent"],
    train_size: int,
    estimator: Estimator = "stratified",
) -> tuple[Float[Tensor, "*particles batch"], Float[Tensor, "*particles batch latent"]]:
    r"""log q(z_i) and log q(z_il) of each coordinate l, from B of the N training data, in nats.

    q(z_i) is estimated by sum_j w_ij q(z_i | x_j). "stratified": w_ii = 1 / N, because x_i, from
    which z_i was drawn, is one of the N data; w_ij = (N - 1) / (N (B - 1)), because the others of
    the batch represent all others. Over random batches that contain x_i this is unbiased for
    q(z_i), though not for its logarithm; with B = N it is q(z_i). It is the average of the paper's
    minibatch-stratified sampling over the roles of the examples. "weighted": w_ij = 1 / (N B),
    minibatch-weighted sampling, which is too small: log q(z_i) and each log q(z_il) are shifted by
    about -log B where the data are far apart, and by -log N where they overlap.

    In a batch of one, x_i represents all data: w_ii = 1.

    Args:
        pairs: log q(z_i | x_j).
        coordinates: log q(z_il | x_j).
        train_size: N.
        estimator: "stratified" or "weighted".

    Raises:
        ValueError: If the batch is larger than `train_size`, or the estimator is unknown.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse &
        Duvenaud, 2018), section 4.1 and appendix C, https://arxiv.org/abs/1802.04942
    """
    batch = pairs.shape[-1]
    if batch > train_size:
        raise ValueError(f"train_size must be at least the batch's {batch}, got {train_size}.")
    check_choice(Estimator, estimator=estimator)
    own = other = 0.0
    if estimator == "weighted" and batch > 1:
        own = other = -math.log(train_size * batch)
    elif batch > 1:
        own = -math.log(train_size)
        other = math.log(train_size - 1) + own - math.log(batch - 1)
    diagonal = torch.eye(batch, dtype=pairs.dtype, device=pairs.device)
    log_weights = other + (own - other) * diagonal
    joint = torch.logsumexp(log_weights + pairs, -1)
    return joint, torch.logsumexp(log_weights.unsqueeze(-1) + coordinates, -2)


class Factor(Objective):
    r"""E_q[log p(x | z)] - KL(q(z | x) || p(z)) - gamma TC(z), TC estimated by a critic.

    The critic's D(z) is the probability that z was drawn from the aggregate posterior q(z) and not
    from the product of its marginals. The optimal critic has
    log D(z) - log(1 - D(z)) = log q(z) - sum_j log q(z_j), whose mean over q(z) is the total
    correlation TC. It is trained in the same step as the VAE, by the cross entropy of the batch's
    draws and the same draws with each coordinate permuted over the batch, without gradients
    between the two. The paper permutes a second batch. Permuting the same one saves a pass of the
    encoder; about one coordinate in `batch_size` stays in place.

    A critic that lags behind the guide underestimates TC: read `total_correlation` together with
    `critic_loss`, which is log 2 nats for a critic that sees no difference.

    Any reparameterisable guide is possible, flows included, if z is continuous and its coordinates
    may vary freely: permuted coordinates leave a simplex or a sphere.

    Args:
        latent_dim: The dimension of z.
        gamma: The weight of the total correlation. The paper uses 10 to 40 for 64 x 64 images of
            shapes.
        critic_hidden: The widths of the critic's hidden layers.
        critic_lr: Adam's learning rate for the critic.
        num_particles: The number of draws from the guide per example.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if there are
            several latent sites, z has another dimension, is discrete, or cannot be permuted.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983
    """

    couples_batch: bool = True

    gamma: Tensor

    def __init__(
        self,
        latent_dim: int,
        gamma: float = 10.0,
        critic_hidden: Sequence[int] = (1000,) * 6,
        critic_lr: float = 1e-4,
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__(num_particles)
        check_at_least(1, latent_dim=latent_dim)
        check_nonnegative(gamma=gamma)
        check_positive(critic_lr=critic_lr)
        check_choice(KL, kl=kl)
        if any(width < 1 for width in critic_hidden):
            raise ValueError(f"critic_hidden must be at least 1 each, got {list(critic_hidden)}.")
        self.latent_dim = latent_dim
        self.kl: KL = kl
        self.own_lr, self.own_betas = critic_lr, _BETAS
        self.critic = _critic(latent_dim, critic_hidden)
        self.register_weights(gamma=gamma)

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        name = type(self).__name__
        latent = latent_site(terms, name)
        check_product_support(latent, name)
        if latent.draws.shape[-1] != self.latent_dim:
            raise ValueError(
                f"{name}'s critic reads {self.latent_dim} dimensions, but site {latent.name!r} "
                f"has {latent.draws.shape[-1]}."
            )

    def log_ratio(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """log D(z) - log(1 - D(z)): the critic's log q(z) - sum_j log q(z_j), in nats."""
        return self.critic(z).squeeze(-1).to(z.dtype)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        z = latent_site(terms, type(self).__name__).draws
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, self.kl, self.kl_by_site)
        log_ratio = self.log_ratio(z)
        total_correlation = log_ratio.mean(0)
        critic_loss = cross_entropy(log_ratio, self.log_ratio(permute(z.detach())))
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "total_correlation": total_correlation,
            "critic_loss": critic_loss,
        }
        loss = kl + self.gamma * total_correlation - reconstruction
        return ObjectiveValue(loss, values, own_loss=critic_loss)


def permute(
    z: Float[Tensor, "particles batch latent"],
) -> Float[Tensor, "particles batch latent"]:
    """Permute each coordinate over the batch independently: approximate draws of prod_j q(z_j)."""
    order = torch.rand(z.shape, device=z.device).argsort(1)
    return z.gather(1, order)


def cross_entropy(
    joint: Float[Tensor, "particles batch"], product: Float[Tensor, "particles batch"]
) -> Float[Tensor, " batch"]:
    """-1/2 log D(z) - 1/2 log(1 - D(z')), averaged over particles, per example in nats.

    Args:
        joint: log D - log(1 - D) at draws z of q(z).
        product: The same at draws z' of the product of its marginals.
    """
    return (F.softplus(-joint) + F.softplus(product)).mean(0) / 2


def _critic(latent_dim: int, hidden: Sequence[int]) -> nn.Sequential:
    """A perceptron with one output, log D - log(1 - D)."""
    widths = [latent_dim, *hidden]
    layers = [
        layer
        for inputs, outputs in pairwise(widths)
        for layer in (nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE))
    ]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))
