"""The gradient of each datum's ELBO in its own parameters: eager, or compiled and known to be the same."""

import logging
import time
from collections.abc import Callable
from typing import Any, get_args

import pyro
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.compilation import CompilerError, TracingError, compile_graph, one_line, trace
from pyro_vae.compilation.work import CompileMode, counted
from pyro_vae.log_densities import distribution_at, log_densities, require_density

log = logging.getLogger(__name__)

# How far a compiled gradient may be from the eager one, as a share of the largest.
_TOLERANCE = 1e-4


class NoLocalGuideError(ValueError):
    """The guide cannot be fitted to a datum: it has no encoder to replace, or draws without a gradient."""


class Rows(nn.Module):
    """An encoder that gives row i of its parameters for row i of the data, whatever these are.

    Args:
        values: The parameters at first.
    """

    def __init__(self, values: Float[Tensor, " batch *parameters"]) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())

    def set(self, values: Float[Tensor, " batch *parameters"]) -> None:
        """Change the parameters in place, so that a graph sees it."""
        with torch.no_grad():
            self.values.copy_(values)

    def forward(self, x: Real[Tensor, " batch *event"]) -> Float[Tensor, " batch *parameters"]:
        return self.values


class LocalGradient:
    """d/d phi_i of E_q(z; phi_i)[log p(x_i | z)] - KL(q(z; phi_i) || p(z)), for each row i.

    The KL is in closed form where one is registered, and otherwise of the same draws. The first call
    is eager. If compiling pays, the second is made both ways under the same noise; where they agree,
    data of that shape are compiled from there on, and where not, a line in the log says why.

    Args:
        program: A program whose guide reads its parameters from `rows`, all others frozen.
        rows: The parameters.
        num_particles: The number of draws for each datum.
        compile: "off", "on", or "auto" to compile where the counted work of all calls pays for it.
        expected_calls: How often it will be called.

    Raises:
        ValueError: If `compile` is none of these; when called, if a site is not reparameterisable.
    """

    def __init__(
        self,
        program: Any,
        rows: Rows,
        num_particles: int,
        compile: CompileMode,
        *,
        expected_calls: int,
    ) -> None:
        if compile not in get_args(CompileMode):
            raise ValueError(
                f"compile must be one of {', '.join(get_args(CompileMode))}, got {compile!r}."
            )
        self.program = program
        self.rows = rows
        self.num_particles = num_particles
        self.compile: CompileMode = compile
        self.expected_calls = expected_calls
        self.calls = 0
        self._pays = False
        self._runner: Callable[..., tuple[Tensor, ...]] | None = None

    @property
    def compiled(self) -> bool:
        """Whether calls are compiled."""
        return self._runner is not None

    def __call__(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, " batch *parameters"]:
        self.calls += 1
        if self.calls == 1:
            return self._first(x)
        if self._runner is not None:
            return self._runner(x)[0]
        return self._compile(x) if self._pays else self._eager(x)[0]

    def _eager(self, x: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            terms = log_densities(
                self.program.model, self.program.guide, x, num_particles=self.num_particles
            )
            require_density(terms.guide_trace, "a local guide")
            elbo = terms.log_likelihood.mean(0)
            for site, log_posterior in terms.guide_sites.items():
                if not distribution_at(terms.guide_trace, site).has_rsample:
                    raise NoLocalGuideError(
                        f"a local guide needs draws with a gradient, but site {site!r} has no rsample."
                    )
                kl = terms.closed_form_kl(site)
                elbo = elbo - (log_posterior - terms.model_sites[site] if kl is None else kl).mean(
                    0
                )
            (gradient,) = torch.autograd.grad(elbo.sum(), [self.rows.values])
        return (gradient,)

    def _first(self, x: Tensor) -> Tensor:
        self._pays = self.compile == "on"
        if self.compile != "auto":
            return self._eager(x)[0]
        (gradient,), work = counted(self._eager, x)
        self._pays = work.pays(self.expected_calls)
        log.info(
            "compiled refinement, %d data: %s; %d steps of %.2g floating-point operations would save "
            "about %.0f s.",
            len(x),
            "on" if self._pays else "off",
            self.expected_calls,
            work.flops,
            work.seconds_saved(self.expected_calls),
        )
        return gradient

    def _compile(self, x: Tensor) -> Tensor:
        """Make this call both ways, and choose the way of the calls to come."""
        started = time.perf_counter()
        self._pays = False
        runner: Callable[..., tuple[Tensor, ...]] | None = None
        ours, reason = None, None
        try:
            with pyro.validation_enabled(False):
                traced = trace(self._eager, x, modules=[self.program])
                runner = compile_graph(traced, x)
            before = [(tensor, tensor.clone()) for tensor in traced.changed]
            # Eager below draws the same noise again, and leaves the stream behind it.
            with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
                (ours,) = runner(x)
            # What it may have changed in place, eager below changes again.
            for tensor, value in before:
                tensor.copy_(value)
        except (TracingError, CompilerError) as error:
            reason = str(error)
        except RuntimeError as error:
            reason = one_line(error)
        (theirs,) = self._eager(x)
        if ours is not None and reason is None:
            limit = _TOLERANCE * float(theirs.nan_to_num(0, 0, 0).abs().max())
            if not torch.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
                reason = f"it is up to {float((ours - theirs).abs().max()):.1e} from the eager one"
        if reason is None:
            self._runner = runner
            log.info(
                "compiled refinement, %d data: ready after %.1f s, and equal to the eager one.",
                len(x),
                time.perf_counter() - started,
            )
        else:
            log.warning("compiled refinement, %d data: off, it runs eagerly: %s", len(x), reason)
        return theirs
