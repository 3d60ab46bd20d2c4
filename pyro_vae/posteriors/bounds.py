"""Smooth bounds that keep what an encoder says within float32."""

from torch import Tensor
from torch.nn import functional as F

# Below this floor under concentrations, draws underflow.
MINIMUM_CONCENTRATION = 0.05
# e^20 and e^-20, with a scale of 5 about them, have squares and densities in float32.
LARGEST_LOG = 20.0
LARGEST_SCALE = 5.0


def bounded(value: Tensor, bound: float) -> Tensor:
    """b tanh(v / b): the value itself near 0, and within [-b, b]."""
    return bound * (value / bound).tanh()


def concentration(raw: Tensor) -> Tensor:
    """softplus(r + 1) + 0.05, about 1.4 at r = 0."""
    return F.softplus(raw + 1) + MINIMUM_CONCENTRATION
