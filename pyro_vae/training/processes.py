"""Several processes that train one model: what they tell each other."""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

# A process that has not answered for so long is taken to have died.
_TIMEOUT = timedelta(minutes=10)


class LostProcessError(RuntimeError):
    """Another of the processes that train together has ended or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; one alone has nobody to talk to.

    Args:
        rank: Which it is, from 0. The first alone writes.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> "Processes":
        """Join those that `torchrun` started; alone, without it.

        They talk through gloo on CPUs and NCCL on GPUs.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        import torch.distributed as dist

        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            with _lost_processes_named():
                dist.init_process_group(backend, timeout=_TIMEOUT)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def add(self, values: Tensor) -> None:
        """Make of each process's tensor the sum of all.

        Raises:
            LostProcessError: If one of them does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with _lost_processes_named():
                dist.all_reduce(values)

    def follow_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values.

        Raises:
            LostProcessError: If one of them does not answer.
        """
        if self.size > 1:
            import torch.distributed as dist

            with _lost_processes_named(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def any(self, *wishes: bool, device: torch.device) -> tuple[bool, ...]:
        """Whether any of the processes has a wish, for each of them."""
        if self.size == 1:
            return wishes
        counts = torch.tensor([float(wish) for wish in wishes], device=device)
        self.add(counts)
        return tuple(count > 0 for count in counts.tolist())

    def leave(self) -> None:
        """End the conversation."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def _lost_processes_named() -> "Iterator[None]":
    try:
        yield
    # torch.distributed's errors are of these two, with a page of addresses each.
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(
            "another of the processes that train together has ended, or cannot be reached."
        ) from error
