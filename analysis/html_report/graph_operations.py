"""The operations of exported functions, and their ATen counterparts.

Views are reduced to the element of the source that each element shows, and most other operations
to functions of elements that broadcast; `HANDLERS` has the rest.
"""

import base64
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class ExportError(RuntimeError):
    """A function cannot run in a page; the message says why, in one line."""


@dataclass(eq=False)
class Step:
    """An operation, with steps, constants and numbers as its inputs."""

    op: str
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    options: dict[str, Any] = field(default_factory=dict)


def encode_array(array: np.ndarray, *, half: bool = False) -> dict[str, Any]:
    """An array as base64 of compressed little-endian bytes.

    Args:
        array: Booleans, uint8, uint16, int32, float32 or float64.
        half: Whether to store it as float16 times a power of two.
    """
    values, stored = np.ascontiguousarray(array), {}
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if half:
        largest = float(np.abs(values).max(initial=0))
        scale = 2.0 ** (math.frexp(largest)[1] - 15) if largest else 1.0
        values, stored = (values / scale).astype(np.float16), {"scale": scale}
    kind = {"float16": "f2", "float32": "f4", "float64": "f8"}
    kind |= {"uint8": "u1", "uint16": "u2", "int32": "i4"}
    data = zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), 6)
    code = base64.b64encode(data).decode("ascii")
    return {"type": kind[values.dtype.name], "shape": [*values.shape], **stored, "data": code}


# ---- operations ---------------------------------------------------------------------------------

_OF_ONE = """
    relu sigmoid tanh exp log log1p expm1 neg abs sqrt rsqrt reciprocal square sign sin cos erf
    special_ndtr floor ceil round isnan isfinite logical_not bitwise_not silu
"""
_OF_TWO = """
    mul maximum minimum eq ne lt le gt ge logical_and logical_or bitwise_and bitwise_or logaddexp
    atan2
"""
# Element by element: the parameters that broadcast.
ELEMENTWISE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_OF_ONE.split(), ("self",)),
    **dict.fromkeys(_OF_TWO.split(), ("self", "other")),
    "pow": ("self", "exponent"),
    "where": ("condition", "self", "other"),
    "masked_fill": ("mask", "value", "self"),
    "softplus": ("self", "beta", "threshold"),
    "elu": ("self", "alpha", "scale", "input_scale"),
    "leaky_relu": ("self", "negative_slope"),
    "hardtanh": ("self", "min_val", "max_val"),
    "clamp_min": ("self", "min"),
    "clamp_max": ("self", "max"),
}
RENAMED = {
    "masked_fill": "where",
    "hardtanh": "clamp",
    "clamp_min": "maximum",
    "clamp_max": "minimum",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_not": "logical_not",
}
# Operations whose elements are elements of their first argument.
VIEWS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "select"),
    *("slice", "unsqueeze", "squeeze", "expand", "flip", "unbind", "split", "split_with_sizes"),
    *("alias", "detach", "clone", "repeat", "index_select", "gather", "index", "diagonal", "roll"),
    *("lift_fresh", "contiguous", "unfold", "unsafe_split", "unsafe_chunk"),
}
LIKE = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a step or a constant; () of a number."""
    return tuple(getattr(value, "shape", ()))


def _elementwise(op: str, *inputs: Any) -> Step:
    """An operation on steps, constants and numbers that broadcast, of the first step's type."""
    # PyTorch's own function imports sympy.
    shape = np.broadcast_shapes(*map(shape_of, inputs))
    return Step(op, inputs, shape, next(v.dtype for v in inputs if isinstance(v, Step)))


def view_elements(target: Any, name: str, given: Mapping[str, Any]) -> Any:
    """The elements of a step in another order or shape."""
    (_, source), *rest = given.items()
    others = dict(rest)
    if any(isinstance(leaf, Step) for leaf in pytree.tree_leaves(others)):
        raise ExportError(f"the page has no operation {name} with computed indices.")
    if not isinstance(source, Step):
        raise ExportError(f"the page has no operation {name} of a constant.")
    places = torch.arange(math.prod(source.shape)).view(source.shape)
    # Strides are those of the traced tensor, and not of the places.
    same = name == "_reshape_alias"
    shown = places.reshape(given["size"]) if same else target(places, **others)
    if isinstance(shown, Tensor):
        return _elements(source, shown)
    return tuple(_elements(source, part) for part in shown)


def _elements(source: Step, places: Tensor) -> Step:
    """Elements of a step by their places."""
    flat = places.reshape(-1)
    options: dict[str, Any] = {}
    if len(flat) != math.prod(source.shape) or not torch.equal(flat, torch.arange(len(flat))):
        offset = int(flat[0]) if len(flat) else 0
        strides = [
            int(places.select(axis, 1).reshape(-1)[0]) - offset if size > 1 and len(flat) else 0
            for axis, size in enumerate(places.shape)
        ]
        affine = torch.full(places.shape, offset)
        for axis, (size, stride) in enumerate(zip(places.shape, strides, strict=True)):
            ahead = torch.arange(size) * stride
            affine = affine + ahead.view(-1, *[1] * (places.dim() - axis - 1))
        options = {"offset": offset, "strides": strides}
        if not torch.equal(affine, places):
            options = {"places": encode_array(flat.to(torch.int32).numpy())}
    return Step("elements", (source,), tuple(places.shape), source.dtype, options)


