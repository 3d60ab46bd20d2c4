"""A function of tensors that is compiled if that pays and gives the same results."""

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pyro_vae.compilation.inductor import CompilerError, compile_graph
from pyro_vae.compilation.tracing import (
    Traced,
    TracingError,
    hoist_products,
    one_line,
    trace,
)

log = logging.getLogger(__name__)

TensorFunction = Callable[..., tuple[Tensor, ...]]

# A change this much smaller than the largest one is rounding, and is not compared.
_NEGLIGIBLE = 1e-6
# A constant that is different at each call would be compiled at each call.
_MAX_GRAPHS = 8
# Calls on a side stream before the capture of a CUDA graph, as PyTorch's notes ask for.
_WARM_UP_CALLS = 3

# "auto" compiles where it pays.
CompileMode = Literal["auto", "on", "off"]

# Measured on two cores of a Zen 5 CPU: the rate of eager products, and the time that compiling
# takes (8 to 15 s). Compiling must save twice its cost.
_FLOPS_PER_SECOND = 1.2e11
_COMPILER_SECONDS = 15.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Savings:
    """The time that a compiled call saves."""

    call_seconds: (
        float  # Overhead of Python, Pyro's handlers and autograd, independent of the work.
    )
    share_of_products: float  # Savings on all operations, as a share of the products' time.


# Measured on the same machine. A forward pass has as much elementwise work for a third of the
# products, and none of autograd's.
TRAINING_STEP = Savings(call_seconds=3e-3, share_of_products=0.4)
FORWARD = Savings(call_seconds=1.5e-3, share_of_products=0.75)


@dataclass(frozen=True)
class Work:
    """The work of a call."""

    flops: int  # Floating-point operations in products and convolutions.
    on_cpu: bool  # On a GPU a call waits for Pyro's handlers instead.

    def seconds_saved(self, calls: int, savings: Savings = TRAINING_STEP) -> float:
        """The estimated time that compiling saves over this number of calls."""
        products = self.flops / _FLOPS_PER_SECOND if self.on_cpu else 0.0
        return calls * (savings.call_seconds + savings.share_of_products * products)

    def pays(self, calls: int, savings: Savings = TRAINING_STEP) -> bool:
        """Whether this number of calls saves enough. The answer is the same on every machine."""
        return self.seconds_saved(calls, savings) > _MARGIN * _COMPILER_SECONDS


