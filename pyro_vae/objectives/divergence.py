"""KL(q(z | x) || p(z)) of the terms, in closed form where there is one."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities

KL = Literal["auto", "monte_carlo"]


def check_kl(kl: KL) -> KL:
    """The option, if it is one.

    Raises:
        ValueError: If it is unknown.
    """
    if kl not in get_args(KL):
        raise ValueError(f"kl must be one of {', '.join(get_args(KL))}, got {kl!r}.")
    return kl


def divergence(terms: LogDensities, kl: KL, kl_by_site: dict[str, str]) -> Float[Tensor, " batch"]:
    """KL(q(z | x) || p(z)), summed over latent sites, for each datum in nats.

    In closed form at each site where one is registered, otherwise the Monte Carlo estimate
    log q(z | x) - log p(z) of the same draws.

    Args:
        terms: The terms of the pair.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.
        kl_by_site: Is told how each site's was computed.
    """
    total = torch.zeros_like(terms.log_likelihood[0])
    for name, log_posterior in terms.guide_sites.items():
        site = terms.closed_form_kl(name) if kl == "auto" else None
        kl_by_site[name] = "Monte Carlo" if site is None else "analytic"
        if site is None:
            site = log_posterior - terms.model_sites[name]
        total = total + site.mean(0)
    return total
