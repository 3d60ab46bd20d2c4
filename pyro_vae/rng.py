"""Run a module in evaluation mode with an isolated random stream, and derive seeds."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(*programs: Callable[..., Any], seed: int | None = None) -> Iterator[None]:
    """Switch to evaluation mode without gradients; restore modes and random streams after it.

    Batch normalisation then uses its running statistics, and dropout drops nothing.

    Args:
        programs: Modules, or their methods, such as `vae.model`. Other functions are ignored.
        seed: The seed of a separate random stream, on the CPU and on the programs' device. None to
            draw from the global one.
    """
    owners = owners_of(*programs)
    modules = [module for owner in owners for module in owner.modules()]
    modes = [module.training for module in modules]
    devices = {p.device for owner in owners for p in owner.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if seed is not None:
            stack.enter_context(random_stream(seed, *devices))
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


@contextmanager
def random_stream(seed: int, *devices: torch.device) -> Iterator[None]:
    """Draw from a separate random stream; restore the global one after it.

    Args:
        seed: The seed of the stream.
        devices: The devices on which numbers are drawn, besides the CPU.
    """
    cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(cuda):
        # torch.manual_seed would seed devices that are not used, which takes longer.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        yield


def as_floats(x: Tensor) -> Tensor:
    """x in the default floating-point type; float64 is kept."""
    return x if x.dtype == torch.float64 else x.to(torch.get_default_dtype())


def owners_of(*programs: Callable[..., Any]) -> list[nn.Module]:
    """The modules among the programs, and those whose methods are."""
    owners = [getattr(program, "__self__", program) for program in programs]
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def exportable() -> AbstractContextManager[None]:
    """Disable validation of distributions during `torch.export`, which cannot branch on values."""
    exporting = torch.compiler.is_exporting()
    return pyro.validation_enabled(False) if exporting else nullcontext()


def check_device(*modules: nn.Module) -> None:
    """Check that modules have values, on the default device unless that is the CPU.

    Raises:
        ValueError: If a parameter is on the device "meta", or not on the default device, on which
            the module creates tensors.
    """
    default = torch.get_default_device().type
    for device in {p.device.type for module in modules for p in module.parameters()}:
        if device == "meta":
            raise ValueError(
                "parameters on the device 'meta' have no values: build under another device, such "
                "as torch.device('cpu'), or call to_empty and load a state_dict."
            )
        if default not in ("cpu", device):
            raise ValueError(
                f"parameters are on the device {device!r}, and new tensors on {default!r}: call "
                f"torch.set_default_device({device!r}), or move the module to {default!r}."
            )


def derive_seed(seed: int, what: str) -> int:
    """Derive the seed of a separate stream.

    torch's generator on the CPU uses only the low 32 bits of a seed: adding 2^32 or more gives the
    same numbers.

    Args:
        seed: A seed.
        what: The purpose of the stream.
    """
    return int.from_bytes(hashlib.sha256(f"{what} {seed}".encode()).digest()[:4])
