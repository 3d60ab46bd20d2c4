"""Poisson variables of any finite rate."""

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor


class Poisson(dist.Poisson):
    """Poisson(lambda), whose draws are right for every finite rate."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return poisson_draws(self.rate.expand(self._extended_shape(torch.Size(sample_shape))))


def poisson_draws(rate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Poisson draws of any finite rate: torch's of 1e19 is -9e18, the smallest 64-bit integer.

    At a rate of 1e15 the standard deviation is below the spacing of float32's numbers.
    """
    return torch.where(rate < 1e15, torch.poisson(rate.clamp(max=1e15)), rate.round())
