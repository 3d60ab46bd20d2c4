"""The latent site of an objective that sees the aggregate posterior, and its coordinates' densities.

The aggregate posterior q(z) = E_x q(z | x) is a mixture over the data. What its objectives need of a
guide, beside draws: log q(z_i | x_j) for every pair of a batch, the densities of its coordinates, or
its covariances.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    constraints,
)

from pyro_vae.distributions import LowRankNormal, SpikeAndSlab
from pyro_vae.log_densities import LogDensities, distribution_at

_CORRELATED_NORMALS = (MultivariateNormal, LowRankMultivariateNormal, LowRankNormal)


@dataclass(frozen=True)
class Latent:
    """The one latent site of a program.

    Args:
        name: The site's name.
        posterior: q(z | x), with batch shape `(particles, batch)`.
        prior: p(z), likewise.
        draws: z ~ q(z | x).
    """

    name: str
    posterior: Distribution
    prior: Distribution
    draws: Float[Tensor, "particles batch latent"]


def latent_site(terms: LogDensities, objective: str) -> Latent:
    """The latent site of a program that has one.

    Args:
        terms: The terms of the pair.
        objective: Who asks, for a message.

    Raises:
        ValueError: If there are several, or it is no vector for each datum.
    """
    names = list(terms.guide_sites)
    if len(names) != 1 or names[0] not in terms.model_sites:
        raise ValueError(
            f"{objective} needs one latent site, got {', '.join(map(repr, names)) or 'none'}."
        )
    (name,) = names
    q, p = (distribution_at(t, name) for t in (terms.guide_trace, terms.model_trace))
    shape = terms.guide_sites[name].shape
    if q.batch_shape != shape or p.batch_shape != shape or len(q.event_shape) != 1:
        raise ValueError(
            f"{objective} needs a vector for each datum, but site {name!r} has "
            f"batch shape {tuple(q.batch_shape[1:])} and event shape {tuple(q.event_shape)}."
        )
    (draws,) = terms.draws
    return Latent(name, q, p, draws)


def check_product_support(latent: Latent, objective: str) -> None:
    """Make sure that z stays in its support whatever values its coordinates take.

    Raises:
        ValueError: If it need not, as on a simplex or a sphere, or if z is discrete.
    """
    support = latent.posterior.support
    if not isinstance(support, constraints.independent) or support.is_discrete:
        raise ValueError(
            f"{objective} needs a continuous z whose coordinates may vary freely, but site "
            f"{latent.name!r} is a {type(latent.posterior).__name__} on {support}."
        )


def check_coordinates(latent: Latent, objective: str, *, densities: bool = True) -> None:
    """Make sure that the guide's coordinates have densities, or only covariances, in closed form.

    Raises:
        ValueError: If they have not.
    """
    q = latent.posterior
    name = type(q).__name__
    served = isinstance(q, _CORRELATED_NORMALS)
    if isinstance(q, Independent):
        name = f"{name} of {type(q.base_dist).__name__}"
        # Of variables that are numbers, and not of vectors; a point mass has no density.
        mass = densities and isinstance(q.base_dist, SpikeAndSlab)
        served = q.reinterpreted_batch_ndims == 1 and not mass
    if not served:
        of = "densities" if densities else "covariances"
        raise ValueError(
            f"{objective} needs the {of} of z's coordinates in closed form, but site "
            f"{latent.name!r} is a {name}. It serves independent continuous coordinates, such as "
            "those of diagonal_normal, laplace or gamma, and the normals full_normal and "
            "low_rank_normal."
        )


def log_prob_of_pairs(
    latent: Latent,
) -> tuple[Float[Tensor, "particles batch batch"], Float[Tensor, "particles batch batch latent"]]:
    """log q(z_i | x_j), and log q(z_il | x_j) of each coordinate l, for all i and j of a batch, in nats.

    They are given in float64; for K particles, B data and d coordinates, K B^2 d numbers.
    """
    q = latent.posterior
    # (i, particles, 1, d) against a batch of distributions (particles, j).
    z = latent.draws.transpose(0, 1).unsqueeze(2)
    if isinstance(q, Independent):
        coordinates = q.base_dist.log_prob(z).double()
        joint = coordinates.sum(-1)
    else:
        joint = q.log_prob(z).double()
        marginal = Normal(q.mean, q.variance.sqrt(), validate_args=False)
        coordinates = marginal.log_prob(z).double()
    return joint.transpose(0, 1), coordinates.transpose(0, 1)


def covariance(q: Distribution) -> Float[Tensor, "*batch latent latent"]:
    """Cov(z | x) of a guide that `check_coordinates` lets pass; leading axes may be broadcast."""
    if isinstance(q, _CORRELATED_NORMALS):
        return q.covariance_matrix
    return torch.diag_embed(q.variance)
