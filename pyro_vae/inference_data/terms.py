"""The terms of draws, the statistics per example, and notes on pointwise LOO, all in float64."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pyro_vae.inference_data.sites import Site
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    log_mean_exp,
    pareto_khat,
    tail_length,
)

# Names without a meaning in ArviZ, which takes `log_likelihood` for pointwise LOO; that ranks the
# worst guide first when an example is an image.
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
# The number of rows listed in a message; others are counted.
_MOST_ROWS = 10


@dataclass(frozen=True)
class Draws:
    """The sites of a guide, of the model at the guide's values, and of new data at those."""

    model: dict[str, Site]
    guide: dict[str, Site]
    replicates: dict[str, Site]


def terms_of(
    draws: Draws, data_plate: str | None, *, has_density: bool = True
) -> dict[str, np.ndarray]:
    """log p(x | z), log p(z), log q(z | x) and the log weight of each draw.

    A latent site that the guide lacks was drawn from the model given the others: its density is
    also that of its proposal.

    Args:
        draws: The draws.
        data_plate: The plate over data, for terms of shape `(draw, data)`. None for terms of all
            data together, of shape `(draw,)`.
        has_density: Whether the guide has a density; otherwise the last two are left out.
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
    # In float64, because hundreds of nats cancel.
    terms["log_weight"] = terms["log_p_x_given_z"] + terms["log_p_z"] - terms["log_q_z_given_x"]
    if not has_density:
        del terms["log_q_z_given_x"], terms["log_weight"]
    return terms


def estimated_kl_sites(draws: Draws) -> list[str]:
    """The guide's sites whose KL has no closed form, and is a mean over draws."""
    return [n for n, s in draws.guide.items() if s.kind != "deterministic" and s.kl is None]


def _kl(draws: Draws, data_plate: str) -> np.ndarray:
    """KL(q(z | x) || p(z)) per example: at each site in closed form, or else a mean over draws."""
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
    """`STATISTICS` per example, if `terms` allow, and the moments of its latent sites.

    Args:
        terms: Of shape `(draw, data)`.
        draws: The draws of these terms.
        data_plate: The plate over data, whose axis comes first.
    """
    reconstruction = terms["log_p_x_given_z"].mean(0)
    statistics = {"reconstruction": reconstruction}
    # A guide without a density has no weights.
    if (weights := terms.get("log_weight")) is not None:
        statistics |= {
            "elbo": weights.mean(0),
            "kl": np.broadcast_to(_kl(draws, data_plate), reconstruction.shape),
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


def loo_attributes(
    densities: Mapping[str, np.ndarray], data_dim: str, rows: np.ndarray | None = None
) -> dict[str, str | list[int]]:
    """Where `arviz_stats.loo` raises or returns NaN: `notes` and the positions `leave_out`.

    LOO fits a Pareto distribution to each example's lowest log likelihoods, which must differ.

    Args:
        densities: Site -> log p(x_i | z), `(draw, data, ...)`.
        data_dim: The name of the data's dimension.
        rows: The row number of each example, if the data are a subsample.

    Returns:
        The attributes of the group; none if LOO is defined for all data.
    """
    notes, leave_out, size = [], set(), 0
    for site, values in densities.items():
        size = values.shape[1]
        lowest = np.sort(values, axis=0)
        finite = np.isfinite(values).all(0)
        # ArviZ refuses fewer draws itself.
        tail = tail_length(len(values)) if len(values) >= MINIMUM_SAMPLES else len(values)
        constant = finite & (lowest[0] == lowest[-1])
        tied = finite & (lowest[0] == lowest[tail - 1]) & ~constant
        raises = "arviz_stats.loo raises 'All tail values are the same'"
        problems = {
            "is the same at every draw, because it does not depend on global latent sites: "
            f"{raises}; its elpd is that value": constant,
            f"is the same at its {tail} lowest draws: {raises}": tied,
            "is not finite at some draws, where the density is 0: the elpd of arviz_stats.loo is "
            "NaN, or it raises; use a likelihood with a positive density for all data": ~finite,
        }
        for problem, which in problems.items():
            places = np.flatnonzero(which.reshape(len(which), -1).any(1))
            if len(places):
                leave_out.update(places.tolist())
                numbers = (places if rows is None else rows[places]).tolist()
                notes.append(
                    f"log p({site} | z) in {format_rows(numbers)} of {data_dim!r} {problem}."
                )
    if not notes:
        return {}
    remedy = (
        'To leave such data out: tree["log_likelihood"] = tree["log_likelihood"].to_dataset()'
        f'.drop_isel({{{data_dim!r}: tree["log_likelihood"].attrs["leave_out"]}}).'
    )
    if len(leave_out) == size:
        remedy = "LOO is defined for none of these data."
    return {"notes": " ".join([*notes, remedy]), "leave_out": sorted(leave_out)}


def format_rows(rows: list[int]) -> str:
    """The numbers of rows, from 0, in words; long lists are cut.

    >>> format_rows([7]), format_rows([1, 2])
    ('row 7', 'rows 1, 2')
    """
    words = ", ".join(map(str, rows[:_MOST_ROWS]))
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {words}{more}"
