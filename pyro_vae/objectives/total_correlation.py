"""The evidence lower bound with its KL taken apart, and a weight on each part."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.marginals import check_coordinates, latent_site, log_prob_of_pairs
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.value import ObjectiveValue

Estimator = Literal["stratified", "weighted"]


@dataclass(frozen=True)
class Decomposition:
    """KL(q(z | x) || p(z)), averaged over data, as a sum of three, for each datum in nats.

    Args:
        mutual_information: E[log q(z | x) - log q(z)], of data and latent variables.
        total_correlation: E[log q(z) - sum_j log q(z_j)], KL(q(z) || prod_j q(z_j)).
        dimension_wise_kl: E[sum_j log q(z_j) - log p(z)]; sum_j KL(q(z_j) || p(z_j)) under a prior of
            independent coordinates.
    """

    mutual_information: Float[Tensor, " batch"]
    total_correlation: Float[Tensor, " batch"]
    dimension_wise_kl: Float[Tensor, " batch"]


class BetaTC(Objective):
    r"""E_q[log p(x | z)] - alpha I(x; z) - beta TC(z) - gamma DWKL(z).

    The mean KL of the ELBO is the sum of the mutual information I, the total correlation TC and the
    dimension-wise KL, so that with all weights at 1 this is the ELBO; a larger beta asks for
    independent coordinates of z without asking it to say less of x.

    The three compare q(z | x) with the aggregate posterior q(z), which is estimated from the batch,
    as `log_aggregates` says. So they are for training: their logarithms of few data are biased, by
    more the further the data lie apart. Numbers to report come from all of the data. All is Monte
    Carlo, of the same draws: the three add up to `kl`.

    It serves guides whose coordinates are independent given x, and normals with correlations, under
    any prior. A step holds num_particles x batch^2 x latent_dim numbers.

    Args:
        train_size: The number N of training data.
        alpha: The weight of the mutual information.
        beta: The weight of the total correlation.
        gamma: The weight of the dimension-wise KL.
        warmup_epochs: All three weights grow linearly from 0 over this many epochs.
        estimator: How q(z) is estimated: "stratified", which is unbiased for it, or "weighted",
            minibatch-weighted sampling, which is not.
        num_particles: The number of draws from the guide for each datum.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if there are
            several latent sites, the guide's coordinates have no closed-form densities (flows;
            simplices, spheres, discrete and sparse codes), or the batch is larger than `train_size`.

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
        if train_size < 1:
            raise ValueError(f"train_size must be at least 1, got {train_size}.")
        weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
        for name, value in (*weights.items(), ("warmup_epochs", warmup_epochs)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}.")
        self.train_size = train_size
        self.warmup_epochs = warmup_epochs
        self.estimator: Estimator = _check_estimator(estimator)
        # Buffers, so that a traced step reads them anew and a checkpoint holds them.
        for name, value in weights.items():
            self.register_buffer(name, torch.tensor(float(value)))

    @property
    def warmth(self) -> Float[Tensor, ""]:
        """The share of their weights that the three terms have now."""
        if self.warmup_epochs == 0:
            return torch.ones_like(self.beta)
        return (self.progress / self.warmup_epochs).clamp(max=1)

    def settled(self, epochs: float) -> bool:
        """Whether the weights have their last values after so many epochs."""
        return epochs >= self.warmup_epochs

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        check_coordinates(latent_site(terms, type(self).__name__), type(self).__name__)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        kl = (terms.log_posterior - terms.log_prior).mean(0)
        self.kl_by_site[next(iter(terms.guide_sites))] = "Monte Carlo"
        parts = decomposition(terms, self.train_size, self.estimator)
        # What weights of 1 add up to is taken whole: the large log q(z) do not have to cancel.
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
        loss = self.warmth * weighted - reconstruction
        return ObjectiveValue(loss, {name: value.detach() for name, value in values.items()})


def decomposition(
    terms: LogDensities, train_size: int, estimator: Estimator = "stratified"
) -> Decomposition:
    """The KL of each datum of a batch as mutual information, total correlation and dimension-wise KL.

    Averaged over particles. The three add up to log q(z | x) - log p(z), to rounding,
    whatever the estimator of log q(z): it only says what belongs to which.

    Args:
        terms: The terms of a pair with one latent site, at a batch of training data.
        train_size: The number of training data.
        estimator: As that of `log_aggregates`.

    Raises:
        ValueError: If the batch is larger than `train_size`, there are several latent sites, or the
            guide's coordinates have no closed-form densities.
    """
    latent = latent_site(terms, "decomposition")
    check_coordinates(latent, "decomposition")
    pairs, coordinates = log_prob_of_pairs(latent)
    dtype = terms.log_posterior.dtype
    joint, marginals = log_aggregates(pairs, coordinates, train_size, estimator)
    product = marginals.sum(-1)
    # log q(z | x) as the others are computed: in a batch of one, where they are equal, to the last bit.
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
    r"""log q(z_i) and log q(z_il) of each coordinate l, from a batch of B of the N training data, in nats.

    q(z_i) is estimated by sum_j w_ij q(z_i | x_j). "stratified": w_ii = 1 / N, as x_i, of which z_i
    was drawn, is one of the N data; w_ij = (N - 1) / (N (B - 1)), as the others of the batch stand
    for all others. Over random batches with x_i in them this is unbiased for q(z_i), though not for
    its logarithm; with B = N it is q(z_i). It is the mean, over which datum plays which role, of
    the paper's minibatch-stratified sampling. "weighted": w_ij = 1 / (N B), minibatch-weighted
    sampling, which is too small: its log q(z_i) is shifted by about -log B where the data lie apart,
    and by -log N where they overlap, and so is each log q(z_il).

    In a batch of one x_i alone stands for the data: w_ii = 1.

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
    own = other = 0.0
    if _check_estimator(estimator) == "weighted" and batch > 1:
        own = other = -math.log(train_size * batch)
    elif batch > 1:
        own = -math.log(train_size)
        other = math.log(train_size - 1) + own - math.log(batch - 1)
    diagonal = torch.eye(batch, dtype=pairs.dtype, device=pairs.device)
    log_weights = other + (own - other) * diagonal
    joint = torch.logsumexp(log_weights + pairs, -1)
    return joint, torch.logsumexp(log_weights.unsqueeze(-1) + coordinates, -2)


def _check_estimator(estimator: Estimator) -> Estimator:
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}."
        )
    return estimator
