"""What objectives need of the latent sites: checks, densities of coordinates, and the KL.

The aggregate posterior q(z) = E_x q(z | x) is a mixture over the data. Its objectives need more of
a guide than draws: log q(z_i | x_j) for all pairs of a batch, the densities of its coordinates, or
its covariances.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pyro.distributions import (
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    constraints,
    kl_divergence,
)

from pyro_vae.distributions import LowRankNormal, OneHots, SpikeAndSlab
from pyro_vae.log_densities import (
    LogDensities,
    distribution_at,
    prior_may_read_draw,
    require_density,
)

_CORRELATED_NORMALS = (MultivariateNormal, LowRankMultivariateNormal, LowRankNormal)
_STEPS = (SpikeAndSlab, RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)


# ---- weights and paths of draws ---------------------------------------------------------------


def check_weights(name: str, terms: LogDensities) -> None:
    """Check that p(z) / q(z | x) is a ratio of densities, or of masses, at every latent site.

    Args:
        name: The objective's name, for the message.
        terms: The terms of the pair.

    Raises:
        ValueError: If one is a density and the other a mass: their ratio is not a weight.
    """
    for site in terms.guide_sites:
        if site not in terms.model_sites:
            continue
        q, p = (distribution_at(trace, site) for trace in (terms.guide_trace, terms.model_trace))
        if _measure(q) != _measure(p):
            raise ValueError(
                f"{name} weighs draws by p(z) / q(z | x), but at site {site!r} the model's "
                f"{_class_name(p)} has {_measure(p)} and the guide's {_class_name(q)} has "
                f"{_measure(q)}: use a guide of the prior's kind."
            )


def check_path(name: str, terms: LogDensities) -> None:
    """Check that the gradient of log q(z | x) splits into the score and one along the draws.

    Args:
        name: The objective's name, for the message.
        terms: The terms of the pair.

    Raises:
        ValueError: If there are several latent sites, if the site is in a further plate, or if its
            draws step from value to value, so that their straight-through gradient is not along a
            path.
    """
    if len(terms.guide_sites) != 1:
        raise ValueError(
            f"{name} separates the score of one latent site, but the guide has the sites "
            f"{', '.join(terms.guide_sites)}: use the objective iwae or elbo."
        )
    (site,) = terms.guide_sites
    q = distribution_at(terms.guide_trace, site)
    if isinstance(_base(q), _STEPS) or _measure(q) != "a density":
        raise ValueError(
            f"{name} follows the path of the draws, but those of the {_class_name(q)} at site "
            f"{site!r} step, with a straight-through gradient: use the objective elbo or iwae."
        )
    if q.batch_shape != terms.log_posterior.shape:
        raise ValueError(
            f"{name} needs a site in no plate but that over data, but the {_class_name(q)} at "
            f"site {site!r} is in a plate of its own: declare it as an event, or use the "
            "objective iwae or elbo."
        )


def _measure(distribution: Distribution) -> str:
    """What `log_prob` is the logarithm of, in words."""
    base = _base(distribution)
    if isinstance(base, SpikeAndSlab):
        return "a density beside a mass at 0"
    try:
        return "a mass" if base.support is not None and base.support.is_discrete else "a density"
    except NotImplementedError:  # A distribution need not declare its support.
        return "a density"


def _base(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def _class_name(distribution: Distribution) -> str:
    return type(_base(distribution)).__name__


# ---- the single latent site of objectives of the aggregate posterior ----------------------------


@dataclass(frozen=True)
class Latent:
    """The only latent site of a program.

    Args:
        name: The site's name.
        posterior: q(z | x), with batch shape `(particles, batch)`.
        prior: p(z), with the same batch shape.
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
        objective: The objective's name, for a message.

    Raises:
        ValueError: If there are several, or it is not a vector per example.
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
            f"{objective} needs a vector per example, but site {name!r} has "
            f"batch shape {tuple(q.batch_shape[1:])} and event shape {tuple(q.event_shape)}."
        )
    (draws,) = terms.draws
    return Latent(name, q, p, draws)


def check_product_support(latent: Latent, objective: str) -> None:
    """Check that the support of z is a product: coordinates vary freely.

    Raises:
        ValueError: If it is not, as on a simplex or a sphere, or if z is discrete.
    """
    support = latent.posterior.support
    if not isinstance(support, constraints.independent) or support.is_discrete:
        raise ValueError(
            f"{objective} needs a continuous z whose coordinates may vary freely, but site "
            f"{latent.name!r} is a {type(latent.posterior).__name__} on {support}."
        )


def check_coordinates(latent: Latent, objective: str, *, densities: bool = True) -> None:
    """Check that the guide's coordinates have densities, or only covariances, in closed form.

    Raises:
        ValueError: If they do not.
    """
    q = latent.posterior
    name = type(q).__name__
    closed_form = isinstance(q, _CORRELATED_NORMALS)
    if isinstance(q, Independent):
        name = f"{name} of {type(q.base_dist).__name__}"
        # Scalar variables only, and no point mass if densities are needed.
        mass = densities and isinstance(q.base_dist, SpikeAndSlab)
        closed_form = q.reinterpreted_batch_ndims == 1 and not mass
    if not closed_form:
        raise ValueError(
            f"{objective} needs the {'densities' if densities else 'covariances'} of z's "
            f"coordinates in closed form, but site {latent.name!r} is a {name}. Possible are "
            "independent continuous coordinates, as in diagonal_normal, laplace or gamma, and the "
            "normals full_normal and low_rank_normal."
        )


