"""What of a graph does not depend on its last arguments, computed once for many of their values."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils.flop_counter import flop_registry

from pyro_vae.compilation.tracing import Traced


@dataclass(frozen=True)
class Split:
    """A graph as two: `rest(*first, *once(*first), *last)` is its value.

    Args:
        once: The products, and what they need, that do not depend on the last arguments.
        rest: What is left.
    """

    once: Traced
    rest: Traced


def split(traced: Traced, last: int) -> Split:
    """Take out of a graph the products and convolutions that do not depend on its last arguments.

    Such are an encoder at the data, when the latents move, or a mixture's components. Cheap operations
    after them stay where they were: the compiler makes one loop of them and their neighbours.

    Args:
        traced: A graph that changes nothing in place and draws no random number.
        last: How many arguments are the last, at least 1.
    """
    graph = copy.deepcopy(traced.graph.graph)
    # What is never used, such as copies for a backward pass that is not taken, is not handed on.
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    first, moving = inputs[:-last], inputs[-last:]
    fixed = _independent(nodes, moving)
    wanted = [n for n in nodes if n in fixed and n.op != "placeholder" and _is_product(n)]
    early: set[Node] = set()
    while wanted:
        node = wanted.pop()
        if node not in early and node.op != "placeholder":
            early.add(node)
            wanted.extend(node.all_input_nodes)
    # A part of what an operation returns is no operation of its own.
    early |= {n for n in nodes if n.op == "call_function" and _is_part(n) and n.args[0] in early}
    handed = [
        node
        for node in nodes
        if node in early and any(user not in early for user in node.users) and _is_tensor(node)
    ]
    once = _graph(
        first, [n for n in nodes if n in early], lambda copies: tuple(copies[n] for n in handed)
    )
    late = [n for n in nodes if n not in early and n.op == "call_function"]
    (result,) = (node for node in nodes if node.op == "output")

    def outputs(copies: dict[Node, Node]) -> Any:
        return torch.fx.map_arg(result.args[0], lambda node: copies[node])

    rest = _graph([*first, *handed, *moving], late, outputs)
    return Split(Traced(once, traced.state), Traced(rest, traced.state))


def _independent(nodes: list[Node], arguments: list[Node]) -> set[Node]:
    dependent = set(arguments)
    for node in nodes:
        if any(used in dependent for used in node.all_input_nodes):
            dependent.add(node)
    return set(nodes) - dependent


def _is_product(node: Node) -> bool:
    return getattr(node.target, "overloadpacket", None) in flop_registry


def _is_part(node: Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _graph(
    arguments: list[Node], nodes: list[Node], outputs: Callable[[dict[Node, Node]], Any]
) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    for i, node in enumerate(arguments):
        copies[node] = graph.placeholder(f"argument_{i}")
        copies[node].meta = dict(node.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda used: copies[used])
    graph.output(outputs(copies))
    graph.lint()
    return GraphModule(torch.nn.Module(), graph)
