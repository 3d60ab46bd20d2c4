"""The per-datum terms of a model and guide pair: log p(x | z), log p(z) and log q(z | x).

Every bound, diagnostic and decomposition comes from these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

# Imported for what it registers: the closed-form KLs that torch lacks.
import pyro_vae.distributions  # noqa: F401
from pyro_vae.rng import as_floats, evaluation_mode


class NoDensityError(ValueError):
    """What is asked for needs log q(z | x), and the guide has all its mass at one point."""


@dataclass(frozen=True)
class LogDensities:
    """The terms of K particles and B data, in nats, and the traces they were read from.

    Args:
        log_likelihood: log p(x | z), summed over the observed sites.
        log_prior: log p(z), summed over the model's latent sites.
        log_posterior: log q(z | x), summed over the guide's sites.
        model_sites: Each site of the model by name, observed and latent.
        guide_sites: Each site of the guide by name.
        model_trace: The model's trace: every site's distribution and value.
        guide_trace: The guide's.
    """

    log_likelihood: Float[Tensor, "particles batch"]
    log_prior: Float[Tensor, "particles batch"]
    log_posterior: Float[Tensor, "particles batch"]
    model_sites: dict[str, Float[Tensor, "particles batch"]]
    guide_sites: dict[str, Float[Tensor, "particles batch"]]
    model_trace: Trace
    guide_trace: Trace

    @property
    def log_weight(self) -> Float[Tensor, "particles batch"]:
        """The log importance weight log p(x, z) - log q(z | x).

        Raises:
            NoDensityError: If the guide has all its mass at one point.
        """
        require_density(self.guide_trace, "an importance weight")
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def draws(self) -> list[Tensor]:
        """Each latent site's draws as the model reads them: only its densities depend on these."""
        nodes = _nodes(self.model_trace)
        return [nodes[name]["value"] for name in self.model_sites if name in self.guide_sites]

    def log_posterior_at_fixed_draws(self) -> Float[Tensor, "particles batch"]:
        """log q(z | x) again, with a gradient through the guide's parameters alone: the score.

        Without it, the gradient of log q(z | x) is the one along the path of the draws.

        Raises:
            ValueError: If the guide has several sites: a later one's parameters may depend on the
                draws of an earlier one.
        """
        if len(self.guide_sites) != 1:
            raise ValueError(
                "the score of one latent site can be told apart, got the sites "
                f"{', '.join(self.guide_sites)}."
            )
        (name,) = self.guide_sites
        site = _nodes(self.guide_trace)[name]
        score = site["fn"].log_prob(site["value"].detach())
        if score.shape != self.log_posterior.shape:
            raise ValueError(
                f"the score of site {name!r} can be told apart where it is in the plate over data alone."
            )
        return score

    def closed_form_kl(self, site: str) -> Float[Tensor, "particles batch"] | None:
        """KL(q || p) at a latent site, in nats; None where no closed form is registered.

        None, too, where the model has no such site, or has it in a plate of its own: the terms
        were summed by datum, the divergence was not. And where the guide has all its mass at one
        point, for which Pyro registers -log p(z).
        """
        if site not in self.model_sites or site in without_density(self.guide_trace):
            return None
        traces = (self.guide_trace, self.model_trace)
        shape = self.guide_sites[site].shape
        expanded = [distribution_at(trace, site).batch_shape for trace in traces]
        if torch.broadcast_shapes(*expanded) != shape:
            return None
        # Once for all particles, unless their own draws set a distribution's parameters.
        q, p = (_nodes(trace)[site][_FOR_ONE_PARTICLE] for trace in traces)
        try:
            return kl_divergence(q, p).expand(shape)
        except NotImplementedError:
            return None


def distribution_at(trace: Trace, site: str) -> Distribution:
    """The distribution of a site, expanded over particles and plates."""
    return _nodes(trace)[site]["fn"]


def without_density(guide_trace: Trace) -> dict[str, str]:
    """The guide's sites that have all their mass at one point, each with its distribution's class.

    Their log q is 0 at that point, which is no density: nothing that adds it to others is an ELBO. A
    point that carries on the density of an auxiliary draw, as in Pyro's automatic guides, is none.
    """
    nodes = {n: s for n, s in _nodes(guide_trace).items() if s["type"] == "sample"}
    if any((site["infer"] or {}).get("is_auxiliary") for site in nodes.values()):
        return {}
    found = {}
    for name, site in nodes.items():
        base: Any = site["fn"]
        while isinstance(base, (dist.Independent, dist.MaskedDistribution)):
            base = base.base_dist
        if isinstance(base, dist.Delta) and not site["is_observed"]:
            found[name] = type(base).__name__
    return found


def require_density(
    guide_trace: Trace, what: str, otherwise: str = "it has no ELBO and no log p(x)"
) -> None:
    """Make sure that a guide has a density.

    Args:
        guide_trace: A trace of the guide.
        what: What needs log q(z | x), for the message.
        otherwise: What follows from there being none, for the message.

    Raises:
        NoDensityError: If a site has all its mass at one point.
    """
    for name, kind in without_density(guide_trace).items():
        raise NoDensityError(
            f"{what} needs a guide with a density, but site {name!r} is a {kind}, with all its mass at "
            f"one point: {otherwise}."
        )


