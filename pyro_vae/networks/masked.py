"""A masked perceptron: numbers for each element that read the elements before it alone."""

import math
from bisect import bisect_left

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedMLP(nn.Module):
    """g_i(x_<i, c) = S_i x + V_i relu(W x + A c + b), with masks on S, W and V that hide x_i, x_i+1, ...

    One hidden layer and a skip. Hidden unit k reads the first d_k elements, d spread evenly over
    1, ..., elements - 1, and gives to those from d_k on. The context c goes to every hidden unit.

    Pyro's ConditionalAutoRegressiveNN gives the same; this one can be run element after element at the
    cost of one pass for all of them, and has no lower limit on its width.

    Args:
        elements: The number of elements of x.
        context: The length of c.
        hidden: The number of hidden units.

    Raises:
        ValueError: If `hidden` is below 1.

    References:
        MADE (Germain et al., 2015), https://arxiv.org/abs/1502.03509; the recursion: The Neural
        Autoregressive Distribution Estimator (Larochelle & Murray, 2011),
        https://proceedings.mlr.press/v15/larochelle11a.html
    """

    degrees: Int[Tensor, " hidden"]
    order: Int[Tensor, " elements"]

    def __init__(self, elements: int, context: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}.")
        self.context = nn.Linear(context, hidden)
        bound = 1 / math.sqrt(max(elements, 1))
        self.read = nn.Parameter(torch.empty(hidden, elements).uniform_(-bound, bound))
        bound = 1 / math.sqrt(hidden)
        self.give = nn.Parameter(torch.empty(elements, hidden).uniform_(-bound, bound))
        self.skip = nn.Parameter(torch.zeros(elements, elements))
        # A single element has nothing before it: its units read nothing and give the context's part.
        first, last = min(1, elements - 1), elements - 1
        # On the CPU even where a module is built on the meta device: the edges are plain numbers.
        degrees = torch.linspace(first, last, hidden, device="cpu").round().long().tolist()
        # Units edges[i] to edges[i + 1] read just the first i elements.
        self.edges = [bisect_left(degrees, i) for i in range(elements + 1)]
        self.register_buffer("degrees", torch.tensor(degrees), persistent=False)
        self.register_buffer("order", torch.arange(elements), persistent=False)

    def start(self, context: Float[Tensor, "*batch context"]) -> Float[Tensor, "*batch hidden"]:
        """A c + b, what hidden units have before any element."""
        return self.context(context)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, V and S, masked."""
        read = self.read * (self.order < self.degrees[:, None])
        give = self.give * (self.order[:, None] >= self.degrees)
        return read, give, self.skip.tril(-1)

    def forward(
        self, x: Float[Tensor, "*#batch elements"], start: Float[Tensor, "*#batch hidden"]
    ) -> Float[Tensor, "*broadcast elements"]:
        """g for all elements, in one pass."""
        read, give, skip = self.weights()
        return F.linear(F.relu(start + F.linear(x, read)), give) + F.linear(x, skip)
