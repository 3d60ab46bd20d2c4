"""Transforms of raw batches to a likelihood's support: levels scaled, dequantised or binarised."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

Uniform = Callable[[Tensor], Tensor]


def transform_of_values(data: Any, prepared: Any, uniform: Uniform) -> tuple[nn.Module, str]:
    """The transform from raw values to a likelihood's support, and its description.

    A `DataContract` has the attributes of both arguments.

    Args:
        data: An object with `support`, `levels` and `units`, such as a `Dataset`.
        prepared: An object with `likelihood_support`, `binarisation` and `dequantise`, such as a
            `PreparedData`.
        uniform: Draws uniform numbers of the shape of a batch.
    """
    if prepared.likelihood_support in ("integers", "counts"):
        return nn.Identity(), "as they are"
    levels = data.levels
    top = 1 if levels is None else levels - 1
    scale, p = Scale(top), "v" if levels is None else f"v / {top}"
    if prepared.binarisation == "threshold":
        return nn.Sequential(scale, Threshold()), f"binarised, 1 where {p} >= 0.5"
    if prepared.binarisation is not None:
        when = "once" if prepared.binarisation == "static" else "anew at each visit"
        how = f"binarised {when}, Bernoulli({p})"
        return nn.Sequential(scale, DrawBernoulli(uniform)), how
    if levels is None and data.support == "real":
        how = "" if data.units.identity else f"; networks read them scaled ({data.units.kind})"
        return nn.Identity(), f"in their own units{how}"
    if levels is None:
        return scale, "as they are"
    if prepared.dequantise and prepared.likelihood_support == "unit":
        how = f"dequantised anew at each visit, (v + u) / {levels} with u ~ Uniform(0, 1)"
        return Dequantize(levels, uniform), how
    return scale, f"scaled to [0, 1], {p}"


def hashed_uniform(v: Real[Tensor, " batch *event"]) -> Float[Tensor, " batch *event"]:
    """u ~ Uniform{0, 1, ..., 2^24 - 1} / 2^24, independently for each element of v.

    The generator draws two 32-bit keys for each row; an integer hash of the element's position and
    the keys gives the rest: two rounds of xor-shift and multiplication with the smallest known
    bias for two multiplications. A generator draws sequentially, which on a CPU costs more than a
    small network's forward pass; a compiler fuses this arithmetic with its consumer.

    Args:
        v: Only its shape and device are used.

    References:
        Hash function prospector (Wellons, 2018), constants of the lowbias32 function,
        https://github.com/skeeto/hash-prospector
    """
    keys = torch.randint(-(2**31), 2**31, (len(v), 2), dtype=torch.int32, device=v.device)
    position = torch.arange(math.prod(v.shape[1:]), dtype=torch.int32, device=v.device)
    h = _hash(_hash(position ^ keys[:, :1]) + keys[:, 1:])
    # 24 bits: each value is exact in float32, and none rounds to 1.
    return (_shift_right(h, 8).to(torch.float32) * 2.0**-24).view(v.shape)


def _hash(h: Tensor) -> Tensor:
    """A bijection of 32-bit integers that flips each bit of the result half of the time."""
    h = h ^ _shift_right(h, 16)
    h = h * 0x7FEB352D
    h = h ^ _shift_right(h, 15)
    h = h * (0x846CA68B - 2**32)  # As a signed integer.
    return h ^ _shift_right(h, 16)


def _shift_right(h: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; PyTorch fills with the sign."""
    return (h >> bits) & (2 ** (32 - bits) - 1)


class Scale(nn.Module):
    """x = v / top, as floats; a top of 1 leaves the values unchanged."""

    def __init__(self, top: int = 1) -> None:
        super().__init__()
        self.top = top

    def forward(self, v: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # Not the default dtype: a draw with the same seed must be the same under any of them.
        return v.to(torch.float32) / self.top


class Dequantize(nn.Module):
    """x = (v + u) / levels with u ~ Uniform(0, 1), redrawn at each call.

    References:
        A note on the evaluation of generative models (Theis et al., 2016), section 3.1,
        https://arxiv.org/abs/1511.01844
    """

    def __init__(self, levels: int, uniform: Uniform) -> None:
        super().__init__()
        self.levels = levels
        self.uniform = uniform

    def forward(self, v: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        v = v.to(torch.float32)
        x = (v + self.uniform(v)) / self.levels
        # Rounding reaches 0 and 1, where densities on the open interval may be infinite.
        smallest = torch.finfo(x.dtype).eps
        return x.clamp(smallest, 1 - smallest)


class DrawBernoulli(nn.Module):
    """x ~ Bernoulli(p), redrawn at each call: 1 where u < p with u ~ Uniform(0, 1)."""

    def __init__(self, uniform: Uniform) -> None:
        super().__init__()
        self.uniform = uniform

    def forward(self, p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self.uniform(p) < p).to(p.dtype)


class Threshold(nn.Module):
    """x = 1 where p >= 1/2, else 0."""

    def forward(self, p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (p >= 0.5).to(p.dtype)
