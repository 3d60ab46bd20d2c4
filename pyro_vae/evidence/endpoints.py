"""The two ends of the path from the guide to the joint density, with their gradients."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compilation import CompilerError, TracingError, compile_graph, one_line, trace
from pyro_vae.compilation.invariant import Split, split
from pyro_vae.compilation.work import CompileMode, counted
from pyro_vae.evaluating import owners_of
from pyro_vae.evidence.unconstrained import Unconstrained, unconstrained
from pyro_vae.log_densities import distribution_at, log_densities

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
    mixture of theirs. The first evaluation is eager. If compiling pays, the second is made both ways,
    and where they agree, data of the same shape are compiled from there on; where they do not, or there
    is no graph or no compiler, a line in the log says why. What depends on the data alone, such as the
    encoder, is then computed once for each x. Nothing here draws a random number.

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
        self._bijection: Unconstrained | None = None
        self._shape: torch.Size | None = None
        self._runner: Callable[..., tuple[Tensor, ...]] | None = None
        self._split: Split | None = None
        self._calls = 0

    def draws(
        self, x: Float[Tensor, " batch *event"], num_draws: int
    ) -> Float[Tensor, "draws batch real"]:
        """Independent draws of q(z | x), as u.

        Raises:
            ValueError: If the guide has other sites, or no density on a support that is served.
        """
        plate = pyro.plate("num_particles_vectorized", num_draws, dim=-2)
        drawn = poutine.trace(plate(self.vae.guide)).get_trace(x)
        names = [name for name, node in drawn.nodes.items() if _is_latent(node)]
        if names != [self.site]:
            raise ValueError(
                f"annealed importance sampling needs a guide with the site {self.site!r} alone, but it "
                f"has {', '.join(map(repr, names)) or 'none'}."
            )
        z = drawn.nodes[self.site]["value"]
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

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """z as a point u of R^d."""
        assert self._bijection is not None, "the guide is looked at first"
        return self._bijection.inverse(z)

    def at(
        self, x: Float[Tensor, " batch *event"]
    ) -> Callable[[Float[Tensor, "chains batch real"]], Point]:
        """The function of u at some data."""
        once: tuple[Tensor, ...] | None = None

        def evaluate(u: Tensor) -> Point:
            nonlocal once
            self._calls += 1
            if self._calls == 1:
                return Point(u, *self._first(x, u))
            if x.shape != self._shape:
                return Point(u, *self._eager(x, u))
            if self._runner is None:
                return Point(u, *self._compile(x, u))
            if once is None:
                assert self._split is not None
                once = tuple(self._split.once(x))
            return Point(u, *self._runner(x, *once, u))

        return evaluate

    def _eager(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
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

    def _first(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        if self.compile == "on":
            self._shape = x.shape
        if self.compile != "auto":
            return self._eager(x, u)
        outputs, work = counted(self._eager, x, u)
        pays = work.pays(self.expected_calls)
        self._shape = x.shape if pays else None
        log.info(
            "compiled gradients, %s: %s; %d calls of %.2g floating-point operations would save about "
            "%.0f s.",
            self._form(x),
            "on" if pays else "off",
            self.expected_calls,
            work.flops,
            work.seconds_saved(self.expected_calls),
        )
        return outputs

    def _compile(self, x: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Make this call both ways, and choose the way of the calls to come."""
        started = time.perf_counter()
        expected = self._eager(x, u)
        try:
            traced = trace(self._eager, x, u, modules=owners_of(self.vae))
            if traced.changed:
                raise TracingError("it changes a tensor in place, and would do so twice")
            parts = split(traced)
            once = tuple(parts.once(x))
            runner = compile_graph(parts.of_last, x, *once, u)
            reason = _difference(runner(x, *once, u), expected)
            self._split, self._runner = parts, runner
        except (TracingError, CompilerError) as error:
            reason = str(error)
        except RuntimeError as error:
            reason = one_line(error)
        if reason is None:
            log.info(
                "compiled gradients, %s: ready after %.1f s, and equal to the eager ones.",
                self._form(x),
                time.perf_counter() - started,
            )
        else:
            self._shape = self._runner = None
            log.warning("compiled gradients, %s: off, it runs eagerly: %s", self._form(x), reason)
        return expected

    def _form(self, x: Tensor) -> str:
        return f"data {'x'.join(map(str, x.shape))}, {self.num_chains} chains"


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


def _difference(outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str | None:
    """What differs beyond the tolerance, if anything does."""
    names = ("log q(z | x)", "log p(x, z)", "gradient of log q(z | x)", "gradient of log p(x, z)")
    tolerances = (_TOLERANCE, _TOLERANCE, _GRADIENT_TOLERANCE, _GRADIENT_TOLERANCE)
    for name, tolerance, ours, theirs in zip(names, tolerances, outputs, expected, strict=True):
        limit = tolerance * float(theirs.nan_to_num(0, 0, 0).abs().max())
        if not torch.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
            far = float((ours - theirs).abs().max())
            return f"its {name} is {far:.1e} from the eager one"
    return None
