"""Whether compiling a function pays, from counted work and never from a clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# "auto" compiles where it pays.
CompileMode = Literal["auto", "on", "off"]

# Measured on two cores of a Zen 5 CPU: how fast eager products run, and what compiling takes (8 to
# 15 s). It must save twice what it costs.
_PRODUCTS_PER_SECOND = 1.2e11
_COMPILER_SECONDS = 15.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Savings:
    """What a compiled call saves.

    Args:
        call_seconds: Of Python, Pyro's handlers and autograd's, whatever the work.
        share_of_products: Of the products and of the elementwise work that goes with them, as a share of
            the products' time.
    """

    call_seconds: float
    share_of_products: float


# Measured on the same machine. Forward alone there is as much elementwise work to a third of the
# products, and none of it is autograd's.
TRAINING_STEP = Savings(call_seconds=3e-3, share_of_products=0.4)
FORWARD = Savings(call_seconds=1.5e-3, share_of_products=0.75)


@dataclass(frozen=True)
class Work:
    """The work of a call.

    Args:
        flops: Its floating-point operations in products and convolutions.
        on_cpu: Whether they run on a CPU; on a GPU it is the handlers that a call waits for.
    """

    flops: int
    on_cpu: bool

    def seconds_saved(self, calls: int, savings: Savings = TRAINING_STEP) -> float:
        """About what so many compiled calls would save."""
        products = self.flops / _PRODUCTS_PER_SECOND if self.on_cpu else 0.0
        return calls * (savings.call_seconds + savings.share_of_products * products)

    def pays(self, calls: int, savings: Savings = TRAINING_STEP) -> bool:
        """Whether so many compiled calls save enough. The same on every machine."""
        return self.seconds_saved(calls, savings) > _MARGIN * _COMPILER_SECONDS


def counted(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Work]:
    """Run a function once, and count its work."""
    with _Counter() as counter:
        outputs = function(*arguments)
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return outputs, Work(counter.flops, on_cpu=all(t.device.type == "cpu" for t in tensors))


class _Counter(TorchDispatchMode):
    """Adds up the operations of each product and convolution, backward ones included.

    torch's own counter also follows which module they belong to, with hooks that
    `torch.autograd.grad` does not take.
    """

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output
