"""The terms of a model and guide pair per example: log p(x | z), log p(z) and log q(z | x).

Every bound, diagnostic and decomposition is computed from these. Discrete sites that are marked
`infer={"enumerate": "parallel"}` are summed exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from pyro import poutine
from pyro.distributions.util import broadcast_shape
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

# Imported for what it registers: the closed-form KLs that torch lacks.
import pyro_vae.distributions  # noqa: F401
from pyro_vae.checks import NoDensityError
from pyro_vae.class_sums import ClassSums, Sites, class_axes, enumerated_sites, expectation
from pyro_vae.rng import as_floats, evaluation_mode


@dataclass(frozen=True)
class LogDensities:
    """The terms of K particles and B examples, in nats, with their traces.

    A discrete site y that the guide enumerates enters each term as its exact expectation under
    q(y | x), so that the terms add up to the bound of Pyro's `TraceEnum_ELBO`. One that only the
    model has is marginalised: what depends on it is one term, log sum_y p(y, z), at the first
    latent site that depends on y, and log p(x | z) at the first observed one.

    Args:
        log_likelihood: log p(x | z), summed over the observed sites.
        log_prior: log p(z), summed over the model's latent sites.
        log_posterior: log q(z | x), summed over the guide's sites.
        model_sites: Each site of the model by name, observed and latent.
        guide_sites: Each site of the guide by name.
        model_trace: The model's trace: every site's distribution and value.
        guide_trace: The guide's.
        class_sums: Sums over enumerated sites; None if there are none.
    """

    log_likelihood: Float[Tensor, "particles batch"]
    log_prior: Float[Tensor, "particles batch"]
    log_posterior: Float[Tensor, "particles batch"]
    model_sites: dict[str, Float[Tensor, "particles batch"]]
    guide_sites: dict[str, Float[Tensor, "particles batch"]]
    model_trace: Trace
    guide_trace: Trace
    class_sums: ClassSums | None = None

    @property
    def log_weight(self) -> Float[Tensor, "particles batch"]:
        """The log importance weight log p(x, z) - log q(z | x), summed over enumerated sites.

        Raises:
            NoDensityError: If the guide is a point mass.
        """
        require_density(self.guide_trace, "an importance weight")
        if self.class_sums is not None:
            return self.class_sums.log_weight
        return self.log_likelihood + self.log_prior - self.log_posterior

    @property
    def log_joint(self) -> Float[Tensor, "particles batch"]:
        """log p(x, z) in float64, summed over enumerated sites."""
        if self.class_sums is not None:
            return self.class_sums.log_joint.double()
        return self.log_likelihood.double() + self.log_prior.double()

    @property
    def log_proposal(self) -> Float[Tensor, "particles batch"]:
        """log q(z | x) in float64, summed over enumerated sites."""
        sums = self.class_sums
        return (self.log_posterior if sums is None else sums.log_proposal).double()

    @property
    def draws(self) -> list[Tensor]:
        """Each latent site's draws as the model reads them; only its densities depend on them."""
        nodes = _nodes(self.model_trace)
        enumerated = enumerated_sites(self.guide_trace)
        return [
            nodes[name]["value"]
            for name in self.model_sites
            if name in self.guide_sites and name not in enumerated
        ]

    def log_posterior_at_fixed_draws(self) -> Float[Tensor, "particles batch"]:
        """log q(z | x) with fixed draws, whose gradient is the score.

        Without the score, the gradient of log q(z | x) is the one along the path of the draws.

        Raises:
            ValueError: If the guide has several sites: the parameters of one may depend on the
                draws of another.
        """
        if len(self.guide_sites) != 1:
            raise ValueError(
                "the score is defined for one latent site, got the sites "
                f"{', '.join(self.guide_sites)}."
            )
        (name,) = self.guide_sites
        site = _nodes(self.guide_trace)[name]
        score = site["fn"].log_prob(site["value"].detach())
        if score.shape != self.log_posterior.shape:
            raise ValueError(
                f"the score needs a site in no plate but that over data, and {name!r} is in "
                "another."
            )
        return score

    def closed_form_kl(self, site: str) -> Float[Tensor, "particles batch"] | None:
        """KL(q || p) at a latent site, in nats; None where no closed form is registered.

        Also None if the model has no such site or has it in another plate, over which terms are
        summed but the divergence is not; if p may depend on the site's own draw, by a site that
        the model has before it and the guide after it; if p depends on a class that is
        marginalised; and if the guide is a point mass, for which Pyro registers -log p(z).
        """
        if site not in self.model_sites or site in without_density(self.guide_trace):
            return None
        traces = (self.guide_trace, self.model_trace)
        marginalised = enumerated_sites(self.model_trace) - enumerated_sites(self.guide_trace)
        if prior_may_read_draw(*traces, site) or _names_before(traces[1], site) & marginalised:
            return None
        shape = self.guide_sites[site].shape
        expanded = broadcast_shape(*(distribution_at(trace, site).batch_shape for trace in traces))
        by_class = self.class_sums is not None and len(expanded) > 2
        # torch's own function imports sympy.
        if (expanded[-2:] if by_class else expanded) != shape:
            return None
        # Once for all particles, unless a distribution's parameters depend on their draws.
        q, p = (_nodes(trace)[site][_FOR_ONE_PARTICLE] for trace in traces)
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            return None
        if by_class and self.class_sums is not None:
            kl = expectation(kl, self.class_sums.probabilities)
        return kl.expand(shape)


