"""Cheap uniform noise for every element of a batch, from two random numbers a row."""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor


def hashed_uniform(v: Real[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
    """u ~ Uniform{0, 1, ..., 2^24 - 1} / 2^24, independently for each element of v.

    The generator gives each row two 32-bit keys; an integer hash of the element's place and the keys
    gives the rest: two rounds of xor-shift and multiplication, the first of which has the least bias
    known for two multiplications. A generator draws its numbers one after the other, which on a CPU
    costs more than a small network's forward pass; this is arithmetic that a compiler fuses with what
    reads it.

    Args:
        v: Only its shape and device matter.

    References:
        Hash function prospector (Wellons, 2018), constants of the lowbias32 function,
        https://github.com/skeeto/hash-prospector
    """
    elements = math.prod(v.shape[1:])
    keys = torch.randint(-(2**31), 2**31, (len(v), 2), dtype=torch.int32, device=v.device)
    before, between = keys[:, :1], keys[:, 1:]
    place = torch.arange(elements, dtype=torch.int32, device=v.device)
    h = _mixed(place ^ before) + between
    h = _mixed(h)
    # 24 bits: every one of them is exact in float32, and none rounds to 1.
    return (_right(h, 8).to(torch.float32) * 2.0**-24).view(v.shape)


def _mixed(h: Tensor) -> Tensor:
    """A bijection of 32-bit integers that flips each bit of the result half of the time."""
    h = h ^ _right(h, 16)
    h = h * 0x7FEB352D
    h = h ^ _right(h, 15)
    h = h * (0x846CA68B - 2**32)  # As a signed integer.
    return h ^ _right(h, 16)


def _right(h: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where PyTorch's shift fills with the sign."""
    return (h >> bits) & (2 ** (32 - bits) - 1)
