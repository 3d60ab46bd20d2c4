"""Decompositions of operations for which the compiler's own code is slow.

Each equals the original up to rounding; the first compiled call is compared with the eager one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.types import Number

aten = torch.ops.aten


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


def foreach_norm(tensors: Sequence[Tensor], ord: Number = 2, **unsupported: Any) -> list[Tensor]:
    """The norm of each tensor, which the compiler knows one by one."""
    if any(unsupported.values()):
        raise NotImplementedError("only norms in the tensors' own type are implemented.")
    return [torch.linalg.vector_norm(tensor, ord) for tensor in tensors]


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.softplus.default: softplus,
    aten.softplus_backward.default: softplus_backward,
    aten.log_sigmoid_forward.default: log_sigmoid_forward,
    aten.log_sigmoid_backward.default: log_sigmoid_backward,
    aten.binary_cross_entropy_with_logits.default: binary_cross_entropy_with_logits,
    aten._foreach_norm.Scalar: foreach_norm,
}
