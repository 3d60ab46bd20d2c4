"""A function of tensors on a GPU, launched as a whole."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Calls before the capture, on a stream of their own, as PyTorch's notes on CUDA graphs ask for.
_WARM_UP_CALLS = 3


def captured(
    function: Callable[..., tuple[Tensor, ...]],
    examples: list[Tensor],
    go_back: Callable[[], None],
) -> Callable[..., tuple[Tensor, ...]]:
    """Capture a function into a CUDA graph: one launch instead of one for each kernel.

    A replay draws new noise from the global stream, and reads parameters and buffers where they were
    when it was captured. Nothing in it may wait for the host.

    Args:
        function: Of tensors to tensors; it may change others in place.
        examples: Its arguments, of the shapes it will always have.
        go_back: Undoes what a call has changed, and rewinds the noise.

    Returns:
        A function of the arguments. What it returns is overwritten by the next call.

    References:
        Accelerating PyTorch with CUDA Graphs (PyTorch, 2021),
        https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
    """
    arguments = [example.clone() for example in examples]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_CALLS):
            function(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs: Any = function(*arguments)
    go_back()

    def replay(*inputs: Tensor) -> tuple[Tensor, ...]:
        for argument, value in zip(arguments, inputs, strict=True):
            argument.copy_(value, non_blocking=True)
        graph.replay()
        return tuple(outputs)

    return replay
