"""The stages of a function's calls: eager and recorded, compared, as a graph, and compiled."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.compilation.inductor import Compilation, CompilerError
from pyro_vae.compilation.simplification import run_graph
from pyro_vae.compilation.splitting import hoist_products
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

# Calls on a side stream before the capture of a CUDA graph, as PyTorch's notes ask for.
_WARM_UP_CALLS = 3


class Stages:
    """The calls of one form, from the recorded one on. Each chooses how the next one runs.

    Args:
        owner: The `CompiledFunction` that they are calls of.
        key: The key of the form's runner.
        eager: The function of the tensors among the arguments.
        form: The form's name.
    """

    def __init__(self, owner: Any, key: Any, eager: TensorFunction, form: str) -> None:
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
        if owner.decisions[self.form] == "seen" and not owner.pays_to_record(self.form):
            owner.decisions[self.form] = "off"
        if owner.decisions[self.form] == "off":
            self._run(self.eager)
            return self.eager(*tensors)
        with pyro.validation_enabled(False), owner.fewer_threads():
            recording = record(self.eager, *tensors, modules=owner.modules)
        try:
            if isinstance(recording.traced, str):
                raise TracingError(recording.traced)
            traced = recording.traced
            if owner.decisions[self.form] == "seen":
                owner.decisions[self.form] = owner.decide(self.form, traced)
            self.changed = [tensor for tensor, _ in recording.changed]
            if owner.moving:
                traced, self.wrap = _hoisted(traced, owner.moving)
            self.graph = self.wrap(run_graph(traced))
        except (RuntimeError, TypeError) as error:
            known = isinstance(error, TracingError)
            self._fall_back("off", self.eager, str(error) if known else one_line(error))
            return recording.outputs
        self._run(self.compare)
        if owner.decisions[self.form] != "graph":
            self.compilation = Compilation(traced)
            owner.compilations.append(self.compilation)
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
        with self.owner.fewer_threads():
            outputs, runner, difference = self._both_ways(self.graph, tensors, exact=True)
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
        if self._can_switch():
            return self.switch(*tensors)
        with self.owner.fewer_threads():
            return self.graph(*tensors)

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
        self.owner.runners[self.key] = runner

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
        self, runner: TensorFunction, tensors: Sequence[Tensor], *, exact: bool = False
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
            difference = owner.difference(outputs, eager, changed, before, after)
            if difference is None and exact and tensors and tensors[0].device.type == "cpu":
                # What a graph takes for a constant, and moves slowly, is within any tolerance.
                difference = _first_unequal([*outputs, *changed], [*eager, *after])
        except (RuntimeError, TypeError) as error:
            outputs, difference = eager, one_line(error)
        if difference is not None:
            go_to(after, noise_after)
            return eager, runner, difference
        return outputs, runner, None


def _first_unequal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str | None:
    """The largest difference of the first tensor that is not equal, if any; NaN equals NaN."""
    for one, other in zip(ours, theirs, strict=True):
        if not torch.allclose(one, other, rtol=0, atol=0, equal_nan=True):
            far = float((one.double() - other.double()).abs().max())
            return f"the graph and the program differ by {far:.1e}, in a tensor of {one.numel()}"
    return None


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
