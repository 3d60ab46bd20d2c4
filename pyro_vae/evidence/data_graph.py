"""A function of data and of what moves over them: eager, or compiled and known to be the same."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyro_vae.compilation import (
    CompilerError,
    Traced,
    TracingError,
    compile_graph,
    one_line,
    trace,
)
from pyro_vae.compilation.invariant import split

log = logging.getLogger(__name__)


class DataGraph:
    """f(x, *moving), called often at the same data x, without a random number in it.

    Once `compile_for` names a shape, the next call at data of that shape is made both ways. Where they
    agree, such calls are compiled from there on, and what depends on the data alone, such as the
    encoder, is computed once for each; where they do not, or there is no graph or no compiler, a line in
    the log says why, and all is eager.

    Args:
        function: f, of tensors to a tuple of tensors.
        what: What f is, for the log.
        outputs: f's outputs by name, in their order, each with how far the compiled one may be from the
            eager one, as a share of the largest number in it.
        modules: Whose attributes f must not bind anew.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        *,
        what: str,
        outputs: Mapping[str, float],
        modules: Sequence[nn.Module],
    ) -> None:
        self.function = function
        self.what = what
        self.outputs = outputs
        self.modules = modules
        # What compiling took, once it has.
        self.seconds = 0.0
        self._shape: torch.Size | None = None
        self._once: Traced | None = None
        self._runner: Callable[..., tuple[Tensor, ...]] | None = None
        # The data of the last compiled call, and what depends on them alone.
        self._x: Tensor | None = None
        self._values: tuple[Tensor, ...] = ()

    def compile_for(self, shape: torch.Size) -> None:
        """Compile calls at data of this shape."""
        self._shape = shape

    def __call__(self, x: Tensor, *moving: Tensor) -> tuple[Tensor, ...]:
        """f(x, *moving)."""
        if x.shape != self._shape:
            return self.function(x, *moving)
        # A graph is for one layout.
        moving = tuple(tensor.contiguous() for tensor in moving)
        if self._runner is None or self._once is None:
            return self._compile(x, *moving)
        if x is not self._x:
            self._x, self._values = x, tuple(self._once(x))
        return self._runner(x, *self._values, *moving)

    def _compile(self, x: Tensor, *moving: Tensor) -> tuple[Tensor, ...]:
        """Make this call both ways, and choose the way of the calls to come."""
        started = time.perf_counter()
        expected = self.function(x, *moving)
        try:
            traced = trace(self.function, x, *moving, modules=self.modules)
            if traced.changed:
                raise TracingError("it changes a tensor in place, and would do so twice")
            parts = split(traced, len(moving))
            values = tuple(parts.once(x))
            runner = compile_graph(parts.rest, x, *values, *moving)
            reason = self._difference(runner(x, *values, *moving), expected)
            self._once, self._runner = parts.once, runner
        except (TracingError, CompilerError) as error:
            reason = str(error)
        except RuntimeError as error:
            reason = one_line(error)
        self.seconds = time.perf_counter() - started
        form = f"compiled {self.what}, data {'x'.join(map(str, x.shape))}"
        if reason is None:
            log.info("%s: ready after %.1f s, and equal to the eager one.", form, self.seconds)
        else:
            self._shape = self._runner = None
            log.warning("%s: off, it runs eagerly: %s", form, reason)
        return expected

    def _difference(self, outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str | None:
        """What differs beyond the tolerance, if anything does."""
        for (name, tolerance), ours, theirs in zip(
            self.outputs.items(), outputs, expected, strict=True
        ):
            limit = tolerance * float(theirs.nan_to_num(0, 0, 0).abs().max())
            if not torch.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
                far = float((ours - theirs).nan_to_num(torch.inf).abs().max())
                return f"its {name} is {far:.1e} from the eager one"
        return None
