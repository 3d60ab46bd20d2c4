"""Communication of several processes that train one model."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

# A process that does not answer within this time is taken to have died.
_TIMEOUT = timedelta(minutes=10)


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
