"""Simplify a traced graph, so that it runs well without a compiler.

A training step of a small network spends its time between operations, not in them. What is the
same at each call is computed once, what is computed twice is computed once, and views of views
become one. All of it keeps every bit of the results.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node, map_arg

from pyro_vae.compilation.graphs import Memory, is_item, is_pure, is_view
from pyro_vae.compilation.tracing import Traced

aten = torch.ops.aten

# Tensors of one value, whatever the content of the tensor that they resemble.
_FILLED = {
    aten.ones_like.default: 1,
    aten.zeros_like.default: 0,
    aten.new_ones.default: 1,
    aten.new_zeros.default: 0,
}
_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim)
# Operations that change nothing where their second argument is 1.
_NEUTRAL = (
    *(aten.div.Scalar, aten.div.Tensor, aten.mul.Scalar, aten.mul.Tensor),
    aten.pow.Tensor_Scalar,
)
# Views of the same memory with another content.
_LAZY = (aten._conj.default, aten._neg_view.default)
# Bindings that take the arguments of all overloads of their operation, in the same order.
_FUNCTIONS = frozenset(
    """
    abs add addmm amax amin argmax baddbmm binary_cross_entropy_with_logits bitwise_and
    bitwise_not bitwise_or bitwise_xor bmm cat clamp clamp_max clamp_min cos cumsum detach
    digamma div empty eq erf exp expm1 gather ge gt index_select isinf isnan le lgamma log
    log1p logical_and logical_not logical_or logsumexp lt masked_fill maximum mean minimum mm
    mul ne neg permute pow randint reciprocal relu rsqrt rsub select sigmoid sign sin sqrt
    square squeeze stack sub sum t tanh transpose tril triu unbind unsqueeze where
""".split()  # noqa: SIM905
)
_METHODS = frozenset(
    """
    __lshift__ __rshift__ add_ copy_ div_ expand exponential_ fill_ mul_ normal_ sub_ uniform_
    view zero_
""".split()  # noqa: SIM905
)


def simplify(traced: Traced) -> Traced:
    """An equal graph with fewer operations, which run faster one by one.

    - Operations on constants alone, and views of the state, move out of the graph: their results
      become part of the state.
    - Equal operations on tensors that did not change between them are merged; so are views of one
      tensor with the same shape and strides, such as the transpose of a transpose.
    - Sums over an axis of one element, and products with 1, are removed.
    - Operations without effect are removed, random draws excepted: they move the generator.
    - Operations are called through PyTorch's own bindings where these exist, which take 0.6 of the
      time of `torch.ops`.
    """
    graph = copy.deepcopy(merge_equal(traced).graph.graph)
    constants = _hoist_constants(graph, traced.state)
    graph.eliminate_dead_code()
    _use_bindings(graph)
    graph.lint()
    return Traced(GraphModule(torch.nn.Module(), graph), (*traced.state, *constants))


def run_graph(traced: Traced) -> Callable[..., tuple[Tensor, ...]]:
    """A function of a graph's arguments that runs the simplified graph, without gradients."""
    simple = simplify(traced)
    forward, state = simple.graph.forward, simple.state

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        # Autograd's part of each operation takes 5 % of a small step, even where it does nothing.
        with torch._C._AutoDispatchBelowAutograd():
            return forward(*state, *arguments)

    return run


def merge_equal(traced: Traced) -> Traced:
    """An equal graph without repeated operations and those without effect; see `simplify`."""
    graph = copy.deepcopy(traced.graph.graph)
    if not any(node.target in _LAZY for node in graph.nodes):
        _merge_equal(graph, traced.state)
    graph.eliminate_dead_code()
    return Traced(GraphModule(torch.nn.Module(), graph), traced.state)


def _merge_equal(graph: Graph, state: tuple[Tensor, ...]) -> None:
    """Replace operations by earlier ones with the same result."""
    memory = Memory(graph, state)
    seen: dict[Any, Node] = {}
    for original in list(graph.nodes):
        if original.op == "placeholder":
            seen.setdefault(_geometry(original, memory.root(original)), original)
        if original.op != "call_function":
            continue
        node = _rewritten(graph, original, memory)
        memory.advance(node)
        # What is changed in place later must stay a tensor of its own; a view is none.
        if not is_pure(node) or (memory.root(node) in memory.changed and not is_view(node)):
            continue
        key = _key(node, memory)
        earlier = seen.get(key)
        if earlier is not None and not {node, earlier} <= memory.returned:
            memory.merge(node, earlier)
            node.replace_all_uses_with(earlier)
            graph.erase_node(node)
            continue
        seen[key] = node
        if not is_view(node):
            # A view that gives all of it back, such as the transpose of a transpose, is the same.
            seen.setdefault(_geometry(node, memory.root(node)), node)