def distribution_at(trace: Trace, site: str) -> Distribution:
    """The distribution of a site, expanded over particles and plates."""
    return _nodes(trace)[site]["fn"]


def without_density(guide_trace: Trace) -> dict[str, str]:
    """The guide's sites that are point masses, each with the name of its distribution's class.

    Their log q of 0 is not a density and must not enter an ELBO. A point that is computed from an
    auxiliary draw with a density, as in Pyro's automatic guides, does not count.
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
    """Check that a guide has a density.

    Args:
        guide_trace: A trace of the guide.
        what: What needs log q(z | x), for the message.
        otherwise: The consequence of having none, for the message.

    Raises:
        NoDensityError: If a site is a point mass.
    """
    for name, kind in without_density(guide_trace).items():
        raise NoDensityError(
            f"{what} needs a guide with a density, but site {name!r} is a {kind}, with all its "
            f"mass at one point: {otherwise}."
        )


def check_density(guide: Callable[..., Any], x: Real[Tensor, " n *event"], what: str) -> None:
    """Check that a guide has a density, from one example, without changing the random state.

    Args:
        guide: The guide.
        x: Data; integers are converted to floats.
        what: What needs log q(z | x), for the message.

    Raises:
        NoDensityError: If a site is a point mass.
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
    """Run the guide, replay the model against it, and sum each site's log density per example.

    The traces are those of Pyro's `Trace_ELBO` with vectorised particles: if data are in one
    plate, `-(log_weight.mean(0).sum())` is its loss. The terms are unscaled: neither the
    subsampling of a plate nor `poutine.scale` enters. Sites that are marked
    `infer={"enumerate": "parallel"}` have each of their values, on an axis left of the particles.

    Args:
        model: A Pyro model.
        guide: Its guide.
        *args: The arguments of both.
        num_particles: The number K of draws from the guide per example.
        data_plate: The name of the plate over data.
        max_plate_nesting: The depth of nested plates; the axis of particles is left of them.
        **kwargs: The keyword arguments of both.

    Raises:
        ValueError: If a sample site is outside the plate over data: it has no term per example.
    """

    def particles(program: Callable[..., Any]) -> Callable[..., Any]:
        return pyro.plate("num_particles_vectorized", num_particles, dim=-max_plate_nesting - 1)(
            _BeforeParticles()(program)
        )

    axes = max_plate_nesting + 1
    enumerated = poutine.enum(particles(guide), first_available_dim=-axes - 1)
    guide_trace = poutine.trace(enumerated).get_trace(*args, **kwargs)
    replayed = poutine.replay(particles(model), trace=_forked(guide_trace))
    # Classes that the guide lacks have axes of their own, left of the guide's.
    model_trace = poutine.trace(poutine.enum(replayed)).get_trace(*args, **kwargs)
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, axes)
    guide_trace, model_trace = map(prune_subsample_sites, (guide_trace, model_trace))
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        for site in _nodes(trace).values():
            if site["type"] == "sample" and is_validation_enabled():
                check_site_shape(cast("Any", site), axes)
    model_sites = _per_example(model_trace, data_plate, axes)
    guide_sites = _per_example(guide_trace, data_plate, axes)
    latent = [name for name in model_sites if name in guide_sites]
    observed = [name for name in model_sites if name not in guide_sites]
    class_sums = None
    if classes := {
        n: s for t in (model_trace, guide_trace) for n, s in class_axes(t, axes).items()
    }:
        sites = Sites(model_sites, guide_sites, set(observed), classes)
        model_sites, guide_sites, class_sums = sites.sum()
        observed = [name for name in observed if name in model_sites]
    like = next(iter(model_sites.values()))
    return LogDensities(
        log_likelihood=_total(model_sites, observed, like),
        log_prior=_total(model_sites, latent, like),
        log_posterior=_total(guide_sites, list(guide_sites), like),
        model_sites=model_sites,
        guide_sites=guide_sites,
        model_trace=model_trace,
        guide_trace=guide_trace,
        class_sums=class_sums,
    )


