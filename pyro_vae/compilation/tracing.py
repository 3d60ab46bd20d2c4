"""Trace a function of tensors into one flat graph, and hoist loop-invariant products."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, GraphModule, Node
from torch.types import Number
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class TracingError(RuntimeError):
    """A function cannot be traced into one graph; the message gives the reason in one line."""


@dataclass(frozen=True)
class Traced:
    """A function as a graph of ATen operations.

    Args:
        graph: `graph(*state, *arguments)` returns the function's outputs and makes its in-place
            changes.
        state: The tensors that the function reads besides its arguments, such as parameters and
            buffers. They share memory with the originals, so in-place changes are seen on both
            sides; tensors that are rebound later are not.
    """

    graph: GraphModule
    state: tuple[Tensor, ...]

    @property
    def changed(self) -> list[Tensor]:
        """The tensors of the state that the function changes in place."""
        nodes = self.graph.graph.nodes
        states = dict(zip((n for n in nodes if n.op == "placeholder"), self.state, strict=False))
        found = {_origin(n) for node in nodes for n in mutated_arguments(node.target, node.args)}
        return [tensor for node, tensor in states.items() if node in found]

    def __call__(self, *arguments: Tensor) -> Any:
        """Run the graph operation by operation, without a compiler."""
        with torch.no_grad():
            return self.graph(*self.state, *arguments)


def trace(
    function: Callable[..., Any], *arguments: Tensor, modules: Iterable[nn.Module] = ()
) -> Traced:
    """Trace a function, including gradients that it takes, into a graph.

    The function runs once on tensors without content: nothing is computed and nothing changes.
    Shapes, and all numbers and branches that do not depend on a tensor's content, are constants of
    the graph.

    Args:
        function: A function of tensors to a tuple of tensors; it may read and change others in
            place.
        *arguments: Tensors of the shapes and types that the graph is for.
        modules: Modules to watch for attributes that are rebound to a new tensor, which no graph
            can do.

    Raises:
        TracingError: If the function depends on the content of a tensor in Python (`.item()`,
            `if`), reads an attribute of a module and binds a new tensor to it, or fails.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    watch, bindings = _Watch(), _Bindings(modules)

    def watched(*inputs: Tensor) -> Any:
        with watch:
            return function(*inputs)

    tracer = make_fx(
        watched,
        decomposition_table=DECOMPOSITIONS,
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    try:
        graph = tracer(*arguments)
    except TracingError as error:
        # Pyro appends the sites that it has seen to the message.
        raise TracingError(str(error).partition("\n")[0]) from error
    # A user's program may fail in any way on tensors without content.
    except Exception as error:
        raise TracingError(one_line(error)) from error
    finally:
        watch.restore()
        rebound = bindings.restore()
    read = {id(getattr(graph, node.target)) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, before in rebound:
        # What is only written, such as a cache for the rest of the call, carries no state.
        if id(before) in read:
            raise TracingError(
                f"it binds a new tensor to {name}, which a graph needs changed in place"
            )
    return _with_state_as_inputs(graph)


class _Watch(TorchDispatchMode):
    """Keep a trace from reading or changing tensors that have content.

    Most operations on those are not carried out, but arithmetic of one with a plain number is:
    `count += 1` would count the trace, and `if count > 9` would become a constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            raise TracingError("it reads the content of a tensor in Python")
        for tensor in mutated_arguments(func, args):
            if not isinstance(tensor, FakeTensor) and id(tensor) not in self._before:
                with _disable_current_modes():
                    self._before[id(tensor)] = tensor, tensor.detach().clone()
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        """Undo the changes."""
        with torch.no_grad():
            for tensor, before in self._before.values():
                tensor.copy_(before)


_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


class _Bindings:
    """The parameters, buffers and plain attributes of modules and their submodules."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = {id(part): part for module in modules for part in module.modules()}
        self._stores: list[tuple[str, dict[str, Any]]] = [
            (type(part).__name__, store)
            for part in parts.values()
            for store in (part.__dict__, part._buffers, part._parameters)
        ]
        self._before = [dict(store) for _, store in self._stores]

    def restore(self) -> list[tuple[str, Tensor]]:
        """Undo what was bound to a tensor since; return names and the tensors that were there."""
        rebound = []
        for (owner, store), before in zip(self._stores, self._before, strict=True):
            for name in list(self._rebound(store, before)):
                if name not in before:
                    del store[name]
                    continue
                store[name] = before[name]
                if isinstance(before[name], Tensor):
                    rebound.append((f"{owner}.{name}", before[name]))
        return rebound

    @staticmethod
    def _rebound(store: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
        for name, value in store.items():
            if isinstance(value, Tensor) and value is not before.get(name):
                yield name


def mutated_arguments(operation: Any, arguments: Sequence[Any]) -> list[Any]:
    """The arguments that an operation changes in place, with lists flattened."""
    schema = getattr(operation, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    values = [
        value
        for argument, value in zip(schema.arguments, arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [
        item
        for value in values
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]


def _with_state_as_inputs(graph: GraphModule) -> Traced:
    """Turn each tensor that the graph holds into an input."""
    inputs: dict[int, Node] = {}
    state: list[Tensor] = []
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op != "get_attr":
            continue
        held: Any = getattr(graph, node.target)
        if not isinstance(held, Tensor):
            raise TracingError(f"it holds a {type(held).__name__}, which is not a tensor")
        if id(held) not in inputs:
            with graph.graph.inserting_before(first):
                inputs[id(held)] = graph.graph.placeholder(f"state_{len(state)}")
            inputs[id(held)].meta = dict(node.meta)
            state.append(held.detach())
        node.replace_all_uses_with(inputs[id(held)])
        graph.graph.erase_node(node)
    graph.graph.lint()
    return Traced(GraphModule(torch.nn.Module(), graph.graph), tuple(state))


def _origin(node: Node) -> Node:
    """The tensor that a node is a view, or a copy, of."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def one_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


# ---- hoisting ----------------------------------------------------------------------------------


def hoist_products(traced: Traced, moving: int) -> tuple[Traced, Traced]:
    """Split a graph into products that do not depend on its last arguments, and the rest.

    Such products are an encoder at fixed data while the latents move, or the components of a
    mixture. Cheap operations after them stay where they were: the compiler fuses them with their
    neighbours.

    Args:
        traced: A graph without in-place changes and random numbers.
        moving: The number of last arguments that the hoisted part must not depend on, at least 1.

    Returns:
        Graphs `once` and `rest`, such that `rest(*fixed, *once(*fixed), *moving)` is the graph's
        value.
    """
    graph = copy.deepcopy(traced.graph.graph)
    # Unused nodes, such as copies for a backward pass that is not taken, are not passed on.
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    dependent = set(inputs[-moving:])
    for node in nodes:
        if any(used in dependent for used in node.all_input_nodes):
            dependent.add(node)
    pending = [
        n for n in nodes if n not in dependent and n.op == "call_function" and _is_product(n)
    ]
    early: set[Node] = set()
    while pending:
        node = pending.pop()
        if node not in early and node.op != "placeholder":
            early.add(node)
            pending.extend(node.all_input_nodes)
    # An item of a tuple that an operation returns belongs to that operation.
    early |= {n for n in nodes if _is_item(n) and n.args[0] in early}
    results = [
        node
        for node in nodes
        if node in early
        and any(user not in early for user in node.users)
        and isinstance(node.meta.get("val"), Tensor)
    ]
    once = _subgraph(inputs[:-moving], [n for n in nodes if n in early], tuple(results))
    late = [n for n in nodes if n not in early and n.op == "call_function"]
    (output,) = (node for node in nodes if node.op == "output")
    arguments = [*inputs[:-moving], *results, *inputs[-moving:]]
    rest = _subgraph(arguments, late, output.args[0])
    return Traced(once, traced.state), Traced(rest, traced.state)


def _is_product(node: Node) -> bool:
    return getattr(node.target, "overloadpacket", None) in flop_registry


def _is_item(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _subgraph(arguments: list[Node], nodes: list[Node], output: Any) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    for i, node in enumerate(arguments):
        copies[node] = graph.placeholder(f"argument_{i}")
        copies[node].meta = dict(node.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(torch.fx.map_arg(output, lambda node: copies[node]))
    graph.lint()
    return GraphModule(torch.nn.Module(), graph)


# ---- decompositions of operations for which the compiler's own code is slow --------------------

# Each equals the original up to rounding; the first compiled call is compared with the eager one.


def log1p_exp(a: Tensor) -> Tensor:
    """log(1 + e^a) for a <= 0, without a logarithm.

    With s = e^a / (2 + e^a), at most 1/3, this is 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...). Seven
    terms are accurate to 2e-8 of the value, below float32's rounding; float64 does not use the
    series. Inductor's log1p is not vectorised on a CPU: 0.68 ms for 200,000 elements, against 0.12
    here.
    """
    e = a.exp()
    if a.dtype == torch.float64:
        return e.log1p()
    s = e / (2 + e)
    square = s * s
    series = torch.full_like(s, 1 / 13)
    for k in (11, 9, 7, 5, 3, 1):
        series = series * square + 1 / k
    return 2 * s * series


def softplus(x: Tensor, beta: Number = 1, threshold: Number = 20) -> Tensor:
    """log(1 + e^(beta x)) / beta; x where beta x is above the threshold."""
    y = x * beta
    value = (y.clamp(min=0) + log1p_exp(-y.abs())) / beta
    return torch.where(y > threshold, x, value)


def softplus_backward(grad: Tensor, x: Tensor, beta: Number, threshold: Number) -> Tensor:
    """grad / (1 + e^(-beta x))."""
    y = x * beta
    return torch.where(y > threshold, grad, grad * y.sigmoid())


def log_sigmoid_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 / (1 + e^(-x))), and an empty buffer, which the backward pass does not need."""
    return x.clamp(max=0) - log1p_exp(-x.abs()), x.new_zeros(0)


def log_sigmoid_backward(grad: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    """grad / (1 + e^x)."""
    return grad * (-x).sigmoid()


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Tensor:
    """-p t log sigmoid(l) - (1 - t) log sigmoid(-l), weighted, and reduced by torch's code.

    Without gradients it is a single operation, for which the compiler would use its own log1p.
    """
    softplus_of_minus = (-logits).clamp(min=0) + log1p_exp(-logits.abs())
    if pos_weight is not None:
        softplus_of_minus = (1 + (pos_weight - 1) * target) * softplus_of_minus
    loss = (1 - target) * logits + softplus_of_minus
    if weight is not None:
        loss = loss * weight
    if reduction == 0:
        return loss
    return loss.mean() if reduction == 1 else loss.sum()


def fused_adam_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    largest_squares: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    found_inf: Tensor | None = None,
    **unsupported: Any,
) -> None:
    """Adam in place; no change where `found_inf` is not 0. All parameters are at the same step.

    m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2;
    p <- p - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Tiny moments are set to 0. Where a gradient stays 0, as for a pixel that is rarely set, they
    would decay to subnormal float32 numbers, which are slow on CPUs.

    References:
        Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015),
        https://arxiv.org/abs/1412.6980
    """
    if any(unsupported.values()):
        raise NotImplementedError("only plain Adam is implemented.")
    step_size, correction = lr / _bias(beta1, steps[0]), _bias(beta2, steps[0]).sqrt()
    taken = None if found_inf is None else found_inf == 0
    for p, g, m, v in zip(parameters, gradients, means, squares, strict=True):
        mean = _zero_below(1e-30, m + (1 - beta1) * (g - m))
        # Its square must be a normal number as well.
        seen = _zero_below(1e-16, g)
        square = _zero_below(1e-30, beta2 * v + (1 - beta2) * seen * seen)
        value = p - step_size * mean / (square.sqrt() / correction + eps)
        for old, new in ((m, mean), (v, square), (p, value)):
            old.copy_(new if taken is None else torch.where(taken, new, old))


def _bias(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, in float64 as in torch.

    The compiler computes an exponential that is used again once, but a power anew for every vector
    of a parameter, which took three quarters of the update's time.
    """
    return 1 - (step.double() * math.log(beta)).exp()


def _zero_below(least: float, x: Tensor) -> Tensor:
    return torch.where(x.abs() < least, 0.0, x)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.softplus.default: softplus,
    aten.softplus_backward.default: softplus_backward,
    aten.log_sigmoid_forward.default: log_sigmoid_forward,
    aten.log_sigmoid_backward.default: log_sigmoid_backward,
    aten.binary_cross_entropy_with_logits.default: binary_cross_entropy_with_logits,
    aten._fused_adam_.default: fused_adam_,
    aten._fused_adam_.tensor_lr: fused_adam_,
}