def check_density(guide: Callable[..., Any], x: Real[Tensor, " n *event"], what: str) -> None:
    """Make sure that a guide has a density, from one datum; no random stream moves.

    Args:
        guide: The guide.
        x: Data; integers are made floats.
        what: What needs log q(z | x), for the message.

    Raises:
        NoDensityError: If a site has all its mass at one point.
    """
    first = as_floats(x[:1])
    with evaluation_mode(guide, seed=0), pyro.get_param_store().scope():
        require_density(poutine.trace(guide).get_trace(first), what)


def log_densities(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_particles: int = 1,
    data_plate: str = "data",
    max_plate_nesting: int = 1,
    **kwargs: Any,
) -> LogDensities:
    """Run the guide, replay the model against it, and sum each site's log density by datum.

    The traces are those of Pyro's `Trace_ELBO` with vectorised particles: with one datum axis,
    `-(log_weight.mean(0).sum())` is its loss. The terms are unscaled: a plate's subsampling or a
    `poutine.scale` does not enter, as a log density has no weight.

    Args:
        model: A Pyro model.
        guide: Its guide.
        *args: What both are called with.
        num_particles: The number K of draws from the guide for each datum.
        data_plate: The name of the plate over data.
        max_plate_nesting: The number of plates nested in one another; the particles lie left of them.
        **kwargs: What both are called with.

    Raises:
        ValueError: If a sample site lies outside the plate over data: it has no per-datum term.
    """

    def particles(program: Callable[..., Any]) -> Callable[..., Any]:
        return pyro.plate("num_particles_vectorized", num_particles, dim=-max_plate_nesting - 1)(
            _BeforeParticles()(program)
        )

    axes = max_plate_nesting + 1
    guide_trace = poutine.trace(particles(guide)).get_trace(*args, **kwargs)
    replayed = poutine.replay(particles(model), trace=_forked(guide_trace))
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, axes)
    guide_trace, model_trace = map(prune_subsample_sites, (guide_trace, model_trace))
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        for site in _nodes(trace).values():
            if site["type"] == "sample" and is_validation_enabled():
                check_site_shape(cast("Any", site), axes)
    model_sites = _by_datum(model_trace, data_plate, axes)
    guide_sites = _by_datum(guide_trace, data_plate, axes)
    latent = [name for name in model_sites if name in guide_sites]
    observed = [name for name in model_sites if name not in guide_sites]
    like = next(iter(model_sites.values()))
    return LogDensities(
        log_likelihood=_total(model_sites, observed, like),
        log_prior=_total(model_sites, latent, like),
        log_posterior=_total(guide_sites, list(guide_sites), like),
        model_sites=model_sites,
        guide_sites=guide_sites,
        model_trace=model_trace,
        guide_trace=guide_trace,
    )


# The key of a trace's node.
_FOR_ONE_PARTICLE = "for_one_particle"


class _BeforeParticles(Messenger):
    """Keeps each site's distribution as it is before the plate of particles around it expands it."""

    def _pyro_sample(self, msg: Any) -> None:
        msg[_FOR_ONE_PARTICLE] = msg["fn"]


def _forked(trace: Trace) -> Trace:
    """The trace, with tensors of their own for the draws: equal, and one step on for a gradient.

    The model reads these. So what reaches a draw from the model's densities can be told, and weighed,
    apart from what reaches it from the guide's.
    """
    forked = trace.copy()
    for name, site in _nodes(trace).items():
        if site["type"] == "sample" and isinstance(site["value"], Tensor):
            _nodes(forked)[name] = {**site, "value": site["value"].view_as(site["value"])}
    return forked


def _by_datum(trace: Trace, data_plate: str, axes: int) -> dict[str, Tensor]:
    """Each site's unscaled log density, `(particles, batch)`: every other axis is summed."""
    sites = {}
    for name, site in _nodes(trace).items():
        if site["type"] != "sample" or site["infer"].get("is_auxiliary"):
            continue
        plates = {frame.name: frame.dim for frame in site["cond_indep_stack"]}
        if data_plate not in plates:
            raise ValueError(
                f"every sample site must be inside the plate {data_plate!r} to have a term for each "
                f"datum, but site {name!r} is not."
            )
        log_prob = site["unscaled_log_prob"]
        log_prob = log_prob.reshape((1,) * (axes - log_prob.dim()) + tuple(log_prob.shape))
        log_prob = log_prob.movedim(plates[data_plate], -1)
        sites[name] = log_prob.flatten(1, -2).sum(1) if axes > 2 else log_prob
    return sites


def _nodes(trace: Trace) -> dict[str, dict[str, Any]]:
    """The trace's nodes, whose every key Pyro's types call optional."""
    return cast("dict[str, dict[str, Any]]", trace.nodes)


def _total(sites: dict[str, Tensor], names: list[str], like: Tensor) -> Tensor:
    """The sum of some sites; zeros if there are none."""
    terms = [sites[name] for name in names] or [torch.zeros_like(like)]
    return sum(terms[1:], terms[0])