class CompiledFunction:
    """A function of tensors, compiled once for each form of its arguments where that pays.

    The first call of a form runs eagerly. On the second call the function is traced, compiled and
    run both ways, from the same state and with the same noise. If the results agree, later calls
    are compiled. If they do not, or tracing or compiling fails, a warning in the log gives the
    reason and the function stays eager.

    Args:
        function: A function of any arguments to a tuple of tensors. It draws noise from the global
            random stream, and changes tensors in place rather than bind new ones.
        mode: "off"; "on" to compile the first form, and others if their work pays for it; "auto"
            to compile all forms whose work pays for it.
        expected_calls: The number of calls that a form, such as "256x784", is expected to get. A
            form without any stays eager.
        name: What the function is, for the log.
        outputs: Names of the outputs, each with the largest difference between compiled and eager,
            as a share of the largest eager value.
        changed: Gives the tensors that the function changes in place and that are compared, by
            name.
        tolerance: The largest difference of each of these, as a share of the norm of its change.
        modules: Modules whose attributes the function must not rebind.
        form: Names the form of some arguments; their shapes if None.
        savings: The time that a compiled call saves.
        moving: The number of last arguments that change at each call, while the others often stay
            the same objects: products of the others alone are then computed once. 0 to compute all
            at each call.
        cuda_graph: Launch the function on a GPU as one CUDA graph, whose outputs the next call
            overwrites.

    Raises:
        ValueError: If the mode is unknown.
    """

    def __init__(
        self,
        function: TensorFunction,
        mode: CompileMode,
        expected_calls: Callable[[str], int],
        *,
        name: str,
        outputs: Mapping[str, float],
        changed: Callable[[], Mapping[str, Tensor]] = dict,
        tolerance: float = 0.0,
        modules: Sequence[nn.Module] = (),
        form: Callable[..., str] | None = None,
        savings: Savings = TRAINING_STEP,
        moving: int = 0,
        cuda_graph: bool = False,
    ) -> None:
        check_compile_mode(mode)
        self.function = function
        self.mode: CompileMode = mode
        self.expected_calls = expected_calls
        self.name = name
        self.outputs = outputs
        self.changed = changed
        self.tolerance = tolerance
        self.modules = modules
        self.form = form or _shapes
        self.savings = savings
        self.moving = moving
        self.cuda_graph = cuda_graph
        # By form, "on" or "off". A resumed training sets them first, and compiles the same forms.
        self.decisions: dict[str, str] = {}
        self.seconds = 0.0
        self._warned = False
        self._runners: dict[Any, TensorFunction] = {}

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's outputs."""
        if self.mode == "off":
            return self.function(*arguments)
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(isinstance(leaf, Hashable) for leaf in leaves):
            return self._call_uncompiled(arguments, "an argument cannot be a constant of a graph")
        key = (structure, *map(_signature, leaves))
        if runner := self._runners.get(key):
            return runner(*tensors)
        if len(self._runners) >= _MAX_GRAPHS:
            return self._call_uncompiled(arguments, "arguments that are not tensors keep changing")

        def of_tensors(*values: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(values)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self.function(*pytree.tree_unflatten(filled, structure))

        form = self.form(*arguments)
        if form not in self.decisions:
            outputs, self.decisions[form] = self._decide(of_tensors, form, tensors)
            return outputs
        if self.decisions[form] == "off":
            self._runners[key] = of_tensors
            return of_tensors(*tensors)
        return self._compile(key, of_tensors, form, tensors)

    @property
    def compiled(self) -> bool:
        """Whether any form is compiled, or will be at its next call."""
        return "on" in self.decisions.values()

    def reset(self) -> None:
        """Compile again at the next call, after tensors that the function changes were rebound."""
        self._runners.clear()

    def _call_uncompiled(self, arguments: tuple[Any, ...], reason: str) -> tuple[Tensor, ...]:
        if not self._warned:
            log.warning(
                "compiled %s: some calls run eagerly, as %s; pass tensors.", self.name, reason
            )
            self._warned = True
        return self.function(*arguments)

    def _decide(
        self, function: TensorFunction, form: str, tensors: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], str]:
        """Run the first call of a form eagerly, and decide whether to compile the next ones."""
        if self.mode == "on" and not self.decisions:
            log.info("compiled %s %s: on (requested).", self.name, form)
            return function(*tensors), "on"
        calls = self.expected_calls(form)
        if calls == 0:
            return function(*tensors), "off"
        outputs, work = count_work(function, *tensors)
        decision = "on" if work.pays(calls, self.savings) else "off"
        log.info(
            "compiled %s %s: %s; %d calls of %.2g floating-point operations would save about %.0f "
            "s.",
            self.name,
            form,
            decision,
            calls,
            work.flops,
            work.seconds_saved(calls, self.savings),
        )
        return outputs, decision

    def _compile(
        self, key: Any, function: TensorFunction, form: str, tensors: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Compile, run this call both ways, and choose how later calls run."""
        started = time.perf_counter()
        try:
            with pyro.validation_enabled(False):
                traced = trace(function, *tensors, modules=self.modules)
                if self.moving:
                    runner = _compile_hoisted(traced, tensors, self.moving)
                else:
                    runner = compile_graph(traced, *tensors)
        except RuntimeError as error:
            known = isinstance(error, TracingError | CompilerError)
            self._fall_back(key, function, form, str(error) if known else one_line(error))
            return function(*tensors)
        changed = traced.changed
        before, noise_before = [tensor.clone() for tensor in changed], _RandomState()
        # Outside of the try: errors of a user's program are its own.
        eager = [output.clone() for output in function(*tensors)]
        after, noise_after = [tensor.clone() for tensor in changed], _RandomState()

        def restore(values: list[Tensor], noise: _RandomState) -> None:
            for tensor, value in zip(changed, values, strict=True):
                tensor.copy_(value)
            noise.restore()

        restore(before, noise_before)
        outputs: tuple[Tensor, ...] = ()
        try:
            if self.cuda_graph and tensors and tensors[0].device.type == "cuda":
                runner = _capture(runner, tensors, lambda: restore(before, noise_before))
            outputs = tuple(runner(*tensors))
            difference = self._output_difference(outputs, eager)
            difference = difference or self._state_difference(changed, before, after)
        except RuntimeError as error:
            difference = one_line(error)
        self.seconds += time.perf_counter() - started
        if difference is not None:
            restore(after, noise_after)
            self._fall_back(key, function, form, difference)
            return tuple(eager)
        log.info(
            "compiled %s %s: ready after %.1f s, and equal to the eager one.",
            self.name,
            form,
            time.perf_counter() - started,
        )
        self._runners[key] = runner
        return outputs

    def _fall_back(self, key: Any, function: TensorFunction, form: str, reason: str) -> None:
        self.decisions[form] = "off"
        self._runners[key] = function
        log.warning("compiled %s %s: off, it runs eagerly: %s", self.name, form, reason)

    def _output_difference(self, outputs: Sequence[Tensor], eager: Sequence[Tensor]) -> str | None:
        """The first output that differs from the eager one beyond its tolerance, if any."""
        for (name, tolerance), ours, theirs in zip(
            self.outputs.items(), outputs, eager, strict=True
        ):
            ours, theirs = ours.double(), theirs.double()
            largest = float(theirs.nan_to_num(0, 0, 0).abs().max())
            limit = tolerance * largest + 1e-12
            if not torch.allclose(ours, theirs, rtol=0, atol=limit, equal_nan=True):
                far = float((ours - theirs).nan_to_num(torch.inf).abs().max())
                return (
                    f"{name}: compiled and eager differ by {far:.1e}, with values up to "
                    f"{largest:.1e}"
                )
        return None

    def _state_difference(
        self, changed: list[Tensor], before: list[Tensor], eager: list[Tensor]
    ) -> str | None:
        """The first tensor whose change differs from eager beyond the tolerance, if any."""
        places = {tensor.data_ptr(): index for index, tensor in enumerate(changed)}
        moves = {
            name: (
                (changed[index].double() - eager[index].double()).norm(),
                (eager[index].double() - before[index].double()).norm(),
            )
            for name, tensor in self.changed().items()
            if (index := places.get(tensor.data_ptr())) is not None
        }
        largest = max((float(move) for _, move in moves.values() if move.isfinite()), default=0.0)
        for name, (far, move) in moves.items():
            limit = self.tolerance * max(float(move), _NEGLIGIBLE * largest)
            if move.isfinite() and not far <= limit:
                return f"{name}: compiled and eager differ by {float(far / move):.1e} of its norm"
        return None


def _signature(leaf: Any) -> Any:
    """What a graph depends on: the layout of a tensor, and the value of any other argument."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    # With its type, as 1 and True are equal.
    return type(leaf), leaf


def _shapes(*arguments: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return ",".join("x".join(map(str, tensor.shape)) for tensor in tensors)


def _compile_hoisted(traced: Traced, tensors: list[Tensor], moving: int) -> TensorFunction:
    """Compile a graph that computes products of all but the last arguments once for each."""
    if traced.changed:
        raise TracingError("it changes a tensor in place, which a hoisted product must not")
    once, rest = hoist_products(traced, moving)
    fixed = tensors[:-moving]
    products = tuple(once(*fixed))
    runner = compile_graph(rest, *fixed, *products, *tensors[-moving:])

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        nonlocal fixed, products
        new = list(arguments[:-moving])
        if any(ours is not theirs for ours, theirs in zip(new, fixed, strict=True)):
            fixed, products = new, tuple(once(*new))
        return runner(*fixed, *products, *arguments[-moving:])

    return run


def _capture(
    function: TensorFunction, examples: list[Tensor], undo: Callable[[], None]
) -> TensorFunction:
    """Capture a function into a CUDA graph: one launch instead of one for each kernel.

    A replay draws new noise from the global stream, and reads parameters and buffers from where
    they were at the capture. Nothing in it may wait for the host. `undo` undoes the changes of a
    call.

    References:
        Accelerating PyTorch with CUDA Graphs (PyTorch, 2021),
        https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
    """
    arguments = [example.clone() for example in examples]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_CALLS):
            function(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs: Any = function(*arguments)
    undo()

    def replay(*inputs: Tensor) -> tuple[Tensor, ...]:
        for argument, value in zip(arguments, inputs, strict=True):
            argument.copy_(value, non_blocking=True)
        graph.replay()
        return tuple(outputs)

    return replay


class _RandomState:
    """The state of the global random streams."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


# ---- whether compiling pays: a count of operations, never a clock ------------------------------


def count_work(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Work]:
    """Call a function once and count its work."""
    with _FlopCounter() as counter:
        outputs = function(*arguments)
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return outputs, Work(counter.flops, on_cpu=all(t.device.type == "cpu" for t in tensors))


def check_compile_mode(mode: str) -> None:
    """Raise a ValueError unless `mode` is "auto", "on" or "off"."""
    if mode not in get_args(CompileMode):
        raise ValueError(
            f"compile must be one of {', '.join(get_args(CompileMode))}, got {mode!r}."
        )


class _FlopCounter(TorchDispatchMode):
    """Count the operations of products and convolutions, backward passes included.

    torch's own counter also attributes them to modules, with hooks that `torch.autograd.grad` does
    not accept.
    """

    flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to wrap the method below, which would import torch._dynamo: a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output
