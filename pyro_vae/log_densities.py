"""The per-datum terms of a model and guide pair: log p(x | z), log p(z) and log q(z | x).

Every bound, diagnostic and decomposition comes from these.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from jaxtyping import Float
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

# Imported for what it registers: the closed-form KLs that torch lacks.
import pyro_vae.distributions  # noqa: F401


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
        """The log importance weight log p(x, z) - log q(z | x)."""
        return self.log_likelihood + self.log_prior - self.log_posterior

    def closed_form_kl(self, site: str) -> Float[Tensor, "particles batch"] | None:
        """KL(q || p) at a latent site, in nats; None where no closed form is registered.

        None, too, where the model has no such site, or has it in a plate of its own: the terms
        were summed by datum, the divergence was not.
        """
        if site not in self.model_sites:
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

    model_trace, guide_trace = get_importance_trace(
        "flat", max_plate_nesting + 1, particles(model), particles(guide), args, kwargs
    )
    axes = max_plate_nesting + 1
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
