"""Draws of the guide with the terms of their importance weights, many examples at a time."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.compilation import CompiledFunction, CompileMode
from pyro_vae.compilation.compiled_function import FORWARD
from pyro_vae.log_densities import log_densities, require_density
from pyro_vae.rng import as_floats, owners_of

Result = TypeVar("Result")

# The number of log weights held at once, but all of an example's: 2 MB. The k-hat of one example
# at a time would be all overhead, and more than fit into the cache would be slower.
_HELD = 250_000

# The largest number of draws x examples held at once. With it, an evaluation of the digits takes
# 0.6 of the time that it takes without.
_PAIRS = 2**14

# The largest difference of a compiled term from the eager one, as a share of the largest term.
_TOLERANCE = 1e-5


class ImportanceTerms:
    """log w, log p(x | z), the KL and the rounding error of log w of draws, in float64 and nats.

    Calls with data of the first call's shape are compiled if that pays; see `CompiledFunction`.
    The draws from the global random stream are the same either way.

    Args:
        model, guide, max_plate_nesting, compile: As in `importance_weighting`.
        num_particles: The number of draws for each example.
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
            self.evaluate,
            compile,
            # Only the first shape is worth compiling: the others are remainders.
            lambda form: expected_calls if self._stacked.decisions.keys() <= {form} else 0,
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

    def evaluate(self, x: Float[Tensor, " batch *event"]) -> tuple[Tensor]:
        """The terms as one tensor, without a compiler."""
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
        log_weight = log_likelihood - log_ratio
        if terms.class_sums is not None:
            log_weight = terms.log_weight.double()
        stacked = (log_weight, log_likelihood, kl, cast("Tensor", rounding))
        return (torch.stack(torch.broadcast_tensors(*stacked)),)


class Draws:
    """The terms of all draws for some examples, collected on the CPU in float64."""

    def __init__(self, num_samples: int, count: int) -> None:
        self.num_samples = num_samples
        self.count = count
        # The draws of an example beside each other, as they are written and read.
        self.log_weights = np.empty((count, num_samples)).T
        self.log_likelihood = np.zeros(count)
        self.kl = np.zeros(count)
        # The largest log weight so far, and its rounding error.
        self.largest = np.full(count, -np.inf)
        self.rounding = np.zeros(count)

    def put(self, draw: int, example: int, *terms: Float[Tensor, "particles batch"]) -> None:
        """Add the `ImportanceTerms` of a chunk; draws beyond the last are dropped."""
        log_weights, log_likelihood, kl, rounding = terms
        count = min(len(log_weights), self.num_samples - draw)
        columns = slice(example, example + log_weights.shape[1])
        self.log_weights[draw : draw + count, columns] = log_weights[:count].cpu().numpy()
        for total, term in ((self.log_likelihood, log_likelihood), (self.kl, kl)):
            total[columns] += term[:count].sum(0).cpu().numpy()
        largest, place = log_weights[:count].max(0)
        errors = rounding[:count].gather(0, place[None])[0].cpu().numpy()
        larger = largest.cpu().numpy() > self.largest[columns]
        self.rounding[columns] = np.where(larger, errors, self.rounding[columns])
        self.largest[columns] = np.where(larger, largest.cpu().numpy(), self.largest[columns])


def call_size(
    x: Real[Tensor, " n *event"], num_samples: int, max_elements: int
) -> tuple[int, int]:
    """The numbers of draws and of examples that are computed at once.

    All draws of a few examples, rather than a few draws of all: each example is encoded once. If
    they are too many, in parts of one size, the last of which draws some that are not used.
    """
    pairs = min(_PAIRS, max(1, max_elements // max(1, x[0].numel())))
    parts = -(-num_samples // pairs)
    return -(-num_samples // parts), min(len(x), max(1, pairs // num_samples))


def map_draws(
    result: Callable[[Draws], Result],
    terms: ImportanceTerms,
    x: Real[Tensor, " n *event"],
    num_samples: int,
    batch: int,
    *,
    start_batch: Callable[[], object] = lambda: None,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[Result]:
    """The result of all draws of a bounded number of examples, for each such part of the data.

    Args:
        result: Computes a result from the draws of some examples.
        terms: The terms, with the number of draws of `call_size`.
        x: As for `importance_weighting`.
        num_samples: The number K of draws for each example.
        batch: The number of examples that are computed at once, as of `call_size`.
        start_batch: Called before each batch of examples.
        advance: Called with the number of examples after each batch.
    """
    results = []
    held = batch * max(1, _HELD // (num_samples * batch))
    with torch.no_grad(), ExitStack() as speed:
        for first in range(0, len(x), held):
            draws = Draws(num_samples, min(held, len(x) - first))
            for start in range(0, draws.count, batch):
                chunk = x[first + start : first + min(start + batch, draws.count)]
                data = as_floats(chunk)
                start_batch()
                for draw in range(0, num_samples, terms.num_particles):
                    draws.put(draw, start, *terms(data))
                    if first == start == draw == 0:  # The first chunk has passed.
                        speed.enter_context(pyro.validation_enabled(False))
                advance(len(chunk))
            results.append(result(draws))
    return results
