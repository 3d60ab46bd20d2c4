"""A network's outputs as a direction."""

import torch
from jaxtyping import Float
from torch import Tensor

# Shorter vectors have no direction: the gradient of h / |h| is 1 / |h|.
_SHORTEST = 1e-6


def unit_vector(h: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """h / |h|, of length 1 to rounding; the first axis where h is 0 but for 1e-6.

    The gradient is finite everywhere, and 0 there.
    """
    # In float64 neither do the squares of large outputs overflow, nor those of small ones vanish.
    wide = h.double()
    first = (torch.arange(h.shape[-1], device=h.device) == 0).to(wide.dtype)
    # Before the division, so that its gradient is not nan where it is not used.
    safe = torch.where(wide.square().sum(-1, keepdim=True) > _SHORTEST**2, wide, first)
    return (safe / safe.norm(dim=-1, keepdim=True)).to(h.dtype)
