"""A function of tensors that changes others in place: eager, or compiled and known to do the same."""

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, get_args

import pyro
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_vae.compilation import (
    CompilerError,
    TracingError,
    compile_graph,
    one_line,
    trace,
)
from pyro_vae.compilation.cuda_graph import captured
from pyro_vae.compilation.work import CompileMode, counted

log = logging.getLogger(__name__)

_LOSS_TOLERANCE = 1e-4
# A gradient this much smaller than all of them together is rounding, and is not compared.
_NEGLIGIBLE = 1e-6


# A number that is another at each call would be compiled at each call.
_MOST_GRAPHS = 8


class Compiled:
    """A function that is compiled once for each form of its arguments, where that pays.

    The first call of a form is eager. With the second the function is traced and compiled, and this
    call is made both ways, from the same state and under the same noise. If they agree, the
    compiled way is taken from there on; if they do not, or there is no graph or no compiler, a line
    in the log says why, and the function stays eager.

    Args:
        function: Of any arguments to a tuple of tensors, its loss first. It draws noise from the
            global random stream, and changes tensors in place rather than bind new ones.
        mode: "off"; "on" for the first form, and the others by their work; "auto" for all by their
            work.
        expected_calls: How often a form, such as "256x784", will be called in all.
        names: What the function changes and must change alike both ways, by what it is.
        tolerance: How far each may be from the eager one, as a share of the change's norm.
        modules: Whose attributes the function must not bind anew.
        form: Names the form of some arguments; their shapes if None.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        mode: CompileMode,
        expected_calls: Callable[[str], int],
        *,
        names: Callable[[], Mapping[str, Tensor]],
        tolerance: float,
        modules: Sequence[nn.Module] = (),
        form: Callable[..., str] | None = None,
    ) -> None:
        if mode not in get_args(CompileMode):
            raise ValueError(
                f"compile must be one of {', '.join(get_args(CompileMode))}, got {mode!r}."
            )
        self.function = function
        self.mode: CompileMode = mode
        self.expected_calls = expected_calls
        self.names = names
        self.tolerance = tolerance
        self.modules = modules
        self.form = form or _shapes
        # By form, "on" or "off". Who goes on with a training sets them first, and gets the same.
        self.decisions: dict[str, str] = {}
        self.seconds = 0.0
        self._told = False
        self._runners: dict[Any, Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's outputs."""
        if self.mode == "off":
            return self.function(*arguments)
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(isinstance(leaf, Hashable) for leaf in leaves):
            return self._uncompiled(arguments, "an argument can be no constant of a graph")
        key = (structure, *map(_constant, leaves))
        if runner := self._runners.get(key):
            return runner(*tensors)
        if len(self._runners) >= _MOST_GRAPHS:
            return self._uncompiled(arguments, "arguments that are no tensors keep changing")

        def of_tensors(*values: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(values)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self.function(*pytree.tree_unflatten(filled, structure))

        form = self.form(*arguments)
        if form not in self.decisions:
            outputs, self.decisions[form] = self._first(of_tensors, form, tensors)
            return outputs
        if self.decisions[form] == "off":
            self._runners[key] = of_tensors
            return of_tensors(*tensors)
        return self._compile(key, of_tensors, form, tensors)

    def _uncompiled(self, arguments: tuple[Any, ...], reason: str) -> tuple[Tensor, ...]:
        if not self._told:
            log.warning("compiled step: some calls run eagerly, as %s; give tensors.", reason)
            self._told = True
        return self.function(*arguments)

    def forget(self) -> None:
        """Compile anew at the next call: tensors that the function changes were bound anew."""
        self._runners.clear()

    def _first(
        self, function: Callable[..., tuple[Tensor, ...]], form: str, tensors: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], str]:
        if self.mode == "on" and not self.decisions:
            log.info("compiled step, batch %s: on, as asked.", form)
            return function(*tensors), "on"
        outputs, work = counted(function, *tensors)
        calls = self.expected_calls(form)
        decision = "on" if work.pays(calls) else "off"
        log.info(
            "compiled step, batch %s: %s; %d steps of %.2g floating-point operations would save about "
            "%.0f s.",
            form,
            decision,
            calls,
            work.flops,
            work.seconds_saved(calls),
        )
        return outputs, decision

    def _compile(
        self,
        key: Any,
        function: Callable[..., tuple[Tensor, ...]],
        form: str,
        tensors: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Make this call both ways, and choose the way of the calls to come."""
        started = time.perf_counter()
        try:
            with pyro.validation_enabled(False):
                traced = trace(function, *tensors, modules=self.modules)
                runner = compile_graph(traced, *tensors)
        except (TracingError, CompilerError) as error:
            self._fall_back(key, function, form, str(error))
            return function(*tensors)
        changed = traced.changed
        before, noise = [tensor.clone() for tensor in changed], _Noise()
        # A user's program is run eagerly while it is compared, so whatever it raises is its own.
        eager = [output.clone() for output in function(*tensors)]
        after = [tensor.clone() for tensor in changed]
        noise_after = _Noise()

        def restore(values: list[Tensor]) -> None:
            for tensor, value in zip(changed, values, strict=True):
                tensor.copy_(value)

        def go_back() -> None:
            restore(before)
            noise.restore()

        go_back()
        outputs: tuple[Tensor, ...] = ()
        try:
            if tensors and tensors[0].device.type == "cuda":
                runner = captured(runner, tensors, go_back)
            outputs = tuple(runner(*tensors))
            difference = self._difference(changed, before, after, eager, list(outputs))
        except RuntimeError as error:
            difference = one_line(error)
        self.seconds += time.perf_counter() - started
        if difference is not None:
            restore(after)
            noise_after.restore()
            self._fall_back(key, function, form, difference)
            return tuple(eager)
        log.info(
            "compiled step, batch %s: ready after %.1f s, and equal to the eager step.",
            form,
            time.perf_counter() - started,
        )
        self._runners[key] = runner
        return outputs

    def _fall_back(
        self, key: Any, function: Callable[..., tuple[Tensor, ...]], form: str, reason: str
    ) -> None:
        self.decisions[form] = "off"
        self._runners[key] = function
        log.warning("compiled step, batch %s: off, it runs eagerly: %s", form, reason)

    def _difference(
        self,
        changed: list[Tensor],
        before: list[Tensor],
        eager: list[Tensor],
        eager_outputs: list[Tensor],
        outputs: list[Tensor],
    ) -> str | None:
        """What differs beyond the tolerance between the compiled call, just made, and the eager one."""
        for place, (ours, theirs) in enumerate(zip(outputs, eager_outputs, strict=True)):
            far, size = (ours.double() - theirs.double()).norm(), theirs.double().norm()
            limit = self.tolerance if place else max(_LOSS_TOLERANCE, 0.01 * self.tolerance)
            if theirs.isfinite().all() and not far <= limit * size + 1e-12:
                what = "its gradient" if place else f"its loss is {float(ours)}, which"
                return f"{what} differs from the eager one by {float(far / size):.1e} of its norm"
        places = {tensor.data_ptr(): index for index, tensor in enumerate(changed)}
        moves = {
            name: (
                (changed[index].double() - eager[index].double()).norm(),
                (eager[index].double() - before[index].double()).norm(),
            )
            for name, tensor in self.names().items()
            if (index := places.get(tensor.data_ptr())) is not None
        }
        largest = max((float(move) for _, move in moves.values() if move.isfinite()), default=0.0)
        for name, (far, move) in moves.items():
            if move.isfinite() and not far <= self.tolerance * max(
                float(move), _NEGLIGIBLE * largest
            ):
                return f"{name} differs from the eager one by {float(far / move):.1e} of its norm"
        return None


def _constant(leaf: Any) -> Any:
    """What a graph is for: a tensor's form, and the value of whatever is no tensor."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    # With its type, as 1 and True are equal.
    return type(leaf), leaf


def _shapes(*arguments: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return ",".join("x".join(map(str, tensor.shape)) for tensor in tensors)


class _Noise:
    """The state of the global random streams."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)
