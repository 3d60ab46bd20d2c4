"""Functions of densities that are faster on a CPU than PyTorch's, and differ by rounding."""

import platform
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.compilation.products import processor

# Below these numbers of elements and of multiplications PyTorch's own are as fast.
_ELEMENTS, _MULTIPLICATIONS = 2**12, 2**17


class FastFunctions(TorchFunctionMode):
    """A context in which linear layers, softplus and Bernoulli log densities are computed faster.

    PyTorch computes log(1 + exp(-|x|)) with log1p, an element at a time, which takes more than
    half of an importance weight's time; here it is a logarithm of vectors, in which what is lost
    is below 1e-7 per element. Linear layers are oneDNN's on CPUs of other makers than Intel, as in
    `pyro_vae.compilation.products`. Only float32 on a CPU is affected. Random draws are not, but
    what is drawn with computed parameters may round differently.

    >>> logits = torch.linspace(-9, 9, 5000)
    >>> with FastFunctions():
    ...     fast = F.softplus(logits)
    >>> bool((fast - F.softplus(logits)).abs().max() < 2e-6)
    True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _FASTER.get(func, func)(*args, **(kwargs or {}))


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    if beta != 1 or not _applies(x):
        return F.softplus(x, beta, threshold)
    return _Softplus.apply(x) if _needs_gradient(x) else _log_one_plus_exp(x)


def _binary_cross_entropy_with_logits(input: Tensor, target: Tensor, **options: Any) -> Tensor:
    # Those that are not given are None.
    given = {name: value for name, value in options.items() if value is not None}
    elementwise = given == {"reduction": "none"} and input.shape == target.shape
    if not elementwise or not _applies(input) or _needs_gradient(target):
        return F.binary_cross_entropy_with_logits(input, target, **options)
    if _needs_gradient(input):
        return _CrossEntropy.apply(input, target)
    return _cross_entropy(input, target)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    parameters = (weight,) if bias is None else (weight, bias)
    if (
        not _uses_onednn()
        or not _applies(x)
        or x.numel() * len(weight) < _MULTIPLICATIONS
        or any(p.dtype != x.dtype or _needs_gradient(p) for p in parameters)
    ):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias) if _needs_gradient(x) else _onednn(x, weight, bias)


_FASTER: dict[Any, Callable[..., Any]] = {
    F.softplus: _softplus,
    F.linear: _linear,
    F.binary_cross_entropy_with_logits: _binary_cross_entropy_with_logits,
}


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _log_one_plus_exp(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * x.sigmoid()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(x, target)
        return _cross_entropy(x, target)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, target = ctx.saved_tensors
        return gradients[0] * x.sigmoid().sub_(target), None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradients[0].contiguous(), weight.t(), None), None, None


def _log_one_plus_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    return _logarithm(x).add_(x.clamp(min=0))


def _cross_entropy(x: Tensor, target: Tensor) -> Tensor:
    """(1 - target) x + log(1 + exp(-x)), whose parts cancel exactly for targets of 0 and 1."""
    return (1 - target).mul_(x).sub_(x.clamp(max=0)).add_(_logarithm(x))


def _logarithm(x: Tensor) -> Tensor:
    """log(1 + exp(-|x|))."""
    return x.abs().neg_().exp_().add_(1).log_()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _applies(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() >= _ELEMENTS


def _needs_gradient(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


@cache
def _uses_onednn() -> bool:
    x86 = platform.machine() == "x86_64" and "intel" not in processor().lower()
    return x86 and torch.backends.mkldnn.is_available()
