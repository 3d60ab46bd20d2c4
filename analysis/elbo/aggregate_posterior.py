"""The rate taken apart, from a trained VAE and all its training data."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import torch
from jaxtyping import Real
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from analysis.check import UndefinedCheckError
from analysis.elbo.aggregate_densities import CHECKED, Draws, Normals, Pairs, coordinate_densities
from analysis.elbo.normal_mixtures import coefficients, features, is_normal
from analysis.elbo.rate_decomposition import RateDecomposition, Spectrum
from analysis.predictive.model_samples import (
    as_floats,
    block_size,
    guide_blocks,
    latent_site,
    to_array,
)
from pyro_vae.log_densities import distribution_at, require_density
from pyro_vae.objectives import marginals
from pyro_vae.rng import evaluation_mode

# Draws x data x dimensions of a guide that is no normal: each pair is a log density of its own.
PAIRS = 2**28

# Elements of data that the guide reads at a time.
BLOCK = 2**20


def decompose_rate(
    vae: Any, x_train: Real[Tensor, " n *event"], *, num_draws: int = 10_000, seed: int = 0
) -> RateDecomposition:
    """E[KL(q(z | x) || p(z))] = I(x; z) + TC(z) + sum_d KL(q(z_d) || p(z_d)), from all training data.

    q(z) = 1/N sum_j q(z | x_j), over all data given, at draws z_i ~ q(z | x_i) for `num_draws` of
    them, chosen at random without repetition; more draws than data are several of each. For normal
    guides log q(z_i) is a matrix product in float64, and log q(z_id) is interpolated on the line.
    Other guides' densities are computed pair by pair, for fewer draws where the data are many.

    A guide whose coordinates have no densities of their own (flows, simplices, spheres, one-hot
    codes) has the mutual information and the marginal KL alone.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `embed(x)` and one latent site.
        x_train: The training data, in the likelihood's support; integers are made floats.
        num_draws: How many z are drawn. 10,000 give standard errors of about 0.05 nats.
        seed: The seed of that choice and of the draws.

    Returns:
        The terms; read `mutual_information` beside `log_n`, as `RateDecomposition.saturated` says.

    Raises:
        UndefinedCheckError: If there are several latent sites, or one in a plate within the plate
            over data.
        ValueError: If `num_draws` or the number of data is below 2.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
        Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse &
        Duvenaud, 2018), https://arxiv.org/abs/1802.04942
    """
    for name, value in (("num_draws", num_draws), ("the number of data", len(x_train))):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}.")
    site = latent_site(vae)
    n = len(x_train)
    normal, undefined, latent = _kind(vae, x_train[:1], site)
    if not normal:
        num_draws = min(num_draws, max(CHECKED, PAIRS // (n * latent)))
    draws = _draw(
        vae, x_train[_rows(n, num_draws, seed).to(x_train.device)], site, seed, undefined
    )
    aggregate = Normals(draws) if normal else Pairs(draws)
    codes = []
    for block, q in _guides(vae, x_train, site, seed):
        aggregate.add(q)
        if normal:
            codes.append(q.mean.detach().double().cpu())
        else:
            with evaluation_mode(vae):
                codes.append(vae.embed(block).double().cpu())
    joint, coordinates, error = aggregate.finish(n)
    return _decomposition(draws, joint, coordinates, error, undefined, torch.cat(codes), n)


def _kind(vae: Any, x: Tensor, site: str) -> tuple[bool, str | None, int]:
    """Whether the guide is a normal, why its coordinates have no densities, and its elements."""
    (_, terms), *_ = guide_blocks(vae, x, 1, seed=0)
    require_density(terms.guide_trace, "the rate")
    q = distribution_at(terms.guide_trace, site)
    if tuple(q.batch_shape) != (1, 1):
        raise UndefinedCheckError(
            f"the rate of site {site!r} is taken apart where it is in the plate over data alone."
        )
    undefined = None
    try:
        latent = marginals.latent_site(terms, "the total correlation")
        marginals.check_coordinates(latent, "the total correlation")
    except ValueError as error:
        undefined = str(error)
    return undefined is None and is_normal(q), undefined, q.event_shape.numel()


def _rows(n: int, num_draws: int, seed: int) -> Tensor:
    """Which data are drawn for: each as often as all others, and the rest at random."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randperm(n, generator=generator)[: num_draws % n].sort().values
    return torch.cat([torch.arange(n).repeat(num_draws // n), rest])


def _draw(vae: Any, x: Tensor, site: str, seed: int, undefined: str | None) -> Draws:
    parts: list[dict[str, Tensor | None]] = []
    for _, terms in guide_blocks(vae, x, 1, seed=seed):
        q, p = (distribution_at(t, site) for t in (terms.guide_trace, terms.model_trace))
        z = terms.draws[0]
        part: dict[str, Tensor | None] = dict.fromkeys(Draws.__dataclass_fields__)
        part |= {"z": z, "own": terms.log_posterior, "prior": terms.log_prior}
        if undefined is None:
            each = coordinate_densities(q)
            part["own_coordinates"] = each.log_prob(z.double() if is_normal(q) else z)
            if is_normal(q):
                centre = z.double().mean((0, 1))
                f, c = features(z[0].double() - centre, q), coefficients(q, centre)
                part["own"] = (f * c).sum(1).unsqueeze(0)
            if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1:
                part["prior_coordinates"] = p.base_dist.log_prob(z)
                with suppress(NotImplementedError):
                    part["kl"] = kl_divergence(each, p.base_dist)
        parts.append({k: None if v is None else v[0].cpu() for k, v in part.items()})
    joined = {
        name: None if value is None else torch.cat([cast("Tensor", part[name]) for part in parts])
        for name, value in parts[0].items()
    }
    z = joined.pop("z")
    kl = joined.pop("kl")
    doubles = {name: None if value is None else value.double() for name, value in joined.items()}
    return Draws(z=z, kl=None if kl is None else kl.double().mean(0), **doubles)  # pyright: ignore


def _guides(vae: Any, x: Tensor, site: str, seed: int) -> Iterator[tuple[Tensor, Distribution]]:
    """q(z | x) of all data, a block at a time."""
    with evaluation_mode(vae, seed=seed):
        for rows in x.split(block_size(x, 1, BLOCK)):
            block = as_floats(rows)
            trace = poutine.trace(vae.guide).get_trace(block)
            yield block, distribution_at(trace, site)


def _decomposition(
    draws: Draws,
    joint: Tensor,
    coordinates: Tensor | None,
    error: float | None,
    undefined: str | None,
    codes: Tensor,
    n: int,
) -> RateDecomposition:
    terms: dict[str, float | None] = {}

    def put(name: str, values: Tensor | None) -> None:
        terms[name] = None if values is None else float(values.mean())
        terms[f"{name}_se"] = None if values is None else float(values.std() / len(values) ** 0.5)

    product = None if coordinates is None else coordinates.sum(1)
    put("mutual_information", draws.own - joint)
    put("marginal_kl", joint - draws.prior)
    put("rate", draws.own - draws.prior)
    put("total_correlation", None if product is None else joint - product)
    put("dimension_wise_kl", None if product is None else product - draws.prior)
    spectrum = None
    if coordinates is not None and draws.own_coordinates is not None:
        information = draws.own_coordinates - coordinates
        prior = draws.prior_coordinates
        spectrum = Spectrum(
            to_array(information.mean(0)),
            to_array(information.std(0) / len(information) ** 0.5),
            None if prior is None else to_array((coordinates - prior).mean(0)),
            None if draws.kl is None else to_array(draws.kl),
        )
    return RateDecomposition(
        num_data=n,
        num_draws=len(draws.own),
        **terms,  # pyright: ignore
        by_dimension=spectrum,
        activity=to_array(codes.flatten(1).var(0, correction=0)),
        interpolation_error=error,
        undefined=undefined,
    )
