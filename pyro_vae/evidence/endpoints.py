"""The two ends of the path from the guide to the joint density, with their gradients."""

import logging
from typing import Any, NamedTuple, cast, get_args

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compilation.work import CompileMode, counted
from pyro_vae.evidence.data_graph import DataGraph
from pyro_vae.evidence.unconstrained import Unconstrained, unconstrained
from pyro_vae.log_densities import distribution_at, log_densities, require_density
from pyro_vae.rng import owners_of

log = logging.getLogger(__name__)

# How far a compiled density and gradient may be from the eager ones, as shares of the largest.
_TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-3


class Point(NamedTuple):
    """Where the chains are, u, with both log densities there, in nats, and their gradients.

    Args:
        u: The latents as points of R^d.
        log_q: log q(z | x) |det dz/du|, in float64.
        log_joint: log p(x, z) |det dz/du|, in float64.
        gradient_q: d log_q / du.
        gradient_joint: d log_joint / du.
    """

    u: Float[Tensor, "chains batch real"]
    log_q: Float[Tensor, "chains batch"]
    log_joint: Float[Tensor, "chains batch"]
    gradient_q: Float[Tensor, "chains batch real"]
    gradient_joint: Float[Tensor, "chains batch real"]

    @property
    def log_weight(self) -> Float[Tensor, "chains batch"]:
        """log p(x, z) - log q(z | x), in nats; -inf where the joint density is 0."""
        ratio = self.log_joint - self.log_q
        return torch.where(self.log_joint == -torch.inf, -torch.inf, ratio)


