"""A function of tensors that runs as a graph, and compiled where that pays, with equal results."""

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyro_vae.checks import check_choice
from pyro_vae.compilation.inductor import Compilation, start_compiler
from pyro_vae.compilation.splitting import count_flops
from pyro_vae.compilation.stages import Stages, TensorFunction
from pyro_vae.compilation.tracing import Traced

log = logging.getLogger(__name__)

# A change this much smaller than the largest one is rounding, and is not compared.
_NEGLIGIBLE = 1e-6
# A constant that is different at each call would make a graph at each call.
_MAX_GRAPHS = 8

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
        check_choice(CompileMode, compile=mode)
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
        if mode == "on":
            start_compiler()
        # By form: "seen" after its first call, then "off", "graph", "compiling" (the graph runs
        # until the compiler is ready) or "on". A resumed training sets them first, and goes on.
        self.decisions: dict[str, str] = {}
        self.seconds = 0.0
        # Whether a call may switch to the compiled graph.
        self.may_switch: Callable[[], bool] = lambda: True
        self._warned = False
        self.runners: dict[Any, TensorFunction] = {}
        self.compilations: list[Compilation] = []

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's outputs."""
        if self.mode == "off":
            return self.function(*arguments)
        leaves, structure = _flatten(arguments)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not all(isinstance(leaf, Hashable) for leaf in leaves):
            return self._call_eagerly(arguments, "an argument cannot be a constant of a graph")
        key = (structure, *map(_signature, leaves))
        if runner := self.runners.get(key):
            return runner(*tensors)
        if len(self.runners) >= _MAX_GRAPHS:
            return self._call_eagerly(arguments, "arguments that are not tensors keep changing")

        def of_tensors(*values: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(values)
            filled = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            if structure is not None:
                filled = pytree.tree_unflatten(filled, structure)
            return self.function(*filled)

        form = self.form(*arguments)
        stages = Stages(self, key, of_tensors, form)
        if form in self.decisions:
            return stages.record(*tensors)
        self.decisions[form] = "seen"
        self.runners[key] = stages.record
        return of_tensors(*tensors)

    @property
    def compiled(self) -> bool:
        """Whether any form is compiled, or is being compiled."""
        return not {"on", "compiling"}.isdisjoint(self.decisions.values())

    def reset(self) -> None:
        """Record again at the next call, after tensors that the function changes were rebound."""
        self.close()
        self.runners.clear()

    def wait(self) -> None:
        """Wait for compilers that are at work. The next call of their forms is compiled."""
        for compilation in self.compilations:
            compilation.wait()

    def close(self) -> None:
        """End compilers that are at work; their forms stay graphs."""
        for compilation in self.compilations:
            compilation.cancel()
        self.compilations.clear()

    @contextmanager
    def fewer_threads(self) -> Iterator[None]:
        """Compute on a thread less while a compiler is at work.

        OpenMP's threads wait for one another: one without a core to itself holds up all, for many
        times as long as they compute.
        """
        threads = torch.get_num_threads()
        if "compiling" in self.decisions.values():
            torch.set_num_threads(max(1, threads - 1))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def pays_to_record(self, form: str) -> bool:
        """Whether a form is called often enough to make a graph of it."""
        saved = self.expected_calls(form) * self.savings.graph_seconds
        return self._requested(form) or saved >= _TRACING_SECONDS

    def decide(self, form: str, traced: Traced) -> str:
        """How the next calls of a form run."""
        if self._requested(form):
            log.info("compiled %s %s: %s (requested).", self.name, form, self.mode)
            return "compiling" if self.mode == "on" else "graph"
        calls = self.expected_calls(form)
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

    def difference(
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

    def _requested(self, form: str) -> bool:
        """Whether the mode asks for a graph of this form, which is the first one."""
        return self.mode in ("on", "graph") and self.decisions.keys() <= {form}

    def _call_eagerly(self, arguments: tuple[Any, ...], reason: str) -> tuple[Tensor, ...]:
        if not self._warned:
            log.warning(
                "compiled %s: some calls run eagerly, as %s; pass tensors.", self.name, reason
            )
            self._warned = True
        return self.function(*arguments)

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


def _flatten(arguments: tuple[Any, ...]) -> tuple[Sequence[Any], Any]:
    """The leaves of arguments and their structure, which is None if all are leaves."""
    nodes = pytree.SUPPORTED_NODES
    if not any(type(each) in nodes or isinstance(each, tuple) for each in arguments):
        return arguments, None
    return pytree.tree_flatten(arguments)


def _signature(leaf: Any) -> Any:
    """What a graph depends on: the layout of a tensor, and the value of any other argument."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    # With its type, as 1 and True are equal.
    return type(leaf), leaf


def _shapes(*arguments: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return ",".join("x".join(map(str, tensor.shape)) for tensor in tensors)
