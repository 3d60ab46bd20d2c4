"""InfoVAE: the evidence lower bound with a discrepancy between aggregate posterior and prior."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pyro_vae.checks import check_choice, check_positive, check_share
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import KL, divergence
from pyro_vae.objectives.latent_sites import latent_site
from pyro_vae.objectives.objective import Objective, ObjectiveValue

Kernel = Literal["inverse_multiquadratic", "gaussian"]


class Info(Objective):
    r"""E_q[log p(x | z)] - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + strength - 1) MMD^2(q(z), p(z)).

    The KL of the ELBO is the mutual information of x and z plus KL(q(z) || p(z)). Here alpha is the
    share of the former that is not penalised, and strength the weight of the latter, which is replaced
    by the squared maximum mean discrepancy MMD^2 of the aggregate posterior q(z). With alpha = 1 no KL
    is left: the MMD-VAE, and the Wasserstein autoencoder with this discrepancy.

    MMD^2 has no unit and is between 0 and 2; its weight converts it to nats. It is estimated from the
    batch's draws of the guide and as many of the prior, without bias for independent data, so it may be
    below 0. A batch of one example has no pair, and no penalty.

    All reparameterisable guides and priors of vectors are possible. A prior that is not reparameterisable
    (mixtures) learns only from the KL, and with alpha = 1 not at all.

    Args:
        alpha: The share of the mutual information that is not penalised, from 0 to 1.
        strength: The weight lambda of the aggregate posterior's divergence, at least 1 - alpha.
        kernel: "inverse_multiquadratic", C / (C + |z - z'|^2), whose tails reach a z far from the prior,
            or "gaussian", exp(-|z - z'|^2 / C).
        bandwidth: sigma in C = 2 latent_dim sigma^2, the mean squared distance of two draws of
            N(0, sigma^2 I): the prior's scale.
        num_particles: The number of draws from the guide per example.
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
        check_share(alpha=alpha)
        if not 1 - alpha <= strength < math.inf:
            raise ValueError(
                f"strength must be at least 1 - alpha = {1 - alpha} and finite, got {strength}."
            )
        check_choice(Kernel, kernel=kernel)
        check_positive(bandwidth=bandwidth)
        check_choice(KL, kl=kl)
        self.kernel: Kernel = kernel
        self.bandwidth = bandwidth
        self.kl: KL = kl
        self.register_weights(alpha=alpha, strength=strength)

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        latent_site(terms, type(self).__name__)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        latent = latent_site(terms, type(self).__name__)
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, self.kl, self.kl_by_site)
        # In the shape of the guide's draws: (particles, batch, latent).
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
        return ObjectiveValue(weighted - reconstruction, values)


def squared_discrepancy(
    z: Float[Tensor, "*particles batch latent"],
    other: Float[Tensor, "*particles batch latent"],
    kernel: Kernel = "inverse_multiquadratic",
    bandwidth: float = 1.0,
) -> Float[Tensor, "*particles"]:
    r"""MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y), z and z' of one distribution, y and y' of another.

    The unbiased U-statistic, of means over pairs of different draws; 0 for one draw. In float64.

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
    check_choice(Kernel, kernel=kernel)
    check_positive(bandwidth=bandwidth)
    c = 2 * z.shape[-1] * bandwidth**2
    gaussian = kernel == "gaussian"
    batch = z.shape[-2]

    def between(a: Tensor, b: Tensor) -> Tensor:
        # Not as |a|^2 + |b|^2 - 2 a.b, which cancels where draws are close.
        squared = (a.double().unsqueeze(-2) - b.double().unsqueeze(-3)).square().sum(-1)
        return (-squared / c).exp() if gaussian else c / (c + squared)

    def within(a: Tensor) -> Tensor:
        # k(a, a) is 1.
        return (between(a, a).sum((-2, -1)) - batch) / (batch * (batch - 1))

    if batch == 1:
        # Zero, with a gradient of zero.
        return 0 * (z.double().sum((-2, -1)) + other.double().sum((-2, -1)))
    return within(z) + within(other) - 2 * between(z, other).mean((-2, -1))
