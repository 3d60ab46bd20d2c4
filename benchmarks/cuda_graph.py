"""Plain PyTorch whose whole step is one CUDA graph: what a patient person writes for a GPU."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.plain_torch import ByHand, binarised

# Steps before the graph is captured, as torch asks for: libraries set themselves up in them.
WARM_UP_STEPS = 3


class ByHandCudaGraph(ByHand):
    """Gather, binarise, forward, backward and Adam, recorded once and replayed each step.

    The graph reads its rows at a position that it moves on by itself, so that a step is one replay
    and nothing else. Without CUDA the same step is run as it is.
    """

    title: ClassVar[str] = "PyTorch by hand, one CUDA graph a step"

    def prepare(self) -> None:
        """Build what the graph reads and writes in place, and capture it."""
        super().prepare()
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=self.setting.lr,
            fused=True,
            capturable=self.device.type == "cuda",
        )
        self.order = torch.arange(len(self.images), device=self.device)
        batch_size = min(self.setting.batch_size, len(self.images))
        self.offsets = torch.arange(batch_size, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.total = torch.zeros((), device=self.device)
        self.replay: Callable[[], object] = self._whole_batch
        if self.device.type == "cuda":
            self.replay = self._captured()

    def run_epoch(self) -> float | None:
        """A shuffled pass: a replay for each whole batch, then the last one eagerly."""
        self.order.copy_(torch.randperm(len(self.images), device=self.device))
        self.position.zero_()
        self.total.zero_()
        batches, last = divmod(len(self.images), len(self.offsets))
        for _ in range(batches):
            self.replay()
        if last:
            self._step(self.order[-last:])
        return float(self.total) / len(self.images)

    def _whole_batch(self) -> None:
        self._step(self.order.index_select(0, self.offsets + self.position))
        self.position += len(self.offsets)

    def _step(self, rows: Tensor) -> None:
        loss = self.network(binarised(self.images, rows), self.noise(len(rows)))
        # None at capture, so that the graph's own memory holds the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach() * len(rows)

    def _captured(self) -> Callable[[], object]:
        # On a stream of its own, as capture will be; `position` goes back to the start each time.
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self.position.zero_()
                self._whole_batch()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.position.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._whole_batch()
        return graph.replay