def _rewritten(graph: Graph, node: Node, memory: Memory) -> Node:
    """The node, or a view in its place if it computes nothing."""
    first: Any = node.args[0] if node.args else None
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return node
    if memory.root(node) in memory.changed | memory.returned:
        return node
    if node.target is aten.view.default and _drops_summed_axes(node, memory):
        summed, axes, _ = first.args
        with graph.inserting_before(node):
            new = graph.call_function(aten.sum.dim_IntList, (summed, axes))
        return _replace(graph, node, new, memory, node.meta["offset"])
    if is_view(node):
        return node
    source: Any = None
    if node.target is aten.stack.default and isinstance(first, list) and len(first) == 1:
        source = first[0]
    elif isinstance(first, Node) and (
        # A copy of what does not change, such as of numbers.
        node.target is aten.clone.default
        or (node.target in _REDUCTIONS and _sums_single_elements(node))
        or (
            node.target in _NEUTRAL and isinstance(node.args[1], int | float) and node.args[1] == 1
        )
    ):
        source = first
    if source is None:
        return node
    of = source.meta["val"]
    if node.kwargs or of.dtype != value.dtype or memory.root(source) in memory.changed:
        return node
    try:
        view = of.view(value.shape)
    except RuntimeError:
        return node
    if view.stride() != value.stride():
        return node
    with graph.inserting_before(node):
        new = graph.call_function(aten.view.default, (source, list(value.shape)))
    return _replace(graph, node, new, memory, source.meta["offset"])


def _replace(graph: Graph, node: Node, new: Node, memory: Memory, offset: int) -> Node:
    new.meta = dict(node.meta) | {"offset": offset}
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    memory.add(new)
    memory.merge(node, new)
    return new


def _drops_summed_axes(node: Any, memory: Memory) -> bool:
    """Whether a view drops the axes that a sum kept for it, as for a bias's gradient."""
    source = node.args[0]
    if source.target is not aten.sum.dim_IntList or source.kwargs or len(source.users) > 1:
        return False
    of, axes, *keep = source.args
    value = of.meta["val"]
    dropped = {axis % value.dim() for axis in axes}
    rest = [size for axis, size in enumerate(value.shape) if axis not in dropped]
    still = memory.root(of) not in memory.changed
    return still and keep == [True] and bool(dropped) and rest == list(node.meta["val"].shape)


def _sums_single_elements(node: Any) -> bool:
    of, axes = node.args[0].meta["val"], node.args[1]
    return bool(axes) and all(of.shape[axis] == 1 for axis in axes)


def _key(node: Node, memory: Memory) -> Any:
    """A key that is equal for operations with the same result."""
    if is_view(node) and isinstance(node.meta.get("val"), Tensor):
        return _geometry(node, memory.root(node))
    versions = tuple(memory.version[memory.root(n)] for n in node.all_input_nodes)
    return node.target, str((node.args, node.kwargs)), versions


def _geometry(node: Node, root: Node) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return root, None
    return root, value.shape, value.stride(), node.meta["offset"], value.dtype


def _hoist_constants(graph: Graph, state: tuple[Tensor, ...]) -> list[Tensor]:
    """Compute what is the same at each call, and turn it into inputs after the state."""
    memory = Memory(graph, state)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    # Views of the state, and constants, which do not depend on its content.
    views: dict[Node, Any] = dict(zip(inputs, state, strict=False))
    constants: dict[Node, Any] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not is_pure(node):
            continue
        own = not (is_view(node) or is_item(node))
        if own and memory.root(node) in memory.changed | memory.returned:
            continue
        used = node.all_input_nodes
        if node.target in _FILLED and isinstance(node.meta.get("val"), Tensor):
            value = node.meta["val"]
            constants[node] = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=node.meta["device"]
            ).fill_(_FILLED[node.target])
        elif node.target is not aten.empty.memory_format and all(n in constants for n in used):
            constants[node] = _value(node, constants)
        elif (is_view(node) or is_item(node)) and used and all(n in views for n in used):
            views[node] = _value(node, views)
    results = {
        node: value
        for found in (views, constants)
        for node, value in found.items()
        if node.op != "placeholder"
        and isinstance(value, Tensor)
        and any(user not in found for user in node.users)
    }
    others = (node for node in graph.nodes if node.op != "placeholder")
    place = inputs[len(state)] if len(inputs) > len(state) else next(others)
    for index, node in enumerate(results):
        with graph.inserting_before(place):
            new = graph.placeholder(f"constant_{index}")
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in results)
    return list(results.values())


def _value(node: Node, known: dict[Node, Any]) -> Any:
    arguments = map_arg((node.args, node.kwargs), lambda used: known[used])
    with torch.no_grad():
        return node.target(*arguments[0], **arguments[1])  # pyright: ignore[reportCallIssue]


def _use_bindings(graph: Graph) -> None:
    """Call operations through PyTorch's own bindings."""
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if node.op != "call_function" or packet is None or node.target.namespace != "aten":
            continue
        if packet.__name__ in _FUNCTIONS:
            node.target = getattr(torch, packet.__name__)
        elif packet.__name__ in _METHODS:
            node.op, node.target = "call_method", packet.__name__
