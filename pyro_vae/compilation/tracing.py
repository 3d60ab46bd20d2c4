"""A Python function of tensors to one flat graph, in which no Python is left."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyro_vae.compilation.attributes import Attributes
from pyro_vae.compilation.decompositions import TABLE


class TracingError(RuntimeError):
    """A function cannot be written as one graph; the message says why in one line."""


@dataclass(frozen=True)
class Traced:
    """A function as a graph of ATen operations.

    Args:
        graph: `graph(*state, *arguments)` gives the function's outputs and changes in place what the
            function changes.
        state: Every tensor that the function reads beside its arguments, such as parameters and
            buffers. They share memory with the original, so the graph follows whoever changes them
            in place, and they with it. What is bound anew, rather than changed, it does not see.
    """

    graph: torch.fx.GraphModule
    state: tuple[Tensor, ...]

    @property
    def changed(self) -> list[Tensor]:
        """The tensors of the state that the function changes in place."""
        nodes = self.graph.graph.nodes
        states = dict(zip((n for n in nodes if n.op == "placeholder"), self.state, strict=False))
        found = {_origin(n) for node in nodes for n in written(node.target, node.args)}
        return [tensor for node, tensor in states.items() if node in found]

    def __call__(self, *arguments: Tensor) -> Any:
        """Run the graph operation by operation, without a compiler."""
        with torch.no_grad():
            return self.graph(*self.state, *arguments)


def trace(
    function: Callable[..., Any], *arguments: Tensor, modules: Iterable[nn.Module] = ()
) -> Traced:
    """Write a function as a graph, gradients taken inside of it included.

    It runs once on tensors without content, so nothing is computed and nothing changes. Shapes, and
    every number and branch that is not a tensor's content, are constants of the graph.

    Args:
        function: Of tensors to a tuple of tensors; it may read and change others in place.
        *arguments: Of the shapes and types that the graph is for.
        modules: Where to look whether the function binds a tensor anew, which no graph can.

    Raises:
        TracingError: If the function depends on the content of a tensor in Python (`.item()`, `if`),
            reads an attribute of a module and binds a new tensor to it, or fails.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    watch, attributes = _Watch(), Attributes(modules)

    def watched(*inputs: Tensor) -> Any:
        with watch:
            return function(*inputs)

    tracer = make_fx(
        watched, decomposition_table=TABLE, tracing_mode="fake", _allow_non_fake_inputs=True
    )
    try:
        graph = tracer(*arguments)
    except TracingError as error:
        # Pyro adds to the message the sites that it has seen.
        raise TracingError(str(error).partition("\n")[0]) from error
    # A user's program may fail in any way on tensors without content.
    except Exception as error:
        raise TracingError(one_line(error)) from error
    finally:
        watch.restore()
        bound = attributes.restore()
    read = {id(getattr(graph, node.target)) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, before in bound:
        # What is only written, such as a cache for the rest of the call, carries nothing on.
        if id(before) in read:
            raise TracingError(f"it binds {name} anew, where a graph needs it changed in place")
    return _with_state_as_inputs(graph)


class _Watch(TorchDispatchMode):
    """Keeps a trace from reading or changing tensors that have content.

    Most operations on those are not carried out, but arithmetic of one with a plain number is:
    `count += 1` would count the trace, and `if count > 9` would be settled for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise TracingError("it reads the content of a tensor in Python")
        for tensor in written(func, args):
            if not isinstance(tensor, FakeTensor) and id(tensor) not in self._before:
                with _disable_current_modes():
                    self._before[id(tensor)] = tensor, tensor.detach().clone()
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        """Put back what was changed."""
        with torch.no_grad():
            for tensor, before in self._before.values():
                tensor.copy_(before)


_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


def written(operation: Any, arguments: Sequence[Any]) -> list[Any]:
    """Which of an operation's arguments it changes in place, lists opened."""
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    places = [
        value
        for argument, value in zip(schema.arguments, arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [
        item
        for value in places
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]


def _with_state_as_inputs(graph: torch.fx.GraphModule) -> Traced:
    """Make each tensor that the graph holds one of its inputs, once."""
    inputs: dict[int, torch.fx.Node] = {}
    state: list[Tensor] = []
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        held: Any = getattr(graph, node.target)
        if not isinstance(held, Tensor):
            raise TracingError(f"it holds a {type(held).__name__}, which is no tensor")
        if id(held) not in inputs:
            with graph.graph.inserting_before(first):
                inputs[id(held)] = graph.graph.placeholder(f"state_{len(state)}")
            inputs[id(held)].meta = dict(node.meta)
            state.append(held.detach())
        node.replace_all_uses_with(inputs[id(held)])
        graph.graph.erase_node(node)
    graph.graph.lint()
    return Traced(torch.fx.GraphModule(torch.nn.Module(), graph.graph), tuple(state))


def _origin(node: torch.fx.Node) -> torch.fx.Node:
    """What a tensor is a view of. It follows copies too, which can only find too much."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node


def one_line(error: Exception) -> str:
    """An error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
