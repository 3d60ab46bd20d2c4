"""Operations of a graph: which share memory, which change it, and graphs of some of them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.compilation.tracing import mutated_arguments


class Memory:
    """Which tensors of a graph share memory, and how often each was changed in place so far.

    Args:
        graph: The graph.
        state: The tensors of its first inputs, which may share memory.
    """

    def __init__(self, graph: Graph, state: Sequence[Tensor]) -> None:
        self._root: dict[Node, Node] = {}
        self.version: Counter[Node] = Counter()
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        first: dict[int, Node] = {}
        for node, tensor in zip(inputs, state, strict=False):
            self._root[node] = first.setdefault(tensor.untyped_storage()._cdata, node)
        for node in graph.nodes:
            self.add(node)
        self.changed = {
            self.root(n)
            for node in graph.nodes
            for n in mutated_arguments(node.target, node.args, node.kwargs)
        }
        # What the caller gets, and may change.
        (output,) = (node for node in graph.nodes if node.op == "output")
        self.returned = {self.root(node) for node in output.all_input_nodes}

    def root(self, node: Node) -> Node:
        """The node that made the memory of a tensor."""
        root = self._root[node]
        while self._root[root] is not root:  # Merged since.
            root = self._root[root]
        return root

    def merge(self, node: Node, other: Node) -> None:
        """Let another node take the place of a node."""
        if self.root(node) in self.returned:
            self.returned.add(self.root(other))
        self._root[node] = self.root(other)

    def add(self, node: Node) -> None:
        """Find the memory of a node's result."""
        source: Any = node.args[0] if node.args else None
        # An item of a tuple of views is a view; one of other results has its own memory.
        of: Any = source if is_item(node) else node
        if not is_view(of):
            source, *_ = [*mutated_arguments(node.target, node.args, node.kwargs), None]
        if isinstance(source, Node):
            self._root[node] = self._root[source]
        else:
            self._root.setdefault(node, node)

    def advance(self, node: Node) -> None:
        """Count the changes that an operation makes."""
        self.version.update(
            self.root(n) for n in mutated_arguments(node.target, node.args, node.kwargs)
        )


def is_view(node: Node) -> bool:
    """Whether the result shares the memory of the first argument and nothing is written."""
    schema = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and not schema.is_mutable
        and any(value.alias_info is not None for value in schema.returns)
    )


def is_item(node: Node) -> bool:
    """Whether a node is an item of the tuple that an operation returns."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def is_pure(node: Node) -> bool:
    """Whether an operation always returns the same result and changes nothing."""
    if is_item(node):
        return True
    schema = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and not schema.is_mutable
        and not mutated_arguments(node.target, node.args, node.kwargs)
        and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
    )


def subgraph(arguments: list[Node], nodes: list[Node], output: Any) -> GraphModule:
    """A graph of some nodes, in their order, with other nodes as its arguments."""
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
