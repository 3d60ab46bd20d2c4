"""The terms of some draws and some data: eager, or compiled and known to be the same."""

import logging
import time
from collections.abc import Callable
from typing import Any, cast, get_args

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.compilation import CompilerError, TracingError, compile_graph, one_line, trace
from pyro_vae.compilation.work import FORWARD, CompileMode, counted
from pyro_vae.log_densities import log_densities, require_density
from pyro_vae.rng import owners_of

log = logging.getLogger(__name__)

# How far a compiled term may be from the eager one, as a share of the largest.
_TOLERANCE = 1e-5


class Terms:
    """log w, log p(x | z), the KL and log w's rounding error of so many draws for each datum, in float64 and nats.

    The first call is eager. If compiling pays, the second is made both ways, under the same noise.
    Where they agree, data of the same shape are compiled from there on; where they do not, or there
    is no graph or no compiler, a line in the log says why, and all is eager. Either way the global
    random stream gives the same draws.

    Args:
        model: A Pyro model called with data, in a plate "data".
        guide: Its guide.
        num_particles: The number of draws for each datum.
        max_plate_nesting: The number of plates nested in one another.
        compile: "off", "on", or "auto" to compile where the counted work of all calls pays for it.
        expected_calls: How often it will be called with data of the first call's shape.

    Raises:
        ValueError: If `compile` is none of these.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        num_particles: int,
        max_plate_nesting: int,
        compile: CompileMode,
        expected_calls: int,
    ) -> None:
        if compile not in get_args(CompileMode):
            raise ValueError(
                f"compile must be one of {', '.join(get_args(CompileMode))}, got {compile!r}."
            )
        self.model = model
        self.guide = guide
        self.num_particles = num_particles
        self.max_plate_nesting = max_plate_nesting
        self.compile: CompileMode = compile
        self.expected_calls = expected_calls
        # Whether the KL has a closed form; the first call tells.
        self.analytic = False
        # Data of this shape are to be compiled.
        self._shape: torch.Size | None = None
        self._runner: Callable[..., tuple[Tensor, ...]] | None = None
        self._calls = 0

    @property
    def compiled(self) -> bool:
        """Whether calls are compiled."""
        return self._runner is not None

    def __call__(
        self, x: Float[Tensor, " batch *event"]
    ) -> tuple[Float[Tensor, "particles batch"], ...]:
        """log w, log p(x | z), the KL, or log q(z | x) - log p(z) where it has no closed form, and log w's rounding error.

        The last is that of `pyro_vae.statistics.rounding_error`, in the precision of the program.
        """
        self._calls += 1
        if self._calls == 1:
            return self._first(x)
        if x.shape != self._shape:
            return self._eager(x)
        return self._compile(x) if self._runner is None else self._runner(x)

    def _eager(self, x: Tensor) -> tuple[Tensor, ...]:
        terms = log_densities(
            self.model,
            self.guide,
            x,
            num_particles=self.num_particles,
            max_plate_nesting=self.max_plate_nesting,
        )
        require_density(terms.guide_trace, "importance weighting")
        log_likelihood = terms.log_likelihood.double()
        log_ratio = terms.log_posterior.double() - terms.log_prior.double()
        kls = [terms.closed_form_kl(name) for name in terms.guide_sites]
        known = [kl.double() for kl in kls if kl is not None]
        self.analytic = len(known) == len(kls)
        kl = sum(known, torch.zeros_like(log_ratio)) if self.analytic else log_ratio
        sizes = (terms.log_likelihood, terms.log_prior, terms.log_posterior)
        rounding = sum(torch.finfo(size.dtype).eps * size.double().abs() for size in sizes)
        return log_likelihood - log_ratio, log_likelihood, kl, cast("Tensor", rounding)

    def _first(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.compile == "on":
            self._shape = x.shape
        if self.compile != "auto":
            return self._eager(x)
        outputs, work = counted(self._eager, x)
        pays = work.pays(self.expected_calls, FORWARD)
        self._shape = x.shape if pays else None
        log.info(
            "compiled evaluation, %s: %s; %d calls of %.2g floating-point operations would save "
            "about %.0f s.",
            self._form(x),
            "on" if pays else "off",
            self.expected_calls,
            work.flops,
            work.seconds_saved(self.expected_calls, FORWARD),
        )
        return outputs

    def _compile(self, x: Tensor) -> tuple[Tensor, ...]:
        """Make this call both ways, and choose the way of the calls to come."""
        started = time.perf_counter()
        runner: Callable[..., tuple[Tensor, ...]] | None = None
        outputs: tuple[Tensor, ...] = ()
        try:
            with pyro.validation_enabled(False):
                traced = trace(self._eager, x, modules=owners_of(self.model, self.guide))
                if traced.changed:
                    raise TracingError("it changes a tensor in place, and would do so twice")
                runner = compile_graph(traced, x)
            # Eager below draws the same noise again, and leaves the stream behind it.
            with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
                outputs = runner(x)
            reason = None
        except (TracingError, CompilerError) as error:
            reason = str(error)
        except RuntimeError as error:
            reason = one_line(error)
        expected = self._eager(x)
        reason = reason or _difference(outputs, expected)
        if reason is None:
            self._runner = runner
            log.info(
                "compiled evaluation, %s: ready after %.1f s, and equal to the eager one.",
                self._form(x),
                time.perf_counter() - started,
            )
        else:
            self._shape = None
            log.warning("compiled evaluation, %s: off, it runs eagerly: %s", self._form(x), reason)
        return expected

    def _form(self, x: Tensor) -> str:
        return f"data {'x'.join(map(str, x.shape))}, {self.num_particles} draws"


def _difference(outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str | None:
    """What differs beyond the tolerance, if anything does."""
    largest = max(float(theirs.nan_to_num(0, 0, 0).abs().max()) for theirs in expected)
    names = ("log weight", "log p(x | z)", "KL", "rounding error")
    for name, ours, theirs in zip(names, outputs, expected, strict=True):
        if not torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * largest, equal_nan=True):
            far = float((ours - theirs).abs().max())
            return f"its {name} is {far:.1e} nats from the eager one"
    return None
