"""Penalties on the aggregate posterior: its discrepancy from the prior, and its covariance."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vae.checks import check_choice, check_nonnegative, check_positive, check_share
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.latent_sites import (
    KL,
    Latent,
    check_coordinates,
    check_product_support,
    covariance,
    divergence,
    latent_site,
)
from pyro_vae.objectives.objective import Objective, ObjectiveValue

Kernel = Literal["inverse_multiquadratic", "gaussian"]


class Info(Objective):
    r"""E_q[log p(x | z)] - (1 - alpha) KL(q(z | x) || p(z)) - (alpha + lambda - 1) MMD^2(q, p).

    The KL of the ELBO is the mutual information of x and z plus KL(q(z) || p(z)). Here alpha is
    the share of the former that is not penalised, and strength, lambda, the weight of the latter,
    which is replaced by the squared maximum mean discrepancy MMD^2 of the aggregate posterior
    q(z). With alpha = 1 no KL is left: the MMD-VAE, and the Wasserstein autoencoder with this
    discrepancy.

    MMD^2 has no unit and is between 0 and 2; its weight converts it to nats. It is estimated from
    the batch's draws of the guide and as many of the prior, without bias for independent data, so
    it may be below 0. A batch of one example has no pair, and no penalty.

    All reparameterisable guides and priors of vectors are possible. A prior that is not
    reparameterisable (mixtures) learns only from the KL, and with alpha = 1 not at all.

    Args:
        alpha: The share of the mutual information that is not penalised, from 0 to 1.
        strength: The weight lambda of the aggregate posterior's divergence, at least 1 - alpha.
        kernel: "inverse_multiquadratic", C / (C + |z - z'|^2), whose tails reach a z far from the
            prior, or "gaussian", exp(-|z - z'|^2 / C).
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
    r"""MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y), z, z' of one distribution, y, y' of another.

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


Version = Literal["i", "ii"]


class DIP(Objective):
    r"""ELBO - lambda_od sum_{i != j} C_ij^2 - lambda_d sum_i (C_ii - v_i)^2, v_i = Var_p(z_i).

    C is, in version i, the covariance over data of the guide's means, Cov_x(E_q[z | x]), and in
    version ii that of the aggregate posterior, Cov_x(E_q[z | x]) + E_x[Cov_q(z | x)]. The penalty
    makes coordinates of z uncorrelated, even if the prior's are not, and of the prior's variance.
    Over a batch of B examples, covariances have the unbiased denominator B - 1, and means B;
    squared covariances are biased upwards by a term of order 1 / B. A batch of one example has no
    covariance, and no penalty.

    Guides need moments in closed form, as independent continuous coordinates and correlated
    normals have, and priors a known, finite variance.

    Args:
        off_diagonal: The weight lambda_od of squared covariances.
        diagonal: The weight lambda_d of squared differences of variances; None for the paper's
            choice, 10 lambda_od in version i and lambda_od in version ii.
        version: "i" for the covariance of the means, "ii" for that of the aggregate posterior.
        num_particles: The number of draws from the guide per example.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if there are
            several latent sites, the guide's moments are not known (flows, simplices, spheres,
            discrete codes), or the prior's variance is not known or not finite (flows; a Student's
            t with df up to 2).

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar,
        Sattigeri & Balakrishnan, 2018), https://arxiv.org/abs/1711.00848
    """

    couples_batch: bool = True

    off_diagonal: Tensor
    diagonal: Tensor

    def __init__(
        self,
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
        version: Version = "ii",
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__(num_particles)
        check_choice(Version, version=version)
        check_choice(KL, kl=kl)
        if diagonal is None:
            diagonal = 10 * off_diagonal if version == "i" else off_diagonal
        check_nonnegative(off_diagonal=off_diagonal, diagonal=diagonal)
        self.register_weights(off_diagonal=off_diagonal, diagonal=diagonal)
        self.version: Version = version
        self.kl: KL = kl

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        name = type(self).__name__
        latent = latent_site(terms, name)
        check_product_support(latent, name)
        check_coordinates(latent, name, densities=False)
        try:
            prior = latent.prior.variance
        except NotImplementedError:
            prior = None
        # Values are not checked in a traced step, which has none.
        infinite = prior is not None and is_validation_enabled() and not prior.isfinite().all()
        if prior is None or infinite:
            raise ValueError(
                f"{name} needs a prior with a known, finite variance, but that of site "
                f"{latent.name!r}, a {type(latent.prior).__name__}, is "
                f"{'not known' if prior is None else 'not finite'}."
            )
        if is_validation_enabled():
            q = latent.posterior
            moments = q.mean if self.version == "i" else covariance(q)
            if moments.isinf().any():
                raise ValueError(
                    f"{name} needs a guide with finite moments, but those of site {latent.name!r} "
                    "are not."
                )

    def value(self, terms: LogDensities) -> ObjectiveValue:
        latent = latent_site(terms, type(self).__name__)
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, self.kl, self.kl_by_site)
        c, v = self._moments(latent)
        variances = c.diagonal()
        off_diagonal = c.square().sum() - variances.square().sum()
        penalty = self.off_diagonal * off_diagonal + self.diagonal * (variances - v).square().sum()
        if len(kl) == 1:
            penalty = torch.zeros_like(penalty)
        penalty = penalty.to(kl.dtype).expand_as(kl)
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "covariance_penalty": penalty,
        }
        return ObjectiveValue(kl + penalty - reconstruction, values)

    def _moments(
        self, latent: Latent
    ) -> tuple[Float[Tensor, "latent latent"], Float[Tensor, " latent"]]:
        """The covariance C of a batch, and the prior's variances."""
        q = latent.posterior
        c = covariance_of_means(q.mean[0])
        if self.version == "ii":
            within = covariance(q)
            # Some normals have fewer leading axes than the batch, if all share a covariance.
            each = within.expand(*q.batch_shape, *within.shape[-2:])
            c = c + each.double().mean((0, 1))
        return c, latent.prior.variance.double().mean((0, 1))


def covariance_of_means(mean: Float[Tensor, "batch latent"]) -> Float[Tensor, "latent latent"]:
    """Cov_x(mean), with the denominator B - 1, in float64; zeros for a batch of one example."""
    centred = mean.double() - mean.double().mean(0)
    return centred.mT @ centred / max(len(mean) - 1, 1)
