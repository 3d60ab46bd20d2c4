"""The evidence lower bound with a discrepancy of aggregate posterior and prior."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import KL, check_kl, divergence
from pyro_vae.objectives.marginals import latent_site
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.value import ObjectiveValue

Kernel = Literal["inverse_multiquadratic", "gaussian"]


class Info(Objective):
    r"""E_q[log p(x | z)] - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + strength - 1) MMD^2(q(z), p(z)).

    The KL of the ELBO is the mutual information of x and z plus KL(q(z) || p(z)). Here alpha is how
    much of the former goes unpunished, and strength the weight of the latter, in whose place stands
    the squared maximum mean discrepancy MMD^2 of the aggregate posterior q(z). With alpha = 1 no KL is
    left: the MMD-VAE, and the Wasserstein autoencoder with this discrepancy.

    MMD^2 is a number without a unit, from 0 to 2, and not in nats; its weight makes nats of it. It
    is estimated from the batch's draws of the guide and as many of the prior, without bias for data
    drawn independently, so that it may be below 0. A batch of one datum has no pair, and no penalty.

    It serves every guide with a gradient of its draws, under every prior of vectors. A prior learns
    from MMD^2 where it is reparameterisable; where it is not (mixtures), only from the KL, and so
    with alpha = 1 from nothing.

    Args:
        alpha: The share of the mutual information that goes unpunished, from 0 to 1.
        strength: The weight lambda of the aggregate posterior's divergence, at least 1 - alpha.
        kernel: "inverse_multiquadratic", C / (C + |z - z'|^2), with tails that still see a z far from
            the prior, or "gaussian", exp(-|z - z'|^2 / C).
        bandwidth: sigma in C = 2 latent_dim sigma^2, the mean squared distance of two draws of
            N(0, sigma^2 I): the prior's scale.
        num_particles: The number of draws from the guide for each datum.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if there are
            several latent sites.

    References:
        InfoVAE: Balancing Learning and Inference in Variational Autoencoders (Zhao, Song & Ermon,
        2019), https://arxiv.org/abs/1706.02262; the kernel and its C: Wasserstein Auto-Encoders
        (Tolstikhin et al., 2018), section 4, https://arxiv.org/abs/1711.01558
    """

    couples_batch: bool = True

    alpha: Tensor
    strength: Tensor

    def __init__(
        self,
        alpha: float = 0.5,
        strength: float = 100.0,
        kernel: Kernel = "inverse_multiquadratic",
        bandwidth: float = 1.0,
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__(num_particles)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, got {alpha}.")
        if not 1 - alpha <= strength < math.inf:
            raise ValueError(
                f"strength must be at least 1 - alpha = {1 - alpha} and finite, got {strength}."
            )
        self.kernel: Kernel = _check_kernel(kernel)
        self.bandwidth = _check_bandwidth(bandwidth)
        self.kl: KL = check_kl(kl)
        # Buffers, so that a traced step reads them anew and a checkpoint holds them.
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("strength", torch.tensor(float(strength)))

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        latent_site(terms, type(self).__name__)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        latent = latent_site(terms, type(self).__name__)
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, self.kl, self.kl_by_site)
        # Of the shape of the guide's: (particles, batch, latent).
        prior = latent.prior.rsample() if latent.prior.has_rsample else latent.prior.sample()
        squared = squared_discrepancy(latent.draws, prior, self.kernel, self.bandwidth)
        mmd_squared = squared.mean().to(kl.dtype).expand_as(kl)
        weighted = (1 - self.alpha) * kl + (self.alpha + self.strength - 1) * mmd_squared
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "mmd_squared": mmd_squared,
        }
        return ObjectiveValue(
            weighted - reconstruction, {name: value.detach() for name, value in values.items()}
        )


def squared_discrepancy(
    z: Float[Tensor, "*particles batch latent"],
    other: Float[Tensor, "*particles batch latent"],
    kernel: Kernel = "inverse_multiquadratic",
    bandwidth: float = 1.0,
) -> Float[Tensor, "*particles"]:
    r"""MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y), z and z' of one distribution, y and y' of another.

    The U-statistic: means over pairs of different draws, without bias; 0 for one draw. In float64.

    Args:
        z: Draws of one distribution.
        other: As many of the other.
        kernel: "inverse_multiquadratic" or "gaussian", as in `Info`.
        bandwidth: sigma in C = 2 latent_dim sigma^2.

    Raises:
        ValueError: If an option is out of its range.

    References:
        A Kernel Two-Sample Test (Gretton et al., 2012), lemma 6,
        https://jmlr.org/papers/v13/gretton12a.html
    """
    c = 2 * z.shape[-1] * _check_bandwidth(bandwidth) ** 2
    gaussian = _check_kernel(kernel) == "gaussian"
    batch = z.shape[-2]

    def between(a: Tensor, b: Tensor) -> Tensor:
        # Not through |a|^2 + |b|^2 - 2 a.b, which cancels where draws are near.
        squared = (a.double().unsqueeze(-2) - b.double().unsqueeze(-3)).square().sum(-1)
        return (-squared / c).exp() if gaussian else c / (c + squared)

    def within(a: Tensor) -> Tensor:
        # k(a, a) is 1.
        return (between(a, a).sum((-2, -1)) - batch) / (batch * (batch - 1))

    if batch == 1:
        # Zero, of the draws' shape, and with a gradient of zero.
        return 0 * (z.double().sum((-2, -1)) + other.double().sum((-2, -1)))
    return within(z) + within(other) - 2 * between(z, other).mean((-2, -1))


def _check_kernel(kernel: Kernel) -> Kernel:
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}.")
    return kernel


def _check_bandwidth(bandwidth: float) -> float:
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth must be above 0 and finite, got {bandwidth}.")
    return bandwidth
