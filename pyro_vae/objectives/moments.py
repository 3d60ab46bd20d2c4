"""DIP-VAE: the evidence lower bound with a penalty on the aggregate posterior's covariance."""

from typing import Literal

import torch
from jaxtyping import Float
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vae.checks import check_choice, check_nonnegative
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import KL, divergence
from pyro_vae.objectives.latent_sites import (
    Latent,
    check_coordinates,
    check_product_support,
    covariance,
    latent_site,
)
from pyro_vae.objectives.objective import Objective, ObjectiveValue

Version = Literal["i", "ii"]


class DIP(Objective):
    r"""ELBO - lambda_od sum_{i != j} C_ij^2 - lambda_d sum_i (C_ii - v_i)^2, v_i = Var_p(z_i).

    C is, in version i, the covariance over data of the guide's means, Cov_x(E_q[z | x]), and in
    version ii that of the aggregate posterior, Cov_x(E_q[z | x]) + E_x[Cov_q(z | x)]. The penalty makes
    coordinates of z uncorrelated, even if the prior's are not, and of the prior's variance. Over a batch
    of B examples, covariances have the unbiased denominator B - 1, and means B; squared covariances are
    biased upwards by a term of order 1 / B. A batch of one example has no covariance, and no penalty.

    Guides need moments in closed form, as independent continuous coordinates and correlated normals
    have, and priors a known, finite variance.

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
            discrete codes), or the prior's variance is not known or not finite (flows; a Student's t
            with df up to 2).

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
                    f"{name} needs a guide with finite moments, but those of site {latent.name!r} are not."
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
