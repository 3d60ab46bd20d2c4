"""KL(q(z | x) || p(z)) of the terms, in closed form where there is one."""

import math
from contextlib import suppress
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vae.distributions import OneHots
from pyro_vae.log_densities import LogDensities, distribution_at, require_density

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

    Defined where guide and prior are products over coordinates. The coordinates of all latent sites
    follow each other; a variable of several values is one coordinate.

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
        if kl == "auto":
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
        f"the {role} at site {name!r} is a {type(distribution).__name__}, not a product over coordinates."
    )
