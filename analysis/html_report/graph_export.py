"""A function of one tensor as a list of operations that `interpreter.js` runs in a browser.

The function is traced once into a graph of ATen operations. What does not depend on its argument
is computed here and becomes a constant; the rest becomes the operations of `graph_operations`.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx.node import Node, map_arg
from torch.utils import _pytree as pytree

from analysis.html_report.graph_operations import (
    ELEMENTWISE,
    HANDLERS,
    LIKE,
    RENAMED,
    VIEWS,
    ExportError,
    Step,
    encode_array,
    shape_of,
    view_elements,
)
from pyro_vae.compilation.tracing import TracingError, one_line, trace

# Constants of fewer elements, such as biases and units, keep their precision.
_HALF_FROM = 4096
# The largest number of constants' elements, and of operations.
MOST_WEIGHTS = 2_500_000
MOST_STEPS = 4000


def export_function(
    function: Callable[[Tensor], Tensor], example: Tensor, *, half: bool = True
) -> dict[str, Any]:
    """A function as operations and constants, in values that JSON can hold.

    Shapes are those of the example: the function then reads one example at a time. Large constants
    are stored in float16, each with a scale that is a power of two, so that the largest elements
    are representable: a relative error of 2^-11.

    Args:
        function: A function of one tensor to one tensor, of parts in evaluation mode.
        example: An argument, of the batch size of later calls.
        half: Whether to store large constants in float16.

    Raises:
        ExportError: If the function cannot be traced, has an operation that the page does not
            know, or is too large for a page.
    """
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            traced = trace(lambda argument: (function(argument),), example)
    except TracingError as error:
        raise ExportError(str(error)) from error
    start = Step("input", (), tuple(example.shape), example.dtype)
    try:
        output = _translate(traced.graph.graph, traced.state, start)
    except ExportError:
        raise
    except Exception as error:  # An operation in a form that is not known here.
        raise ExportError(one_line(error)) from error
    if not isinstance(output, Step):
        raise ExportError("its value does not depend on its argument.")
    return _serialise(start, output, half)


def _translate(graph: Any, state: Sequence[Tensor], start: Step) -> Any:
    """The output of a graph as a step whose inputs lead back to `start`."""
    nodes = list(graph.nodes)
    needed, values = _needed(nodes[-1]), dict[Node, Any]()
    for node in nodes[:-1]:
        if node.op == "placeholder":
            kind, number = node.name.split("_")
            values[node] = start if kind == "argument" else state[int(number)].detach().cpu()
        elif node in needed:
            values[node] = _evaluate(node, values)
    return values[nodes[-1].args[0][0]]


def _needed(output: Node) -> set[Node]:
    """The nodes on which a node depends."""
    found, open_nodes = {output}, [output]
    while open_nodes:
        for node in open_nodes.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                open_nodes.append(node)
    return found


def _evaluate(node: Node, values: Mapping[Node, Any]) -> Any:
    """The value of a node: a tensor if it is a constant, otherwise a step, or several."""
    target: Any = node.target
    arguments: Any
    arguments, named = map_arg((node.args, node.kwargs), lambda each: values[each])
    if target is operator.getitem:
        return arguments[0][arguments[1]]
    name = target._schema.name.removeprefix("aten::")
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise ExportError(f"it draws random numbers ({name}).")
    if not any(isinstance(leaf, Step) for leaf in pytree.tree_leaves((arguments, named))):
        if target._schema.is_mutable:
            raise ExportError(f"it changes a tensor in place ({name}).")
        if "device" in named:
            named = {**named, "device": torch.device("cpu")}
        return target(*arguments, **named)
    given = {a.name: a.default_value for a in target._schema.arguments}
    given |= dict(zip(given, arguments, strict=False)) | dict(named)
    if target._schema.is_mutable:
        _check_no_views(node, name)
        name = name.removesuffix("_")
    # Of operations with several results, these have the meta data.
    result: Any = node.meta.get("val")
    if name in VIEWS:
        return view_elements(target, name, given)
    if name in ELEMENTWISE:
        inputs = tuple(given[parameter] for parameter in ELEMENTWISE[name])
        return Step(RENAMED.get(name) or name, inputs, tuple(result.shape), result.dtype)
    if name in LIKE:
        shape = given["size"] if "size" in given else given["self"].shape
        fill = given.get("fill_value", 1.0 if "ones" in name else 0.0)
        return torch.full(tuple(shape), fill, dtype=result.dtype)
    if name not in HANDLERS:
        raise ExportError(f"the page has no operation {name}.")
    return HANDLERS[name](given, result)


def _check_no_views(node: Node, name: str) -> None:
    """Check that a tensor that is changed in place has no views, which would change with it."""
    changed: Any = node.args[0]
    related = [changed, *(user for user in changed.users if user is not node)]
    for other in related:
        schema = getattr(other.target, "_schema", None)
        if schema is None or schema.name.removeprefix("aten::") in VIEWS - {"clone"}:
            raise ExportError(f"it changes a tensor with views in place ({name}).")


# ---- serialisation ------------------------------------------------------------------------------


def _serialise(start: Step, output: Step, half: bool) -> dict[str, Any]:
    """Number the input, the constants and the steps in this order, and encode the constants."""
    steps = [step for step in _in_order(output) if step is not start]
    if len(steps) > MOST_STEPS:
        raise ExportError(
            f"it takes {len(steps):,} operations, and a page runs at most {MOST_STEPS:,}."
        )
    constants: dict[Any, Any] = {}
    for value in (value for step in steps for value in step.inputs):
        if not isinstance(value, Step):
            constants[_key(value)] = value
    weights = sum(value.numel() for value in constants.values() if isinstance(value, Tensor))
    if weights > MOST_WEIGHTS:
        raise ExportError(
            f"it has {weights:,} weights, and a page holds at most {MOST_WEIGHTS:,}."
        )
    numbers: dict[Any, int] = {start: 0}
    numbers |= {value: number for number, value in enumerate((*constants, *steps), 1)}
    return {
        "type": _type(start.dtype),
        "shape": [*start.shape],
        "constants": [_constant(value, half) for value in constants.values()],
        "steps": [
            {
                "op": step.op,
                "type": _type(step.dtype),
                "shape": [*step.shape],
                "in": [numbers[v if isinstance(v, Step) else _key(v)] for v in step.inputs],
                **step.options,
            }
            for step in steps
        ],
        "output": numbers[output],
    }


def _in_order(output: Step) -> Iterator[Step]:
    """The steps that lead to a step, each after its inputs."""
    seen: set[Step] = set()
    stack = [(output, False)]
    while stack:
        step, ready = stack.pop()
        if ready:
            yield step
        elif step not in seen:
            seen.add(step)
            stack.append((step, True))
            stack += [(value, False) for value in step.inputs if isinstance(value, Step)]


def _key(constant: Any) -> Any:
    """What equal constants share: the same memory, or the same number."""
    if isinstance(constant, Tensor):
        if constant.numel() == 1:
            return str(float(constant)), tuple(constant.shape)
        return constant.data_ptr(), constant.shape, constant.stride(), constant.dtype
    return str(float(constant)), ()


def _constant(value: Any, half: bool) -> Any:
    """A number, as text if it is not finite; of several elements an array."""
    if not isinstance(value, Tensor) or value.numel() == 1:
        number = float(value)
        text = "NaN" if math.isnan(number) else f"{'-' * (number < 0)}Infinity"
        return {"number": number if math.isfinite(number) else text, "shape": [*shape_of(value)]}
    if not value.is_floating_point():
        value = value if value.dtype == torch.bool else value.double()
    elif value.dtype != torch.float64:
        value = value.float()
    half = half and value.is_floating_point() and value.numel() >= _HALF_FROM
    return encode_array(value.detach().numpy(), half=half)


def _type(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "u1"
    if not dtype.is_floating_point:
        return "i8"
    return "f8" if dtype == torch.float64 else "f4"
