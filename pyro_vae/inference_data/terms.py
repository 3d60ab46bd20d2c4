"""The terms of draws, and what they say of each datum, all in float64."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pyro_vae.inference_data.sites import Draws
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    log_mean_exp,
    pareto_khat,
)

# Names that ArviZ gives no meaning of its own: it takes `log_likelihood` for pointwise LOO, which
# ranks the worst guide first when the datum is an image.
TERMS = {
    "log_p_x_given_z": "log p(x | z), summed over the observed sites and factors",
    "log_p_z": "log p(z), summed over the latent sites",
    "log_q_z_given_x": "log q(z | x), summed over the guide's sites",
    "log_weight": "log p(x | z) + log p(z) - log q(z | x)",
}
STATISTICS = {
    "elbo": ("ELBO: the mean of log_weight over draws", "nats"),
    "reconstruction": ("E_q log p(x | z): the mean over draws", "nats"),
    "kl": ("KL(q(z | x) || p(z))", "nats"),
    "log_evidence": ("log p(x) by importance weighting: the log of the mean weight", "nats"),
    "ess": ("effective sample size of the importance weights", "draws"),
    "khat": ("Pareto k-hat of the importance weights; trust log_evidence below about 0.7", "1"),
}


def terms_of(
    draws: Draws, data_plate: str | None, *, has_density: bool = True
) -> dict[str, np.ndarray]:
    """log p(x | z), log p(z), log q(z | x) and the log weight of each draw.

    A latent site that the guide lacks was drawn from the model at the other values: its own density
    is then its proposal's, too.

    Args:
        draws: The draws.
        data_plate: The plate over data, for terms of shape `(draw, data)`. None for those of all data
            together, of shape `(draw,)`.
        has_density: Whether the guide has a density: without, the last two are left out.
    """
    like = (*draws.model.values(), *draws.guide.values())[0].total(data_plate)
    terms = {name: np.zeros_like(like) for name in TERMS}
    for name, site in draws.model.items():
        if site.kind == "latent":
            terms["log_p_z"] += site.total(data_plate)
            if name not in draws.guide:
                terms["log_q_z_given_x"] += site.total(data_plate)
        elif site.kind != "deterministic":
            terms["log_p_x_given_z"] += site.total(data_plate)
    for site in draws.guide.values():
        if site.kind != "deterministic":
            terms["log_q_z_given_x"] += site.total(data_plate)
    # The subtraction cancels hundreds of nats, so it is done in float64.
    terms["log_weight"] = terms["log_p_x_given_z"] + terms["log_p_z"] - terms["log_q_z_given_x"]
    if not has_density:
        del terms["log_q_z_given_x"], terms["log_weight"]
    return terms


def estimated_kl_sites(draws: Draws) -> list[str]:
    """The guide's sites whose KL to the model's has no closed form, and is a mean over draws."""
    return [n for n, s in draws.guide.items() if s.kind != "deterministic" and s.kl is None]


def kl_of(draws: Draws, data_plate: str) -> np.ndarray:
    """KL(q(z | x) || p(z)) of each datum: in closed form at each site that has one, else a mean over draws."""
    total = np.zeros(())
    for site in draws.guide.values():
        if site.kl is not None:
            total = total + replace(site, log_density=site.kl).total(data_plate).mean(0)
        elif site.kind != "deterministic":
            total = total + site.total(data_plate).mean(0)
    for name, site in draws.model.items():
        # A site that the guide lacks is drawn from the model: its KL is 0.
        guide = draws.guide.get(name)
        if site.kind == "latent" and guide is not None and guide.kl is None:
            total = total - site.total(data_plate).mean(0)
    return total


def statistics_of(
    terms: Mapping[str, np.ndarray], draws: Draws, data_plate: str
) -> dict[str, np.ndarray]:
    """`STATISTICS` of each datum, as far as there are terms for them, and the mean and standard deviation of its latent sites' draws.

    Args:
        terms: Of shape `(draw, data)`.
        draws: Of which they are.
        data_plate: The plate over data, whose axis leads.
    """
    reconstruction = terms["log_p_x_given_z"].mean(0)
    statistics = {"reconstruction": reconstruction}
    # A guide without a density has no weights.
    if (weights := terms.get("log_weight")) is not None:
        kl = np.broadcast_to(kl_of(draws, data_plate), reconstruction.shape)
        statistics |= {
            "elbo": weights.mean(0),
            "kl": kl,
            "log_evidence": log_mean_exp(weights),
            "ess": effective_sample_size(weights),
        }
        if len(weights) >= MINIMUM_SAMPLES:
            statistics["khat"] = pareto_khat(weights)
    for name, site in draws.model.items():
        if site.kind == "latent" and not site.is_category:
            axis = site.plates.index(data_plate)
            mean = site.values.mean(0, dtype=np.float64)
            sd = site.values.std(0, dtype=np.float64)
            statistics[f"{name}_mean"] = np.moveaxis(mean, axis, 0)
            statistics[f"{name}_sd"] = np.moveaxis(sd, axis, 0)
    return statistics