# The key of a trace's node.
_FOR_ONE_PARTICLE = "for_one_particle"


class _BeforeParticles(Messenger):
    """Keeps each site's distribution as it is before the plate of particles expands it."""

    def _pyro_sample(self, msg: Any) -> None:
        msg[_FOR_ONE_PARTICLE] = msg["fn"]


def _forked(trace: Trace) -> Trace:
    """The trace with views of the draws, for the model to read.

    Gradients of the model's densities reach the views, those of the guide's the draws themselves,
    so that the two can be weighted differently.
    """
    forked = trace.copy()
    for name, site in _nodes(trace).items():
        if site["type"] == "sample" and isinstance(site["value"], Tensor):
            _nodes(forked)[name] = {**site, "value": site["value"].view_as(site["value"])}
    return forked


def _per_example(trace: Trace, data_plate: str, axes: int) -> dict[str, Tensor]:
    """Each site's unscaled log density, `(*classes, particles, batch)`, summed over other axes."""
    sites = {}
    for name, site in _nodes(trace).items():
        if site["type"] != "sample" or site["infer"].get("is_auxiliary"):
            continue
        plates = {frame.name: frame.dim for frame in site["cond_indep_stack"]}
        if data_plate not in plates:
            raise ValueError(
                f"every sample site must be inside the plate {data_plate!r} to have a term per "
                f"example, but site {name!r} is not."
            )
        log_prob = site["unscaled_log_prob"]
        log_prob = log_prob.reshape((1,) * (axes - log_prob.dim()) + tuple(log_prob.shape))
        log_prob = log_prob.movedim(plates[data_plate], -1)
        inner = log_prob.dim() - axes + 1
        sites[name] = log_prob.flatten(inner, -2).sum(inner) if axes > 2 else log_prob
    return sites


def prior_may_read_draw(guide_trace: Trace, model_trace: Trace, site: str) -> bool:
    """Whether p at a site may depend on the site's own draw: KL(q || p) is then not its term.

    That is so if the model has a site before it that the guide has after it. Pyro's
    `TraceMeanField_ELBO` warns of this order.
    """
    before = _names_before(model_trace, site) & _nodes(guide_trace).keys()
    return not before <= _names_before(guide_trace, site)


def _names_before(trace: Trace, site: str) -> set[str]:
    """The sample sites of a trace before one of them."""
    names = [name for name, node in _nodes(trace).items() if node["type"] == "sample"]
    return set(names[: names.index(site)])


def _nodes(trace: Trace) -> dict[str, dict[str, Any]]:
    """The trace's nodes; in Pyro's types every key is optional."""
    return cast("dict[str, dict[str, Any]]", trace.nodes)


def _total(sites: dict[str, Tensor], names: list[str], like: Tensor) -> Tensor:
    """The sum of some sites; zeros if there are none."""
    terms = [sites[name] for name in names] or [torch.zeros_like(like)]
    return sum(terms[1:], terms[0])