def _reshaped(value: Any, *shape: int) -> Any:
    if isinstance(value, Tensor):
        return value.reshape(shape)
    return Step("elements", (value,), tuple(shape), value.dtype)


def _cast(given: Mapping[str, Any], result: Tensor) -> Any:
    return Step("cast", (given["self"],), tuple(result.shape), result.dtype)


def _sum_of_two(op: str) -> Callable[..., Step]:
    def handle(given: Mapping[str, Any], result: Tensor) -> Step:
        first, second = given["self"], given["other"]
        if given.get("alpha", 1) != 1:
            second = (
                second * given["alpha"]
                if not isinstance(second, Step)
                else Step("mul", (second, given["alpha"]), second.shape, second.dtype)
            )
        if op == "rsub":
            first, second = second, first
        name = "sub" if op == "rsub" else op
        return Step(name, (first, second), tuple(result.shape), result.dtype)

    return handle


def _divide(given: Mapping[str, Any], result: Tensor) -> Step:
    if given.get("rounding_mode") is not None:
        raise ExportError("the page has no division with rounding.")
    return Step("div", (given["self"], given["other"]), tuple(result.shape), result.dtype)


def _clamp(given: Mapping[str, Any], result: Tensor) -> Step:
    low = -math.inf if given["min"] is None else given["min"]
    high = math.inf if given["max"] is None else given["max"]
    return Step("clamp", (given["self"], low, high), tuple(result.shape), result.dtype)


def _gelu(given: Mapping[str, Any], result: Tensor) -> Step:
    op = "gelu" if given["approximate"] == "none" else "gelu_tanh"
    return Step(op, (given["self"],), tuple(result.shape), result.dtype)


def _glu(given: Mapping[str, Any], result: Tensor) -> Step:
    source = given["self"]
    places = torch.arange(math.prod(source.shape)).view(source.shape)
    values, gates = (_elements(source, half) for half in places.chunk(2, given["dim"]))
    return _elementwise("mul", values, _elementwise("sigmoid", gates))


def _log_sigmoid(given: Mapping[str, Any], result: Any) -> tuple[Step, None]:
    minus = _elementwise("softplus", _elementwise("neg", given["self"]), 1.0, math.inf)
    return _elementwise("neg", minus), None


def _put(given: Mapping[str, Any], result: Tensor) -> Any:
    """self[mask] = value, for one constant mask of the shape of self."""
    target, indices, value = given["self"], given["indices"], given["values"]
    mask = indices[0]
    if len(indices) != 1 or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ExportError("the page has no assignment to computed positions.")
    if not mask.any():
        return target
    if tuple(mask.shape) != target.shape or math.prod(shape_of(value)) != 1:
        raise ExportError("the page has no assignment to a part of a tensor.")
    return Step("where", (mask, value, target), target.shape, target.dtype)


def _reduction(kind: str) -> Callable[..., Step]:
    def handle(given: Mapping[str, Any], result: Tensor) -> Step:
        source = given["self"]
        axes = given.get("dim")
        axes = [axes] if isinstance(axes, int) else list(axes or range(len(source.shape)))
        axes = sorted(axis % max(len(source.shape), 1) for axis in axes)
        options = {"axes": axes}
        return Step(kind, (source,), tuple(result.shape), result.dtype, options)

    return handle


def _norm(given: Mapping[str, Any], result: Tensor) -> Step:
    order = given["ord"] if "ord" in given else given["p"]
    if order is not None and float(order) != 2:
        raise ExportError(f"the page has no norm of order {order}.")
    square = _elementwise("square", given["self"])
    total = _reduction("sum")({**given, "self": square}, result)
    return _elementwise("sqrt", total)


def _along(op: str) -> Callable[..., Step]:
    """An operation along one axis that keeps the shape."""

    def handle(given: Mapping[str, Any], result: Tensor) -> Step:
        axis = given["dim"] % max(len(result.shape), 1)
        return Step(op, (given["self"],), tuple(result.shape), result.dtype, {"axis": axis})

    return handle


def _concatenate(given: Mapping[str, Any], result: Tensor) -> Step:
    parts = [part for part in given["tensors"] if shape_of(part) != (0,)]
    options = {"axis": given["dim"] % len(result.shape)}
    return Step("cat", tuple(parts), tuple(result.shape), result.dtype, options)


def _stack(given: Mapping[str, Any], result: Tensor) -> Step:
    axis = given["dim"] % len(result.shape)
    parts = []
    for part in given["tensors"]:
        shape = list(shape_of(part))
        parts.append(_reshaped(part, *shape[:axis], 1, *shape[axis:]))
    return Step("cat", tuple(parts), tuple(result.shape), result.dtype, {"axis": axis})


