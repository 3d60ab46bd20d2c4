"""Simplify a traced graph, so that it runs well without a compiler.

A training step of a small network spends its time between operations, not in them. What is the
same at each call is computed once, what is computed twice is computed once, and views of views
become one. All of it keeps every bit of the results.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_leaves

from pyro_vae.compilation.tracing import Traced, mutated_arguments

aten = torch.ops.aten

# Tensors of one value, whatever the content of the tensor that they resemble.
_FILLED = {
    aten.ones_like.default: 1,
    aten.zeros_like.default: 0,
    aten.new_ones.default: 1,
    aten.new_zeros.default: 0,
}
_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim)
_NEUTRAL = {
    (aten.div.Scalar, 1),
    (aten.div.Tensor, 1),
    (aten.mul.Scalar, 1),
    (aten.mul.Tensor, 1),
    (aten.pow.Tensor_Scalar, 1),
}


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
    graph = copy.deepcopy(traced.graph.graph)
    _merge_equal(graph)
    graph.eliminate_dead_code()
    constants = _hoist_constants(graph, traced.state)
    graph.eliminate_dead_code()
    _use_bindings(graph)
    graph.lint()
    return Traced(GraphModule(torch.nn.Module(), graph), (*traced.state, *constants))


class _Memory:
    """Which tensors share memory, and how often each was changed in place up to now."""

    def __init__(self, graph: Graph) -> None:
        self._root: dict[Node, Node] = {}
        self.changed: set[Node] = set()
        self.version: Counter[Node] = Counter()
        for node in graph.nodes:
            self.add(node)
            self.changed.update(self.root(n) for n in mutated_arguments(node.target, node.args))

    def root(self, node: Node) -> Node:
        """The node that made the memory of a tensor."""
        return self._root[node]

    def add(self, node: Node) -> None:
        first = node.args[0] if node.args else None
        if isinstance(first, Node) and (_is_view(node) or _writes(node) or _is_item(node)):
            self._root[node] = self._root[first]
        else:
            self._root[node] = node

    def advance(self, node: Node) -> None:
        """Count the changes that an operation makes."""
        self.version.update(self.root(n) for n in mutated_arguments(node.target, node.args))


def _merge_equal(graph: Graph) -> None:
    """Replace operations by earlier ones with the same result."""
    memory = _Memory(graph)
    seen: dict[Any, Node] = {}

    def replace(node: Node, earlier: Node) -> None:
        node.replace_all_uses_with(earlier)
        graph.erase_node(node)

    for node in list(graph.nodes):
        if node.op == "placeholder":
            seen[_geometry(node, node)] = node
        if node.op != "call_function":
            continue
        node = _rewritten(graph, node, memory)
        memory.advance(node)
        if not _is_pure(node):
            continue
        key = _key(node, memory)
        if key is None:
            continue
        if (earlier := seen.get(key)) is not None:
            replace(node, earlier)
            continue
        seen[key] = node
        if not _is_view(node):
            # A view that gives all of it back, such as the transpose of a transpose.
            seen.setdefault(_geometry(node, node), node)


def _rewritten(graph: Graph, node: Node, memory: _Memory) -> Node:
    """The node, or a view in its place where it computes nothing."""
    first = node.args[0] if node.args else None
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return node
    if node.target is aten.view.default and _drops_summed_axes(node):
        axes = first.args[1]
        first.args = (first.args[0], axes)
        first.meta = dict(node.meta)
        node.replace_all_uses_with(first)
        graph.erase_node(node)
        return first
    if not isinstance(first, Node | list | tuple) or _is_view(node):
        return node
    if node.target is aten.stack.default and len(first) == 1:
        source = first[0]
    elif isinstance(first, Node) and (
        (node.target in _REDUCTIONS and _sums_single_elements(node))
        or (len(node.args) == 2 and (node.target, node.args[1]) in _NEUTRAL)
    ):
        source = first
    else:
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
    new.meta = dict(node.meta) | {"val": view}
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    memory.add(new)
    return new


def _drops_summed_axes(node: Node) -> bool:
    """Whether a view drops the axes that its only input kept of a sum, as for a bias's gradient."""
    (source, shape) = node.args
    if source.target is not aten.sum.dim_IntList or source.kwargs or len(source.users) > 1:
        return False
    of, axes, *keep = source.args
    value = of.meta["val"]
    dropped = {axis % value.dim() for axis in axes}
    rest = [size for axis, size in enumerate(value.shape) if axis not in dropped]
    return keep == [True] and bool(dropped) and rest == list(node.meta["val"].shape)


