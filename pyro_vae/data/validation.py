"""Validation of arrays: dtype, value range and support."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.missing import REMEDY, missing_allowed
from pyro_vae.data.nouns import describe_positions

Support = Literal["binary", "integers", "counts", "unit", "real"]

# Kinds of data, by which a model file chooses a default likelihood: see `kind_of`.
Kind = Literal["binary", "grey", "levels", "counts", "unit", "real"]

SUPPORTS = {
    "binary": "0 or 1",
    "integers": "whole numbers from 0 to levels - 1",
    "counts": "whole numbers, 0 or more",
    "unit": "numbers in [0, 1]",
    "real": "finite numbers",
}

# The largest value of float32.
LARGEST = torch.finfo(torch.float32).max

# Values checked at a time: finding fractions needs a copy.
_BLOCK_VALUES = 2**22

# uint8 that stay below this would be almost black images of 256 levels: more likely they are
# counts, or images of fewer levels.
_DARK_IMAGE_MAX = 64


def kind_of(support: str, levels: int | None, rows: Real[Tensor, " n *event"]) -> Kind:
    """Classify data: the support, except "levels" for integers and "grey" for grey images.

    Single-channel images of levels or values in [0, 1] are grey, like the digits, if
    Bernoulli(grey level) draws keep most of their information: the draw causes less than half of
    the variance of the binarised pixels, mean p (1 - p) < m (1 - m) / 2 with m the mean of p.
    Photographs do not satisfy this.

    Args:
        support: The support of the data.
        levels: Number of levels of integers.
        rows: Some of the data.
    """
    if levels == 2:
        return "binary"
    if support in ("integers", "unit") and rows.dim() == 4 and rows.shape[1] == 1:
        p = rows.double() / ((levels or 2) - 1)
        mean = p.nanmean()
        if (p * (1 - p)).nanmean() < mean * (1 - mean) / 2:
            return "grey"
    kind: Any = "levels" if support == "integers" else support
    return kind


def as_tensor(array: np.ndarray | Tensor, what: str, *, copy: bool = True) -> Tensor:
    """Convert an array to a CPU tensor of integers, float32 or float64."""
    if isinstance(array, Tensor):
        if array.is_meta:
            raise ValueError(f"{what} is on the meta device, whose tensors hold no numbers.")
        if array.is_complex() or array.layout != torch.strided:
            raise ValueError(
                f"{what} must be a dense tensor of booleans, integers or floats, "
                f"got {array.dtype} in layout {array.layout}."
            )
        array = array.detach().cpu()
        if array.is_floating_point():
            return array if array.dtype == torch.float64 else array.to(torch.float32)
        # torch has few operations on booleans and larger unsigned integers.
        return as_tensor(array.numpy(), what, copy=False)
    if np.ma.is_masked(array) and missing_allowed():
        dtype = array.dtype if array.dtype.kind == "f" else np.float64
        return as_tensor(np.ma.filled(array.astype(dtype), np.nan), what, copy=False)
    if np.ma.is_masked(array):
        count = int(np.ma.getmaskarray(array).sum())
        raise ValueError(
            f"{what} has {count:,} masked values: fill them in, leave out their rows or "
            f"columns, or {REMEDY}."
        )
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} must hold booleans, integers or floats, got an array of dtype {array.dtype}."
        )
    floats = np.float64 if array.dtype.itemsize > 4 else np.float32
    dtype = {"b": np.uint8, "f": floats}.get(array.dtype.kind, array.dtype.newbyteorder("="))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        dtype = np.int32 if array.dtype.itemsize == 2 else np.int64
        if array.max(initial=0) > np.iinfo(np.int64).max:
            raise ValueError(f"{what} holds whole numbers of 2^63 or more: give them as floats.")
    # Values too large for float64 become infinite and are refused later.
    with np.errstate(over="ignore"):
        # torch does not accept read-only arrays.
        return torch.from_numpy(
            array.astype(dtype, order="C", copy=copy or not array.flags.writeable)
        )


@dataclass(frozen=True)
class ValueRange:
    """The range of some values.

    Args:
        low: The minimum of those that are not NaN; infinite if all are.
        high: The maximum of those that are not NaN; minus infinity if all are.
        whole: Whether all values that are not NaN are whole numbers.
        missing: Whether a value is NaN.
    """

    low: float | int
    high: float | int
    whole: bool
    missing: bool = False

    @classmethod
    def from_values(cls, values: Any) -> "ValueRange":
        """The range of a non-empty tensor, or of rows on disk or sparse rows."""
        if not isinstance(values, Tensor):
            return values.value_range
        rows = max(1, _BLOCK_VALUES // max(1, values[:1].numel()))
        return cls.union(cls._from_block(block) for block in values.split(rows))

    @classmethod
    def _from_block(cls, values: Tensor) -> "ValueRange":
        low, high = values.aminmax()
        if values.is_floating_point() and bool(low.isnan()):
            observed = values[~values.isnan()]
            if len(observed) == 0:
                return cls(math.inf, -math.inf, True, missing=True)
            return replace(cls._from_block(observed), missing=True)
        fractions = values.is_floating_point() and bool((values != values.round()).any())
        return cls(low.item(), high.item(), not fractions)

    @classmethod
    def union(cls, ranges: Iterable["ValueRange"]) -> "ValueRange":
        """The smallest range that contains all of one or more ranges."""
        first, *others = ranges
        low, high = first.low, first.high
        for other in others:
            low, high = min(low, other.low), max(high, other.high)
        every = (first, *others)
        return cls(low, high, all(e.whole for e in every), any(e.missing for e in every))


def native_support(
    value_range: ValueRange,
    dtypes: Sequence[torch.dtype],
    levels: int | None,
    name: str,
    event_shape: Sequence[int] = (),
) -> tuple[str, int | None]:
    """Infer the support from the dtype and range of all splits.

    Args:
        value_range: The range of all splits together.
        dtypes: The dtype of each split.
        levels: Number of levels of integers, if given.
        name: The name of the data in messages.
        event_shape: The event shape: integer images other than uint8 are not taken for counts.

    Returns:
        The support, and the number of levels of integers.

    Raises:
        ValueError: If the support is ambiguous or not allowed.
    """
    types = set(dtypes)
    if len(types) > 1:
        raise ValueError(
            f"the splits of {name} must have one type, got {sorted(map(str, types))}."
        )
    if levels is not None:
        return "integers", levels
    low, high = value_range.low, value_range.high
    if value_range.missing and not missing_allowed():
        # Refused later, by the message about NaN.
        return "real", None
    whole = low >= 0 and value_range.whole
    if whole and high <= 1:
        return "binary", None
    if torch.uint8 in types:
        if high < _DARK_IMAGE_MAX:
            raise ValueError(
                f"{name} holds uint8 from {low} to {high}, which may be grey levels or counts: "
                f"say which with levels (--data.levels {high + 1}, or 256) or support "
                "(--data.support counts)."
            )
        return "integers", 256
    if dtypes[0].is_floating_point:
        if whole and high < 2**53:
            raise ValueError(
                f"{name} holds floats without a fraction, from {low:g} to {high:g}, which may be "
                f"grey levels, counts or real: say which with levels (--data.levels "
                f"{high + 1:.0f}) or support (--data.support counts, --data.support real)."
            )
        return ("unit" if low >= 0 and high <= 1 else "real"), None
    if low < 0:
        raise ValueError(
            f"integers must be 0 or more (levels or counts), but {name} goes down to {low}; give "
            "real data as floats, or say so with support (--data.support real)."
        )
    if len(event_shape) == 3:
        top = max(256, 1 << int(high).bit_length())
        more = ", or 65536" if 256 < top < 65536 else ""
        raise ValueError(
            f"{name} holds images of whole numbers from {low} to {high}, which may be grey "
            f"levels, counts or measurements: say which with levels (--data.levels {top}{more}) "
            "or support (--data.support counts, --data.support real)."
        )
    return "counts", None


def locate_values(
    values: Any, condition: Callable[[Tensor], Tensor]
) -> tuple[Tensor, list[int], float | int | None]:
    """Locate the values for which a condition holds, block by block.

    Args:
        values: `(n, *event_shape)`: a tensor, rows on disk or sparse rows.
        condition: Maps a block of rows to a mask.

    Returns:
        Their number in each column or channel, their rows, and the first of them.
    """
    event = tuple(values.shape[1:])
    counts = torch.zeros((event or (1,))[0], dtype=torch.int64)
    rows: list[int] = []
    example = None
    step = max(1, _BLOCK_VALUES // max(1, math.prod(event)))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        mask = condition(block)
        if mask.any():
            counts += mask.reshape(len(mask), len(counts), -1).sum((0, 2))
            rows += (start + mask.flatten(1).any(1).nonzero().flatten()).tolist()
            example = block[mask][0].item() if example is None else example
    return counts, rows, example


def is_finite(value_range: ValueRange, missing: bool = False) -> bool:
    """Whether all values are finite in float32, or NaN if those are `missing`."""
    if value_range.missing and not missing:
        return False
    return float(value_range.low) >= -LARGEST and float(value_range.high) <= LARGEST


def not_finite(x: Tensor, missing: bool = False) -> Tensor:
    """A mask of the values that are not finite in float32; without NaN if those are `missing`."""
    return x.abs() > LARGEST if missing else ~(x.abs() <= LARGEST)


def narrowest_type(dataset: Any, highest: float) -> torch.dtype:
    """The type in which a data set with this largest value is kept."""
    if dataset.support == "unit":
        return torch.float32
    if dataset.support == "real":
        return torch.float64 if dataset.units.double else torch.float32
    highest = highest if dataset.levels is None else dataset.levels - 1
    if dataset.missing:
        # Only floats can hold NaN.
        return torch.float32 if highest < 2**24 else torch.float64
    types = (torch.uint8, torch.int16, torch.int32, torch.int64)
    return next(dtype for dtype in types if highest <= torch.iinfo(dtype).max)


def check_range(
    value_range: ValueRange,
    support: str,
    levels: int | None,
    what: str,
    describe: Callable[[Callable[[Tensor], Tensor]], str],
) -> None:
    """Check that the range of values is in a support.

    Args:
        value_range: The range.
        support: One of `SUPPORTS`.
        levels: Number of levels of integers.
        what: The name of the values in messages.
        describe: A function that describes where a condition holds.

    Raises:
        ValueError: If it is not; the message says where.
    """
    low, high = float(value_range.low), float(value_range.high)
    lowest = -math.inf if support == "real" else 0
    top = math.inf if support in ("counts", "real") else (levels or 2) - 1
    if low < lowest or high > top:
        grey = support == "unit" and low >= 0 and 128 < high <= 255
        raise ValueError(
            f"{what} must hold {support} data, between {lowest} and {top}, got values from "
            f"{low:g} to {high:g}: {describe(lambda x: (x < lowest) | (x > top))}"
            f"{'; grey levels are unit data as x / 255' if grey else ''}."
        )
    if support in ("binary", "integers", "counts") and not value_range.whole:
        raise ValueError(
            f"{what} must hold {support} data ({SUPPORTS[support]}), got fractions: "
            f"{describe(lambda x: (x - x.round()).abs() > 0)}; round them, or give the data as "
            "real (--data.support real, without levels)."
        )


def check_support(
    values: Any, support: str, levels: int | None, *, name: str, event_names: Sequence[str] = ()
) -> None:
    """Check that new values are in the support of a model's data.

    Args:
        values: `(n, *event_shape)`: a tensor, rows on disk or sparse rows.
        support: One of `SUPPORTS`.
        levels: Number of levels of integers.
        name: Their name in messages.
        event_names: The names of the elements.

    Raises:
        ValueError: If they are not; the message gives counts, columns and rows.
    """
    counts, rows, example = locate_values(values, lambda x: outside_support(x, support, levels))
    if example is None:
        return
    allowed = (
        f"0 to {levels - 1}, the levels" if levels else f"{SUPPORTS[support]}, the {support} data"
    )
    fractions = (
        f" Values in [0, 1] are levels as round({levels - 1} * x)."
        if levels and 0 < example < 1
        else ""
    )
    raise ValueError(
        f"{name} holds values outside {allowed} that the model was trained on, such as "
        f"{example:g}: {describe_positions(counts, rows, values.shape[1:], event_names)}."
        f"{fractions}"
    )


def outside_support(x: Tensor, support: str, levels: int | None) -> Tensor:
    """A mask of the values outside a support; NaN is in it within `allow_missing`."""
    outside = x.isinf() if missing_allowed() else ~x.isfinite()
    if support != "real":
        outside |= x < 0
        if support != "counts":
            outside |= x > (levels or 2) - 1
    if support in ("binary", "integers", "counts") and x.is_floating_point():
        outside |= (x - x.round()).abs() > 0
    return outside
