"""Decide whether compiling pays, from a count of operations and never from a clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# "auto" compiles where it pays.
CompileMode = Literal["auto", "on", "off"]

# Measured on two cores of a Zen 5 CPU: the rate of eager products, and the time that compiling
# takes (8 to 15 s). Compiling must save twice its cost.
_FLOPS_PER_SECOND = 1.2e11
_COMPILER_SECONDS = 15.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Savings:
    """The time that a compiled call saves."""

    call_seconds: (
        float  # Overhead of Python, Pyro's handlers and autograd, independent of the work.
    )
    share_of_products: float  # Savings on all operations, as a share of the products' time.


# Measured on the same machine. A forward pass has as much elementwise work for a third of the
# products, and none of autograd's.
TRAINING_STEP = Savings(call_seconds=3e-3, share_of_products=0.4)
FORWARD = Savings(call_seconds=1.5e-3, share_of_products=0.75)


@dataclass(frozen=True)
class Work:
    """The work of a call."""

    flops: int  # Floating-point operations in products and convolutions.
    on_cpu: bool  # On a GPU a call waits for Pyro's handlers instead.

    def seconds_saved(self, calls: int, savings: Savings = TRAINING_STEP) -> float:
        """The estimated time that compiling saves over this number of calls."""
        products = self.flops / _FLOPS_PER_SECOND if self.on_cpu else 0.0
        return calls * (savings.call_seconds + savings.share_of_products * products)

    def pays(self, calls: int, savings: Savings = TRAINING_STEP) -> bool:
        """Whether this number of calls saves enough. The answer is the same on every machine."""
        return self.seconds_saved(calls, savings) > _MARGIN * _COMPILER_SECONDS


def count_work(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Work]:
    """Call a function once and count its work."""
    with _FlopCounter() as counter:
        outputs = function(*arguments)
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return outputs, Work(counter.flops, on_cpu=all(t.device.type == "cpu" for t in tensors))


def check_compile_mode(mode: str) -> None:
    """Raise a ValueError unless `mode` is "auto", "on" or "off"."""
    if mode not in get_args(CompileMode):
        raise ValueError(
            f"compile must be one of {', '.join(get_args(CompileMode))}, got {mode!r}."
        )


class _FlopCounter(TorchDispatchMode):
    """Count the operations of products and convolutions, backward passes included.

    torch's own counter also attributes them to modules, with hooks that `torch.autograd.grad` does
    not accept.
    """

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output