def _sums_single_elements(node: Node) -> bool:
    of, axes = node.args[0].meta["val"], node.args[1]
    return bool(axes) and all(of.shape[axis] == 1 for axis in axes)


def _key(node: Node, memory: _Memory) -> Any:
    """Equal for operations with the same result."""
    if _is_view(node) and isinstance(node.meta.get("val"), Tensor):
        return _geometry(node, memory.root(node))
    leaves = tree_leaves((node.args, node.kwargs))
    try:
        hash(tuple(leaves))
    except TypeError:
        return None
    versions = tuple(memory.version[memory.root(n)] for n in node.all_input_nodes)
    # With their types, as 1 and True are equal.
    return node.target, str((node.args, node.kwargs)), tuple(map(type, leaves)), versions


def _geometry(node: Node, root: Node) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return root, None
    return root, value.shape, value.stride(), value.storage_offset(), value.dtype


def _hoist_constants(graph: Graph, state: tuple[Tensor, ...]) -> list[Tensor]:
    """Compute what is the same at each call, and turn it into inputs after the state."""
    memory = _Memory(graph)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    # Views of the state, and constants, which do not depend on its content.
    views: dict[Node, Any] = dict(zip(inputs, state, strict=False))
    constants: dict[Node, Any] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not _is_pure(node) or memory.root(node) in memory.changed:
            if not (node.op == "call_function" and _is_view(node)):
                continue
        used = node.all_input_nodes
        if node.target in _FILLED and isinstance(node.meta.get("val"), Tensor):
            value = node.meta["val"]
            constants[node] = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=value.device
            ).fill_(_FILLED[node.target])
        elif node.target is not aten.empty.memory_format and all(n in constants for n in used):
            constants[node] = _value(node, constants)
        elif (_is_view(node) or _is_item(node)) and used and all(n in views for n in used):
            views[node] = _value(node, views)
    results = {
        node: value
        for found in (views, constants)
        for node, value in found.items()
        if node.op != "placeholder"
        and isinstance(value, Tensor)
        and any(user not in found for user in node.users)
    }
    place = inputs[len(state)] if len(inputs) > len(state) else next(
        node for node in graph.nodes if node.op != "placeholder"
    )
    for index, node in enumerate(results):
        with graph.inserting_before(place):
            new = graph.placeholder(f"constant_{index}")
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in results)
    return list(results.values())


def _value(node: Node, known: dict[Node, Any]) -> Any:
    arguments = torch.fx.map_arg((node.args, node.kwargs), lambda used: known[used])
    with torch.no_grad():
        return node.target(*arguments[0], **arguments[1])  # pyright: ignore[reportCallIssue]


def _use_bindings(graph: Graph) -> None:
    """Call operations through PyTorch's bindings, where these give the same on empty tensors."""
    functions, methods = torch._C._VariableFunctions, torch._C.TensorBase
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if node.op != "call_function" or node.target.namespace != "aten" if packet else True:
            continue
        name = packet.__name__
        arguments = torch.fx.map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
        for op, target in (
            ("call_function", getattr(torch, name, None) if hasattr(functions, name) else None),
            ("call_method", name if hasattr(methods, name) else None),
        ):
            if target is None or not (op == "call_method" or isinstance(target, type(torch.mul))):
                continue
            function = target if op == "call_function" else getattr(methods, name)
            if _fits(function, arguments, node.meta.get("val")):
                node.op, node.target = op, target
                break


def _fits(function: Any, arguments: Any, expected: Any) -> bool:
    try:
        with torch.no_grad():
            found = function(*arguments[0], **arguments[1])
    except Exception:  # The binding takes other arguments.
        return False
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=False))
    return len(tree_leaves(found)) == len(tree_leaves(expected)) and all(
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
        for a, b in pairs
    )


def _is_view(node: Node) -> bool:
    """Whether the result shares the memory of the first argument and nothing is written."""
    schema = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and not schema.is_mutable
        and any(value.alias_info is not None for value in schema.returns)
    )


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_item(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _is_pure(node: Node) -> bool:
    """Whether an operation always gives the same and changes nothing."""
    if _is_item(node):
        return True
    schema = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and not schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )
