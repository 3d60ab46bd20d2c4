"""Split a graph: products that are the same at each call, and updates of the state."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node, map_arg

from pyro_vae.compilation.graphs import Memory, is_item, subgraph
from pyro_vae.compilation.tracing import Traced, mutated_arguments


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
    early |= {n for n in nodes if is_item(n) and n.args[0] in early}
    results = [
        node
        for node in nodes
        if node in early
        and any(user not in early for user in node.users)
        and isinstance(node.meta.get("val"), Tensor)
    ]
    once = subgraph(inputs[:-moving], [n for n in nodes if n in early], tuple(results))
    late = [n for n in nodes if n not in early and n.op == "call_function"]
    (output,) = (node for node in nodes if node.op == "output")
    arguments = [*inputs[:-moving], *results, *inputs[-moving:]]
    rest = subgraph(arguments, late, output.args[0])
    return Traced(once, traced.state), Traced(rest, traced.state)


# Factors of plain products, by their places among the arguments. Others are convolutions and
# attention, whose operations torch counts.
_FACTORS = {"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)}
_OTHERS = ("conv", "attention")


def _name(node: Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return "" if packet is None or node.op != "call_function" else packet.__name__


def _is_product(node: Node) -> bool:
    return _name(node) in _FACTORS or any(word in _name(node) for word in _OTHERS)


def count_flops(traced: Traced) -> int:
    """The number of floating-point operations in products and convolutions."""
    flops = 0
    for node in traced.graph.graph.nodes:
        name = _name(node)
        if name in _FACTORS:
            rows, inner = (node.args[place].meta["val"] for place in _FACTORS[name])
            flops += 2 * rows.numel() * inner.shape[-1]
        elif _is_product(node):
            from torch.utils.flop_counter import flop_registry  # Imports Triton.

            if formula := flop_registry.get(node.target.overloadpacket):
                values = map_arg((node.args, node.kwargs), lambda used: used.meta.get("val"))
                flops += formula(*values[0], **values[1], out_val=_result(node))
    return flops


def _result(node: Node) -> Any:
    """A node's value without content, or the tuple of them."""
    if "val" in node.meta:
        return node.meta["val"]
    items: dict[Any, Any] = {
        user.args[1]: user.meta.get("val") for user in node.users if is_item(user)
    }
    return tuple(items.get(index) for index in range(max(items, default=-1) + 1))


def split_updates(traced: Traced) -> tuple[Traced, Traced]:
    """Split a graph into what computes, and what changes the state with the results.

    A compiler gains nothing on an optimizer's update, which PyTorch has as one operation, and
    needs half of its time for it.

    Returns:
        Graphs `compute` and `update`, such that `update(*arguments, *compute(*arguments))` is the
        graph's value. Each has the part of the state that it reads.
    """
    graph = traced.graph.graph
    nodes = list(graph.nodes)
    memory = Memory(graph, traced.state)
    inputs = [node for node in nodes if node.op == "placeholder"]
    (output,) = (node for node in nodes if node.op == "output")
    state = inputs[: len(traced.state)]
    late: set[Node] = set()
    # Memory that operations which stay early read and change, behind the current one.
    read: set[Node] = set()
    written: set[Node] = set()
    for node in reversed(nodes):
        if node.op != "call_function" or is_item(node):
            continue
        # An item of a tuple that an operation returns belongs to that operation.
        items = {user for user in node.users if is_item(user)}
        users = {user for n in (node, *items) for user in n.users} - items
        inputs_of = {memory.root(n) for n in node.all_input_nodes}
        changed = {memory.root(n) for n in mutated_arguments(node.target, node.args, node.kwargs)}
        # Numbers, such as the norm of the gradient, are needed by the update alone.
        number = all(n.meta["val"].dim() == 0 for n in (node, *items) if "val" in n.meta)
        if (
            (changed & set(state) and late.issuperset(users - {output}))
            or (number and users and late.issuperset(users))
        ) and (
            not (changed & read or inputs_of & written)
            and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
        ):
            late |= {node, *items}
        else:
            read |= inputs_of
            written |= changed
    early = [n for n in nodes if n.op == "call_function" and n not in late]
    returned = set(output.all_input_nodes)
    results = [n for n in early if any(user in late for user in n.users) or n in returned]
    arguments = inputs[len(state) :]
    parts = []
    for chosen, extra, value in (
        (early, [], tuple(results)),
        ([n for n in nodes if n in late], results, output.args[0]),
    ):
        used = {n for node in chosen for n in node.all_input_nodes} | returned
        own = [(n, tensor) for n, tensor in zip(state, traced.state, strict=True) if n in used]
        module = subgraph([*(n for n, _ in own), *arguments, *extra], chosen, value)
        parts.append(Traced(module, tuple(tensor for _, tensor in own)))
    return parts[0], parts[1]
