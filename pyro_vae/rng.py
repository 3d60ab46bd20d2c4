"""Looking at a program without leaving a trace: modes and random streams are put back."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(*programs: Callable[..., Any], seed: int | None = None) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards all is as it was found.

    Batch normalisation then uses its running statistics, and dropout drops nothing.

    Args:
        programs: Modules, or their methods, such as `vae.model`. What belongs to no module passes.
        seed: The seed of a random stream of its own, on the CPU and on the programs' device, so that
            the global stream does not move. None to draw from the global one.
    """
    owners = owners_of(*programs)
    modules = [module for owner in owners for module in owner.modules()]
    modes = [module.training for module in modules]
    devices = {p.device for owner in owners for p in owner.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if seed is not None:
            stack.enter_context(torch.random.fork_rng(devices))
            torch.manual_seed(seed)
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def as_floats(x: Tensor) -> Tensor:
    """x in the default type of floats; data that need float64 stay in it."""
    return x if x.dtype == torch.float64 else x.to(torch.get_default_dtype())


def owners_of(*programs: Callable[..., Any]) -> list[nn.Module]:
    """The modules that are programs, or whose methods they are."""
    owners = [getattr(program, "__self__", program) for program in programs]
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def exportable() -> AbstractContextManager[None]:
    """No validation of distributions while `torch.export` traces, which cannot branch on values."""
    exporting = torch.compiler.is_exporting()
    return pyro.validation_enabled(False) if exporting else nullcontext()


def check_device(*modules: nn.Module) -> None:
    """Make sure that modules have values, on the default device unless that is the CPU.

    Raises:
        ValueError: If a parameter is on the device "meta", or on another one than tensors that the
            module makes are.
    """
    default = torch.get_default_device().type
    for device in {p.device.type for module in modules for p in module.parameters()}:
        if device == "meta":
            raise ValueError(
                "parameters on the device 'meta' have no values: build under another device, such as "
                "torch.device('cpu'), or call to_empty and load a state_dict."
            )
        if default not in ("cpu", device):
            raise ValueError(
                f"parameters are on the device {device!r}, and new tensors on {default!r}: call "
                f"torch.set_default_device({device!r}), or move the module to {default!r}."
            )


def derive_seed(seed: int, what: str) -> int:
    """A seed for a stream of its own, beside those that the same seed gives elsewhere.

    torch's generator on the CPU takes the low 32 bits of a seed alone: one that is moved by 2^32 or
    more gives the same numbers.

    Args:
        seed: A seed.
        what: What the stream is for.
    """
    return int.from_bytes(hashlib.sha256(f"{what} {seed}".encode()).digest()[:4])
