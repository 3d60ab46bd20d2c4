"""The terms of importance weights for some draws and some data."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.compilation import CompiledFunction, CompileMode
from pyro_vae.compilation.cost_model import FORWARD
from pyro_vae.log_densities import log_densities, require_density
from pyro_vae.rng import owners_of

# The largest difference of a compiled term from the eager one, as a share of the largest term.
_TOLERANCE = 1e-5


class ImportanceTerms:
    """log w, log p(x | z), the KL and the rounding error of log w of some draws, in float64 and nats.

    Calls with data of the first call's shape are compiled if that pays; see `CompiledFunction`.
    The draws from the global random stream are the same either way.

    Args:
        model: A Pyro model called with data, in a plate "data".
        guide: Its guide.
        num_particles: The number of draws for each example.
        max_plate_nesting: The number of plates nested in one another.
        compile: "off", "on", or "auto" to compile if the work of all calls pays for it.
        expected_calls: The number of calls with data of the first call's shape.

    Raises:
        ValueError: If `compile` is another word.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        num_particles: int,
        max_plate_nesting: int = 1,
        compile: CompileMode,
        expected_calls: int,
    ) -> None:
        self.model = model
        self.guide = guide
        self.num_particles = num_particles
        self.max_plate_nesting = max_plate_nesting
        # Whether the KL has a closed form; known after the first call.
        self.analytic = False
        self._stacked = CompiledFunction(
            self._evaluate,
            compile,
            # Only the first shape is worth compiling: the others are remainders.
            lambda form: 0 if self._stacked.decisions else expected_calls,
            name="evaluation, data",
            outputs={"terms": _TOLERANCE},
            modules=owners_of(model, guide),
            form=lambda x: f"{'x'.join(map(str, x.shape))}, {num_particles} draws",
            savings=FORWARD,
        )

    def __call__(
        self, x: Float[Tensor, " batch *event"]
    ) -> tuple[Float[Tensor, "particles batch"], ...]:
        """log w, log p(x | z), the KL, and the rounding error of log w.

        The KL is log q(z | x) - log p(z) where it has no closed form. The error is that of
        `pyro_vae.statistics.rounding_error`, in the precision of the program.
        """
        (terms,) = self._stacked(x)
        return terms.unbind()

    def _evaluate(self, x: Tensor) -> tuple[Tensor]:
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
        parts = (terms.log_likelihood, terms.log_prior, terms.log_posterior)
        rounding = sum(torch.finfo(part.dtype).eps * part.double().abs() for part in parts)
        stacked = (log_likelihood - log_ratio, log_likelihood, kl, cast("Tensor", rounding))
        return (torch.stack(torch.broadcast_tensors(*stacked)),)
