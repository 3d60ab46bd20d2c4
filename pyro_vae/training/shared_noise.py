"""Noise of a whole batch, of which each process takes the part that belongs to its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.compilation import Traced, TracingError, trace


@dataclass(frozen=True)
class Draw:
    """One draw of a program.

    Args:
        operation: What draws.
        shape: The shape for the whole batch.
        axis: The axis of the batch; None where the draw has none, and all processes use all of it.
    """

    operation: Any
    shape: torch.Size
    axis: int | None


class SharedNoise(TorchDispatchMode):
    """Inside, each draw is made for the whole batch and cut to some of its rows.

    So every process draws the same numbers, their random streams stay together, and together they
    see the noise that one process would.

    Args:
        draws: The program's draws, in their order.
        start: The first of the rows.
        rows: The number of the rows.
    """

    def __init__(self, draws: list[Draw], start: int, rows: int) -> None:
        super().__init__()
        self._draws = draws
        self._start = start
        self._rows = rows
        self._next = 0

    def __enter__(self) -> Any:
        self._next = 0
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _draws(func):
            return func(*args, **kwargs)
        draw, self._next = self._draws[self._next], self._next + 1
        if draw.axis is None:
            return func(*args, **kwargs)
        arguments = [a.name for a in func._schema.arguments]
        if func._schema.is_mutable:
            whole = func(args[0].new_empty(draw.shape), *args[1:], **kwargs)
            return args[0].copy_(self._part(whole, draw.axis))
        if "size" in arguments:
            place = arguments.index("size")
            whole = func(*args[:place], list(draw.shape), *args[place + 1 :], **kwargs)
        else:
            whole = func(args[0].new_empty(draw.shape), *args[1:], **kwargs)
        return self._part(whole, draw.axis)

    def _part(self, whole: Tensor, axis: int) -> Tensor:
        return whole.narrow(axis, self._start, self._rows)


def draws_of(function: Callable[[Tensor], Any], part: Tensor, rows: int) -> list[Draw]:
    """What a function of a batch draws, found by tracing it for a part and for the whole.

    Args:
        function: Of a batch, whose first axis is its rows.
        part: A part of a batch.
        rows: The rows of the whole.

    Raises:
        ValueError: If it cannot be traced, or draws in a way that cannot be shared.
    """
    try:
        for_part = _random(trace(function, part))
        for_whole = _random(trace(function, part.new_empty((rows, *part.shape[1:]))))
    except TracingError as error:
        raise ValueError(
            f"several processes need a program that can be traced, to share its noise: {error}."
        ) from error
    if [target for target, _ in for_part] != [target for target, _ in for_whole]:
        raise ValueError(
            "several processes need a program that draws alike for any number of data."
        )
    return [
        Draw(target, whole, _axis(target, mine, whole, len(part), rows))
        for (target, mine), (_, whole) in zip(for_part, for_whole, strict=True)
    ]


def _random(traced: Traced) -> list[tuple[Any, torch.Size]]:
    return [
        (node.target, node.meta["val"].shape)
        for node in traced.graph.graph.nodes
        if node.op == "call_function" and _draws(node.target)
    ]


def _draws(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def _axis(operation: Any, mine: torch.Size, whole: torch.Size, part: int, rows: int) -> int | None:
    different = [axis for axis, (a, b) in enumerate(zip(mine, whole, strict=True)) if a != b]
    if not different:
        return None
    tensors = [a for a in operation._schema.arguments if str(a.type) == "Tensor"]
    shaped = operation._schema.is_mutable or not tensors or "_like" in str(operation)
    (axis, *others) = different
    if others or not shaped or len(tensors) > 1 or (mine[axis], whole[axis]) != (part, rows):
        raise ValueError(
            f"several processes cannot share the noise of {operation}, whose shape for {part} and for "
            f"{rows} data is {tuple(mine)} and {tuple(whole)}: train in one process."
        )
    return axis
