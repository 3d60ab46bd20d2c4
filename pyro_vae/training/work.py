"""Whether compiling a step pays, from counted work and never from a clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Measured on two cores of a Zen 5 CPU: what a step pays Pyro's handlers and autograd's, how fast eager
# products run, what share of their time a compiled step saves of them and of the elementwise work that
# goes with them, and what compiling takes (8 to 15 s). It must save twice what it costs.
_HANDLER_SECONDS = 3e-3
_PRODUCTS_PER_SECOND = 1.2e11
_SAVED_SHARE = 0.4
_COMPILER_SECONDS = 15.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Work:
    """The work of a step.

    Args:
        flops: Its floating-point operations in products and convolutions.
        on_cpu: Whether they run on a CPU; on a GPU it is the handlers that a step waits for.
    """

    flops: int
    on_cpu: bool

    def seconds_saved(self, steps: int) -> float:
        """About what so many compiled steps would save."""
        products = self.flops / _PRODUCTS_PER_SECOND if self.on_cpu else 0.0
        return steps * (_HANDLER_SECONDS + _SAVED_SHARE * products)

    def pays(self, steps: int) -> bool:
        """Whether so many compiled steps save enough. The same on every machine."""
        return self.seconds_saved(steps) > _MARGIN * _COMPILER_SECONDS


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