class Endpoints:
    """log q(z | x) and log p(x, z) of a program with one latent site, as functions of u in R^d.

    The path of annealing needs both at each point, and the gradient of any mixture of the two is that
    mixture of theirs. Inside a trajectory the gradients are enough. `DataGraph` says how both are
    compiled, if the first evaluation's counted work says that it pays.

    Args:
        vae: A program with `model(x)`, `guide(x)` and one latent site.
        num_chains: The number of points for each datum.
        compile: "off", "on", or "auto" to compile where the counted work of all calls pays for it.
        expected_calls: How often densities will be evaluated.

    Raises:
        ValueError: If the program has more latent sites than one, or `compile` is none of these.
    """

    def __init__(
        self, vae: PyroModule, *, num_chains: int, compile: CompileMode, expected_calls: int
    ) -> None:
        if len(vae.latent_sites) != 1:
            raise ValueError(
                "annealed importance sampling needs a program with one latent site, but "
                f"{type(vae).__name__} has {', '.join(map(repr, vae.latent_sites)) or 'none'}."
            )
        if compile not in get_args(CompileMode):
            raise ValueError(
                f"compile must be one of {', '.join(get_args(CompileMode))}, got {compile!r}."
            )
        self.vae = vae
        (self.site,) = vae.latent_sites
        self.num_chains = num_chains
        self.compile: CompileMode = compile
        self.expected_calls = expected_calls
        # Whether the first evaluation has decided whether to compile.
        self.decided = False
        self._bijection: Unconstrained | None = None
        modules = owners_of(vae)
        ends = ("log q(z | x)", "log p(x, z)")
        gradients = {f"gradient of {end}": _GRADIENT_TOLERANCE for end in ends}
        self.densities = DataGraph(
            self._densities,
            what="densities",
            outputs=dict.fromkeys(ends, _TOLERANCE) | gradients,
            modules=modules,
        )
        self.leapfrog = DataGraph(
            self._leapfrog,
            what="leapfrog step",
            outputs={"position": _TOLERANCE, "momentum": _GRADIENT_TOLERANCE},
            modules=modules,
        )

    def draws(
        self, x: Float[Tensor, " batch *event"], num_draws: int
    ) -> Float[Tensor, "draws batch real"]:
        """Independent draws of q(z | x), as u.

        Raises:
            ValueError: If the guide has other sites, or no density on a support that is served.
            NoDensityError: If the guide has all its mass at one point.
        """
        plate = pyro.plate("num_particles_vectorized", num_draws, dim=-2)
        drawn = poutine.trace(plate(self.vae.guide)).get_trace(x)
        require_density(drawn, "annealed importance sampling")
        # Whose every key Pyro's types call optional.
        nodes = cast("dict[str, dict[str, Any]]", drawn.nodes)
        names = [name for name, node in nodes.items() if _is_latent(node)]
        if names != [self.site]:
            raise ValueError(
                f"annealed importance sampling needs a guide with the site {self.site!r} alone, but it "
                f"has {', '.join(map(repr, names)) or 'none'}."
            )
        z = nodes[self.site]["value"]
        if self._bijection is None:
            word = getattr(getattr(self.vae, "posterior", None), "support", None)
            self._bijection = unconstrained(
                distribution_at(drawn, self.site), z, site=self.site, support=word
            )
        return self.inverse(z)

    def validate(self, x: Float[Tensor, " batch *event"]) -> None:
        """Run both programs once, as they are, under whatever validation Pyro is set to.

        Raises:
            ValueError: If the data are outside of the likelihood's support, among others.
        """
        log_densities(self.vae.model, self.vae.guide, x)

    @property
    def compile_seconds(self) -> float:
        """What compiling took."""
        return self.densities.seconds + self.leapfrog.seconds

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """z as a point u of R^d."""
        assert self._bijection is not None, "the guide is looked at first"
        return self._bijection.inverse(z)

    def at(self, x: Float[Tensor, " batch *event"]) -> "Densities":
        """The densities at some data, as functions of u."""
        return Densities(self, x)

    def _densities(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        assert self._bijection is not None
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            z, log_det, inside = self._bijection(u)
            terms = log_densities(
                self.vae.model,
                poutine.replay(self.vae.guide, trace=_holding(self.site, z)),
                x,
                num_particles=self.num_chains,
            )
            log_det = log_det.double()
            log_q = terms.log_posterior.double() + log_det
            log_joint = terms.log_likelihood.double() + terms.log_prior.double() + log_det
            gradients = [
                torch.autograd.grad(total.sum(), u, retain_graph=True)[0]
                for total in (log_q, log_joint)
            ]
        values = []
        for total in (log_q.detach(), log_joint.detach()):
            usable = ~total.isnan() if inside is None else inside & ~total.isnan()
            values.append(torch.where(usable, total, -torch.inf))
        return (*values, *gradients)

    def _leapfrog(
        self, x: Tensor, b: Tensor, stride: Tensor, momentum: Tensor, u: Tensor
    ) -> tuple[Tensor, ...]:
        u = u + stride * momentum
        _, _, of_q, of_joint = self._densities(x, u)
        return u, momentum + stride * ((1 - b) * of_q + b * of_joint)

    def decide(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Evaluate for the first time, and decide whether to compile."""
        self.decided = True
        if self.compile == "off":
            return self._densities(x, u)
        outputs, work = counted(self._densities, x, u)
        on = self.compile == "on" or work.pays(self.expected_calls)
        log.info(
            "compiled annealing, data %s, %d chains: %s; %d calls of %.2g floating-point operations would "
            "save about %.0f s.",
            "x".join(map(str, x.shape)),
            self.num_chains,
            "on" if on else "off",
            self.expected_calls,
            work.flops,
            work.seconds_saved(self.expected_calls),
        )
        if on:
            for graph in (self.densities, self.leapfrog):
                graph.compile_for(x.shape)
        return outputs


class Densities:
    """log q(z | x) and log p(x, z) at some data.

    Args:
        endpoints: Both densities at any data.
        x: The data.
    """

    def __init__(self, endpoints: Endpoints, x: Float[Tensor, " batch *event"]) -> None:
        self._endpoints = endpoints
        self._x = x

    def __call__(self, u: Float[Tensor, "chains batch real"]) -> Point:
        """Both log densities at u, and their gradients."""
        run = self._endpoints.densities if self._endpoints.decided else self._endpoints.decide
        return Point(u, *run(self._x, u))

    def leapfrog(
        self,
        b: Float[Tensor, ""],
        stride: Float[Tensor, "chains batch real"],
        momentum: Float[Tensor, "chains batch real"],
        u: Float[Tensor, "chains batch real"],
    ) -> tuple[Float[Tensor, "chains batch real"], Float[Tensor, "chains batch real"]]:
        """u + stride momentum, and momentum + stride d log f_b / du there: no density is computed."""
        u, momentum = self._endpoints.leapfrog(self._x, b, stride, momentum, u)
        return u, momentum


def _holding(site: str, value: Tensor) -> Trace:
    """A trace with a value at a site, for a program to be replayed against."""
    held = Trace()
    held.add_node(site, name=site, type="sample", is_observed=False, infer={}, value=value)
    return held


def _is_latent(node: Any) -> bool:
    return (
        node["type"] == "sample"
        and not node["is_observed"]
        and not node["infer"].get("is_auxiliary")
        and type(node["fn"]).__name__ != "_Subsample"
    )