def log_prob_of_pairs(
    latent: Latent,
) -> tuple[Float[Tensor, "particles batch batch"], Float[Tensor, "particles batch batch latent"]]:
    """log q(z_i | x_j), and log q(z_il | x_j) of each coordinate l, for all i, j, in nats.

    In float64; K B^2 d numbers for K particles, B examples and d coordinates.
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
    """Cov(z | x) of a guide that passes `check_coordinates`; leading axes may be broadcast."""
    if isinstance(q, _CORRELATED_NORMALS):
        return q.covariance_matrix
    return torch.diag_embed(q.variance)


KL = Literal["auto", "monte_carlo"]


def divergence(terms: LogDensities, kl: KL, kl_by_site: dict[str, str]) -> Float[Tensor, " batch"]:
    """KL(q(z | x) || p(z)), summed over latent sites, per example in nats.

    In closed form at each site where one is registered, otherwise the Monte Carlo estimate
    log q(z | x) - log p(z) of the same draws.

    Args:
        terms: The terms of the pair.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.
        kl_by_site: Filled with how each site's KL was computed.

    Raises:
        NoDensityError: If the guide is a point mass.
    """
    require_density(terms.guide_trace, "a KL divergence")
    total = torch.zeros_like(terms.log_likelihood[0])
    for name, log_posterior in terms.guide_sites.items():
        site = terms.closed_form_kl(name) if kl == "auto" else None
        kl_by_site[name] = "Monte Carlo" if site is None else "analytic"
        if site is None:
            site = log_posterior - terms.model_sites[name]
        total = total + site.mean(0)
    return total


def divergence_by_coordinate(
    terms: LogDensities, kl: KL, kl_by_site: dict[str, str]
) -> Float[Tensor, "batch coordinates"]:
    """KL(q(z_i | x) || p(z_i)) of each coordinate i, per example in nats; their sum is the KL.

    Defined where guide and prior are products over coordinates. The coordinates of all latent
    sites follow each other; a variable of several values is one coordinate.

    Args:
        terms: The terms of the pair.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.
        kl_by_site: Filled with how each site's KL was computed.

    Raises:
        ValueError: If a distribution is not a product, by its name, or the guide has no density.
    """
    require_density(terms.guide_trace, "a KL divergence")
    coordinates = []
    for name in terms.guide_sites:
        (q, z), (p, w) = _factors(terms, name, "guide"), _factors(terms, name, "prior")
        site = None
        if kl == "auto" and not prior_may_read_draw(terms.guide_trace, terms.model_trace, name):
            with suppress(NotImplementedError):
                site = kl_divergence(q, p)
        kl_by_site[name] = "Monte Carlo" if site is None else "analytic"
        if site is None:
            site = q.log_prob(z) - p.log_prob(w)
        coordinates.append(site.mean(0).reshape(site.shape[1], -1))
    return torch.cat(coordinates, -1)


def count_coordinates(terms: LogDensities) -> int:
    """The number of coordinates of `divergence_by_coordinate`.

    Raises:
        ValueError: If a distribution is not a product, by its name.
    """
    count = 0
    for name in terms.guide_sites:
        (q, _), (p, _) = _factors(terms, name, "guide"), _factors(terms, name, "prior")
        if q.batch_shape != p.batch_shape:
            raise ValueError(
                f"guide and prior at site {name!r} have coordinates of different shapes."
            )
        count += math.prod(q.batch_shape[2:])
    return count


def _factors(
    terms: LogDensities, name: str, role: Literal["guide", "prior"]
) -> tuple[Distribution, Tensor]:
    """The factors at a site, with the coordinates as batch axes, and the draws in their shape."""
    if name not in terms.model_sites:
        raise ValueError(f"site {name!r} of the guide is not in the model.")
    trace = terms.guide_trace if role == "guide" else terms.model_trace
    distribution = distribution_at(trace, name)
    value = cast("Any", trace.nodes[name])["value"]
    if distribution.batch_shape != terms.guide_sites[name].shape:
        raise ValueError(
            f"the {role} at site {name!r} is in a second plate besides that over data."
        )
    if isinstance(distribution, OneHots):
        # Each variable is a vector.
        runs = OneHots(distribution.logits.unsqueeze(-2), validate_args=False)
        return runs, value.unflatten(-1, tuple(distribution.logits.shape[-2:]))
    if isinstance(distribution, Independent) and not distribution.base_dist.event_shape:
        return distribution.base_dist, value
    if not distribution.event_shape:
        return distribution, value
    raise ValueError(
        f"the {role} at site {name!r} is a {type(distribution).__name__}, not a product over "
        "coordinates."
    )
