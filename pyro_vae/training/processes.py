"""Communication of several processes that train one model."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

# A process that does not answer within this time is taken to have died.
_TIMEOUT = timedelta(minutes=10)
# The most multiplications of a short step, each way: a third of a millisecond on one core.
SHORT_STEP = 2**23


class LostProcessError(RuntimeError):
    """Another of the processes that train together has ended or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together, or alone.

    Args:
        rank: Its rank. Only the process of rank 0 writes files.
        size: The number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> "Processes":
        """Join the processes that `torchrun` started, by gloo on CPUs and NCCL on GPUs."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        import torch.distributed as dist

        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            with _named_errors():
                dist.init_process_group(backend, timeout=_TIMEOUT)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def add(self, values: Tensor) -> None:
        """Sum a tensor over all processes, in place.

        Raises:
            LostProcessError: If one of them does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with _named_errors():
                dist.all_reduce(values)

    def follow_first(self, tensors: Sequence[Tensor]) -> None:
        """Copy the values of the first process to all others, in place.

        Raises:
            LostProcessError: If one of them does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with _named_errors(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def any(self, *flags: bool, device: torch.device) -> tuple[bool, ...]:
        """Whether any of the processes sets a flag, for each of them."""
        if self.size == 1:
            return flags
        counts = torch.tensor([float(flag) for flag in flags], device=device)
        self.add(counts)
        return tuple(count > 0 for count in counts.tolist())

    def leave(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    # torch.distributed raises these two, each with a page of addresses.
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(
            "another of the processes that train together has ended, or cannot be reached."
        ) from error


@contextmanager
def enough_threads(program: nn.Module, batch_size: int, most: int = 1) -> Iterator[None]:
    """Compute on few threads if a training step is too short to be divided.

    Threads would wait for one another: on a core that anything else uses, for milliseconds at each
    operation. Programs that multiply by their parameters more often than once an example, as
    convolutions do, keep their threads.

    Args:
        program: The program that is trained.
        batch_size: The number of examples per step.
        most: The number of threads of a short step.
    """
    parameters = list(program.parameters())
    work = batch_size * sum(parameter.numel() for parameter in parameters)
    before = torch.get_num_threads()
    if work <= SHORT_STEP and all(parameter.dim() <= 2 for parameter in parameters):
        torch.set_num_threads(max(1, min(most, before)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_enough_threads(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of `Training` compute on `enough_threads`."""

    @functools.wraps(run)
    def wrapped(training: Any, *args: Any, **kwargs: Any) -> Any:
        with enough_threads(training.program, training.batch_size):
            return run(training, *args, **kwargs)

    return wrapped


def core_to_spare(training: Any) -> AbstractContextManager[None]:
    """Compute on `enough_threads`, and on one less than there are, for a process beside this."""
    most = torch.get_num_threads() - 1
    return enough_threads(training.program, training.batch_size, most)
