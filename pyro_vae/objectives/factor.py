"""The evidence lower bound less the total correlation, which a critic estimates."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import KL, check_kl, divergence
from pyro_vae.objectives.marginals import check_product_support, latent_site
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.value import ObjectiveValue

# The paper's: Adam's decays for the critic, and the slope of its units below 0.
_BETAS = (0.5, 0.9)
_SLOPE = 0.2


class Factor(Objective):
    r"""E_q[log p(x | z)] - KL(q(z | x) || p(z)) - gamma TC(z), TC estimated by a critic.

    The critic's D(z) is the probability that z was drawn from the aggregate posterior q(z) and not
    from the product of its marginals. The best critic has log D(z) - log(1 - D(z)) = log q(z) - sum_j
    log q(z_j), whose mean over q(z) is the total correlation TC. It is trained in the same step as
    the VAE, by the cross entropy of the batch's draws and of the same draws with each coordinate
    permuted over the batch; its gradient is held from the VAE, and the VAE's from it. The paper
    permutes a second batch. That of one batch costs no further pass of the encoder; about one
    coordinate in `batch_size` stays where it was.

    A critic that lags behind the guide underestimates TC: read `total_correlation` beside
    `critic_loss`, which is log 2 nats for a critic that sees no difference.

    It serves any reparameterisable guide, flows included, of a continuous z whose coordinates may
    vary freely: on a simplex or a sphere permuted coordinates are no points of it.

    Args:
        latent_dim: The dimension of z.
        gamma: The weight of the total correlation. What the paper uses for 64 x 64 pictures of
            shapes is 10 to 40.
        critic_hidden: The widths of the critic's hidden layers.
        critic_lr: Adam's learning rate for the critic.
        num_particles: The number of draws from the guide for each datum.
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
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, got {gamma}.")
        if not 0 < critic_lr < math.inf:
            raise ValueError(f"critic_lr must be above 0 and finite, got {critic_lr}.")
        if any(width < 1 for width in critic_hidden):
            raise ValueError(f"critic_hidden must be at least 1 each, got {list(critic_hidden)}.")
        self.latent_dim = latent_dim
        self.kl: KL = check_kl(kl)
        self.own_lr, self.own_betas = critic_lr, _BETAS
        self.critic = _critic(latent_dim, critic_hidden)
        # A buffer, so that a traced step reads it anew and a checkpoint holds it.
        self.register_buffer("gamma", torch.tensor(float(gamma)))

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        name = type(self).__name__
        latent = latent_site(terms, name)
        check_product_support(latent, name)
        if latent.draws.shape[-1] != self.latent_dim:
            raise ValueError(
                f"{name}'s critic reads {self.latent_dim} dimensions, but site {latent.name!r} has "
                f"{latent.draws.shape[-1]}."
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
        critic_loss = cross_entropy(log_ratio, self.log_ratio(permuted(z.detach())))
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "total_correlation": total_correlation,
            "critic_loss": critic_loss,
        }
        return ObjectiveValue(
            kl + self.gamma * total_correlation - reconstruction,
            {name: value.detach() for name, value in values.items()},
            own_loss=critic_loss,
        )


def permuted(
    z: Float[Tensor, "particles batch latent"],
) -> Float[Tensor, "particles batch latent"]:
    """Each coordinate permuted over the batch by a permutation of its own: about prod_j q(z_j)."""
    order = torch.rand(z.shape, device=z.device).argsort(1)
    return z.gather(1, order)


def cross_entropy(
    joint: Float[Tensor, "particles batch"], product: Float[Tensor, "particles batch"]
) -> Float[Tensor, " batch"]:
    """-1/2 log D(z) - 1/2 log(1 - D(z')), averaged over particles, for each datum in nats.

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
