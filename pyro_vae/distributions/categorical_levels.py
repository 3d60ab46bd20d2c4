"""Categorical distributions of levels, which are numbers and so have a mean."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor


class CategoricalLevels(dist.Categorical):
    """Categorical(x | softmax(logits)) for the levels x = 0, ..., levels - 1.

    Torch's with moments: its own are nan, for categories have none.
    """

    def _expectation(self, power: int) -> Tensor:
        levels = torch.arange(self.probs.shape[-1], device=self.probs.device)
        return self.probs @ (levels.to(self.probs.dtype) ** power)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """sum_k k p_k."""
        return self._expectation(1)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """sum_k k^2 p_k - mean^2."""
        return self._expectation(2) - self.mean.square()
