"""A function of tensors that runs as a graph, and compiled where that pays, with equal results."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_vae.compilation.inductor import Compilation, CompilerError
from pyro_vae.compilation.simplification import run_graph
from pyro_vae.compilation.splitting import count_flops, hoist_products
from pyro_vae.compilation.tracing import (
    RandomState,
    Traced,
    TracingError,
    one_line,
    record,
    restore,
)

log = logging.getLogger(__name__)

TensorFunction = Callable[..., tuple[Tensor, ...]]

# A change this much smaller than the largest one is rounding, and is not compared.
_NEGLIGIBLE = 1e-6
# A constant that is different at each call would make a graph at each call.
_MAX_GRAPHS = 8
# Calls on a side stream before the capture of a CUDA graph, as PyTorch's notes ask for.
_WARM_UP_CALLS = 3

# How a function may run: "off" is eager; "graph" runs the traced graph without a compiler; "on"
# compiles it while the graph runs; "auto" does what pays.
CompileMode = Literal["auto", "on", "graph", "off"]

# Measured on two cores of a Zen 5 CPU: the rate of eager products; the time that tracing takes,
# and compiling (8 to 15 s, in the background). Compiling must save twice its cost.
_FLOPS_PER_SECOND = 1.2e11
_TRACING_SECONDS = 0.1
_COMPILER_SECONDS = 15.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Savings:
    """The time that a call saves."""

    # As a graph: the overhead of Python, Pyro's handlers and autograd, independent of the work.
    graph_seconds: float
    # Compiled, beyond that: overhead, and savings as a share of the products' time.
    call_seconds: float
    share_of_products: float


# Measured on the same machine. A forward pass has as much elementwise work for a third of the
# products, and none of autograd's.
TRAINING_STEP = Savings(graph_seconds=1.5e-3, call_seconds=2e-4, share_of_products=0.7)
FORWARD = Savings(graph_seconds=7e-4, call_seconds=2e-4, share_of_products=0.75)


@dataclass(frozen=True)
class Work:
    """The work of a call."""

    flops: int  # Floating-point operations in products and convolutions.
    on_cpu: bool  # On a GPU a call waits for Pyro's handlers instead.

    def seconds_saved(self, calls: int, savings: Savings = TRAINING_STEP) -> float:
        """The estimated time that compiling the graph saves over this number of calls."""
        products = self.flops / _FLOPS_PER_SECOND if self.on_cpu else 0.0
        return calls * (savings.call_seconds + savings.share_of_products * products)

    def pays(self, calls: int, savings: Savings = TRAINING_STEP) -> bool:
        """Whether this number of calls saves enough. The answer is the same on every machine."""
        return self.seconds_saved(calls, savings) > _MARGIN * _COMPILER_SECONDS


class CompiledFunction:
    """A function of tensors, run as a graph and compiled, where that pays and is equal.

    The first call with arguments of a form runs eagerly. The second is recorded as a graph. The
    third runs both ways, from the same state and with the same noise; if the results agree, later
    calls run the graph. If they do not, or there is no graph, a warning in the log gives the
    reason and the function stays eager.

    Where compiling pays, another process compiles the graph meanwhile. The first call after it is
    ready runs eagerly and compiled; if the results agree, later calls are compiled, and otherwise
    the graph goes on. A graph has the eager function's operations and gives its bits; a compiled
    one rounds in other places.

    Args:
        function: A function of any arguments to a tuple of tensors. It draws noise from the global
            random stream, and changes tensors in place rather than bind new ones.
        mode: "off" for eager calls; "graph" for the graph of the first form; "on" to compile it;
            "auto" to do what pays. Other forms are treated as by "auto", but not compiled by
            "graph".
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
        savings: The time that a call saves.
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
        # By form: "off", "graph", "compiling" (the graph runs until the compiler is ready) or
        # "on". A resumed training sets them first, and runs the same forms in the same way.
        self.decisions: dict[str, str] = {}
        self.seconds = 0.0
        # Whether a call may switch to the compiled graph.
        self.may_switch: Callable[[], bool] = lambda: True
        self._warned = False
        self._runners: dict[Any, TensorFunction] = {}
        self._compilations: list[Compilation] = []

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's outputs."""
        if self.mode == "off":
            return self.function(*arguments)
        leaves, structure = pytree.tree_flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(isinstance(leaf, Hashable) for leaf in leaves):
            return self._call_eagerly(arguments, "an argument cannot be a constant of a graph")
        key = (structure, *map(_signature, leaves))
        if runner := self._runners.get(key):
            return runner(*tensors)
        if len(self._runners) >= _MAX_GRAPHS:
            return self._call_eagerly(arguments, "arguments that are not tensors keep changing")

        def of_tensors(*values: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(values)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return self.function(*pytree.tree_unflatten(filled, structure))

        form = self.form(*arguments)
        steps = _Steps(self, key, of_tensors, form)
        if form in self.decisions:
            return steps.record(*tensors)
        self._runners[key] = steps.record
        return of_tensors(*tensors)

    @property
    def compiled(self) -> bool:
        """Whether any form is compiled, or is being compiled."""
        return not {"on", "compiling"}.isdisjoint(self.decisions.values())

    def reset(self) -> None:
        """Record again at the next call, after tensors that the function changes were rebound."""
        self.close()
        self._runners.clear()

    def close(self) -> None:
        """End compilers that are at work; their forms stay graphs."""
        for compilation in self._compilations:
            compilation.cancel()
        self._compilations.clear()

    def _call_eagerly(self, arguments: tuple[Any, ...], reason: str) -> tuple[Tensor, ...]:
        if not self._warned:
            log.warning(
                "compiled %s: some calls run eagerly, as %s; pass tensors.", self.name, reason
            )
            self._warned = True
        return self.function(*arguments)

    def _decide(self, form: str, traced: Traced) -> str:
        """How the next calls of a form run."""
        if self.mode in ("on", "graph") and not self.decisions:
            log.info("compiled %s %s: %s (requested).", self.name, form, self.mode)
            return "compiling" if self.mode == "on" else "graph"
        calls = self.expected_calls(form)
        if calls * self.savings.graph_seconds < _TRACING_SECONDS:
            return "off"
        on_cpu = traced.device.type == "cpu"
        work = Work(count_flops(traced) if self.mode != "graph" else 0, on_cpu)
        pays = self.mode != "graph" and work.pays(calls, self.savings)
        log.info(
            "compiled %s %s: %s; compiling %d calls of %.2g floating-point operations would save "
            "about %.0f s.",
            self.name,
            form,
            "on" if pays else "graph",
            calls,
            work.flops,
            work.seconds_saved(calls, self.savings),
        )
        return "compiling" if pays else "graph"

    def _difference(
        self,
        outputs: Sequence[Tensor],
        eager: Sequence[Tensor],
        changed: list[Tensor],
        before: list[Tensor],
        after: list[Tensor],
    ) -> str | None:
        """The first difference from the eager call beyond its tolerance, if any."""
        return self._output_difference(outputs, eager) or self._state_difference(
            changed, before, after
        )

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


class _Steps:
    """The calls of one form, from the recorded one on. Each chooses how the next one runs.

    Args:
        owner: The function that they are calls of.
        key: The key of the form's runner.
        eager: The function of the tensors among the arguments.
        form: The form's name.
    """

    def __init__(
        self, owner: CompiledFunction, key: Any, eager: TensorFunction, form: str
    ) -> None:
        self.owner = owner
        self.key = key
        self.eager = eager
        self.form = form
        self.changed: list[Tensor] = []
        self.graph: TensorFunction = eager
        self.wrap: Callable[[TensorFunction], TensorFunction] = lambda runner: runner
        self.compilation: Compilation | None = None

    def record(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the function eagerly, record it, and decide how it goes on."""
        owner, noise = self.owner, RandomState()
        if owner.decisions.get(self.form) == "off":
            self._run(self.eager)
            return self.eager(*tensors)
        with pyro.validation_enabled(False):
            recording = record(self.eager, *tensors, modules=owner.modules)
        try:
            if isinstance(recording.traced, str):
                raise TracingError(recording.traced)
            traced = recording.traced
            if self.form not in owner.decisions:
                owner.decisions[self.form] = owner._decide(self.form, traced)
            if owner.decisions[self.form] == "off":
                self._run(self.eager)
                return recording.outputs
            self.changed = [tensor for tensor, _ in recording.changed]
            if owner.moving:
                traced, self.wrap = _hoisted(traced, owner.moving)
            self.graph = self.wrap(run_graph(traced))
        except (RuntimeError, TypeError) as error:
            known = isinstance(error, TracingError)
            self._fall_back("off", self.eager, str(error) if known else one_line(error))
            return recording.outputs
        if owner.decisions[self.form] != "graph":
            self.compilation = Compilation(traced)
            owner._compilations.append(self.compilation)
        self._run(self.compare)
        if owner.decisions[self.form] != "on":
            return recording.outputs
        # A resumed run was compiled already.
        restore(recording.changed)
        noise.restore()
        return self.switch(*tensors)

    def compare(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the graph and the function."""
        if self._can_switch():
            return self.switch(*tensors)
        outputs, runner, difference = self._both_ways(self.graph, tensors)
        if difference is not None:
            if self.compilation is not None:
                self.compilation.cancel()
            self._fall_back("off", self.eager, difference)
        else:
            self.graph = runner
            self._run(runner if self.compilation is None else self.poll)
        return outputs

    def poll(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the graph until the compiler is ready."""
        return self.switch(*tensors) if self._can_switch() else self.graph(*tensors)

    def switch(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the compiled graph and the function, and run the compiled one from now on."""
        owner, compilation, self.compilation = self.owner, self.compilation, None
        assert compilation is not None
        try:
            compiled = self.wrap(compilation.load())
        except CompilerError as error:
            self._fall_back("graph", self.compare, str(error))
            return self.compare(*tensors)
        owner.seconds += compilation.seconds
        outputs, runner, difference = self._both_ways(compiled, tensors)
        if difference is not None:
            self._fall_back("graph", self.compare, difference)
            return outputs
        owner.decisions[self.form] = "on"
        log.info(
            "compiled %s %s: ready after %.1f s, and equal to the eager one.",
            owner.name,
            self.form,
            compilation.seconds,
        )
        self._run(runner)
        return outputs

    def _can_switch(self) -> bool:
        return self.compilation is not None and self.compilation.ready and self.owner.may_switch()

    def _run(self, runner: TensorFunction) -> None:
        """Let the next call of the form be this."""
        self.owner._runners[self.key] = runner

    def _fall_back(self, decision: str, runner: TensorFunction, reason: str) -> None:
        self.owner.decisions[self.form] = decision
        self._run(runner)
        log.warning(
            "compiled %s %s: %s, it runs %s: %s",
            self.owner.name,
            self.form,
            decision,
            "eagerly" if decision == "off" else "without a compiler",
            reason,
        )

    def _both_ways(
        self, runner: TensorFunction, tensors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], TensorFunction, str | None]:
        """Run eagerly and by a runner, from the same state and with the same noise.

        Returns:
            The runner's outputs, with the state that it left, or the eager ones if they differ;
            the runner, captured on a GPU; and the difference, if any.
        """
        owner, changed = self.owner, self.changed
        before, noise = [tensor.clone() for tensor in changed], RandomState()
        # Errors of a user's program are its own.
        eager = tuple(output.clone() for output in self.eager(*tensors))
        after, noise_after = [tensor.clone() for tensor in changed], RandomState()

        def go_to(values: list[Tensor], noise: RandomState) -> None:
            restore(zip(changed, values, strict=True))
            noise.restore()

        go_to(before, noise)
        try:
            if owner.cuda_graph and tensors and tensors[0].device.type == "cuda":
                runner = _capture(runner, tensors, lambda: go_to(before, noise))
            outputs = tuple(runner(*tensors))
            difference = owner._difference(outputs, eager, changed, before, after)
        except (RuntimeError, TypeError) as error:
            outputs, difference = eager, one_line(error)
        if difference is not None:
            go_to(after, noise_after)
            return eager, runner, difference
        return outputs, runner, None


def _signature(leaf: Any) -> Any:
    """What a graph depends on: the layout of a tensor, and the value of any other argument."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    # With its type, as 1 and True are equal.
    return type(leaf), leaf


def _shapes(*arguments: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return ",".join("x".join(map(str, tensor.shape)) for tensor in tensors)


def _hoisted(
    traced: Traced, moving: int
) -> tuple[Traced, Callable[[TensorFunction], TensorFunction]]:
    """A graph without the products of all but its last arguments, and what computes these once."""
    if traced.changes_state:
        raise TracingError("it changes a tensor in place, which a hoisted product must not")
    once, rest = hoist_products(traced, moving)
    compute = run_graph(once)

    def wrap(runner: TensorFunction) -> TensorFunction:
        fixed: list[Tensor] = []
        products: tuple[Tensor, ...] = ()

        def run(*arguments: Tensor) -> tuple[Tensor, ...]:
            nonlocal fixed, products
            new = list(arguments[:-moving])
            if len(fixed) != len(new) or any(a is not b for a, b in zip(new, fixed, strict=True)):
                fixed, products = new, tuple(compute(*new))
            return runner(*fixed, *products, *arguments[-moving:])

        return run

    return rest, wrap


def _capture(
    function: TensorFunction, examples: Sequence[Tensor], undo: Callable[[], None]
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


def check_compile_mode(mode: str) -> None:
    """Raise a ValueError unless `mode` is "auto", "on", "graph" or "off"."""
    if mode not in get_args(CompileMode):
        raise ValueError(
            f"compile must be one of {', '.join(get_args(CompileMode))}, got {mode!r}."
        )