def _product(left: str, right: str) -> Callable[..., Any]:
    """A matrix product, of vectors as matrices of one row or column, plus `self` if it is neither.

    Matrices have a leading axis in `bmm`.
    """

    def handle(given: Mapping[str, Any], result: Tensor) -> Any:
        a, b = given[left], given[right]
        if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
            raise ExportError("the page has no products with factors.")
        if len(shape_of(a)) == 1:
            a = _reshaped(a, 1, *shape_of(a))
        if len(shape_of(b)) == 1:
            b = _reshaped(b, *shape_of(b), 1)
        shape = (*shape_of(a)[:-1], shape_of(b)[-1])
        product = Step("matmul", (a, b), shape, result.dtype)
        if shape != tuple(result.shape):
            product = _reshaped(product, *result.shape)
        return product if "self" in (left, right) else _elementwise("add", product, given["self"])

    return handle


def _convolution(given: Mapping[str, Any], result: Tensor) -> Step:
    source, weight, bias = given["input"], given["weight"], given["bias"]
    if not isinstance(source, Step) or not isinstance(weight, Tensor):
        raise ExportError("the page has no convolutions with computed kernels.")
    names = ("stride", "padding", "dilation")
    axes = len(source.shape) - 2
    # torch allows one number for all axes.
    options: dict[str, Any] = {
        name: list(given[name]) * (axes // len(given[name])) for name in names
    }
    shape = tuple(result.shape)
    if axes == 1:
        # An image of one row.
        source = _reshaped(source, *source.shape[:2], 1, source.shape[2])
        weight = weight.unsqueeze(2)
        shape = (*shape[:2], 1, shape[2])
        options = {name: [int(name != "padding"), *options[name]] for name in names}
    elif axes != 2:
        raise ExportError(f"the page has no convolutions along {axes} axes.")
    options |= {"transposed": bool(given["transposed"]), "groups": given["groups"]}
    step = Step("convolution", (source, weight), shape, result.dtype, options)
    if bias is not None:
        step = _elementwise("add", step, bias.view(-1, 1, 1))
    return _reshaped(step, *result.shape) if axes == 1 else step


def _batch_norm(given: Mapping[str, Any], result: Any) -> tuple[Step]:
    if given.get("training"):
        raise ExportError("batch normalisation must be in evaluation mode.")
    source = given["input"]
    mean, variance = given["running_mean"].double(), given["running_var"].double()
    scale = 1 / (variance + given["eps"]).sqrt()
    shift = -mean * scale
    if given["weight"] is not None:
        scale, shift = scale * given["weight"], shift * given["weight"]
    if given["bias"] is not None:
        shift = shift + given["bias"]
    shape = (-1, *[1] * (len(source.shape) - 2))
    scaled = _elementwise("mul", source, scale.float().view(shape))
    return (_elementwise("add", scaled, shift.float().view(shape)),)


def _group_norm(given: Mapping[str, Any], result: Any) -> tuple[Step]:
    source = given["input"]
    options = {"rows": given["N"] * given["group"], "eps": given["eps"]}
    step = Step("normalise", (source,), source.shape, source.dtype, options)
    shape = (-1, *[1] * (len(source.shape) - 2))
    return (_affine(step, given, shape),)


def _layer_norm(given: Mapping[str, Any], result: Any) -> tuple[Step]:
    source, shape = given["input"], tuple(given["normalized_shape"])
    options = {"rows": math.prod(source.shape) // math.prod(shape), "eps": given["eps"]}
    step = Step("normalise", (source,), source.shape, source.dtype, options)
    return (_affine(step, given, shape),)


def _affine(step: Step, given: Mapping[str, Any], shape: Sequence[int]) -> Step:
    if given["weight"] is not None:
        step = _elementwise("mul", step, given["weight"].reshape(shape))
    if given["bias"] is not None:
        step = _elementwise("add", step, given["bias"].reshape(shape))
    return step


HANDLERS: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {
    **{name: _sum_of_two(name) for name in ("add", "sub", "rsub")},
    **{name: _reduction(name) for name in ("sum", "mean", "prod", "amax", "amin", "logsumexp")},
    **{name: _norm for name in ("linalg_vector_norm", "norm")},
    **{name: _along(name.removeprefix("_")) for name in ("_softmax", "_log_softmax", "cumsum")},
    "_to_copy": _cast,
    "div": _divide,
    "clamp": _clamp,
    "gelu": _gelu,
    "glu": _glu,
    "log_sigmoid_forward": _log_sigmoid,
    "index_put": _put,
    "cat": _concatenate,
    "stack": _stack,
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "mv": _product("self", "vec"),
    "dot": _product("self", "tensor"),
    "addmm": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"),
    "addmv": _product("mat", "vec"),
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
}
