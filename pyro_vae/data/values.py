"""What the values of an array are: their type, the shape of a datum, their range and their support."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

Support = Literal["binary", "integers", "counts", "unit", "real"]

# What the values of each support are.
SUPPORTS = {
    "binary": "0 or 1",
    "integers": "whole numbers from 0 to levels - 1",
    "counts": "whole numbers, 0 or more",
    "unit": "numbers in [0, 1]",
    "real": "finite numbers",
}

# Ranges are taken over so many values at a time: a float needs a copy of them to find fractions.
_VALUES_AT_A_TIME = 2**22

# uint8 that stay below this many levels of 256 would be pictures almost black: more likely they are
# counts, or pictures of fewer levels.
_DARKEST_PICTURES = 64

# Types on which torch has few operations, and the one that takes their place.
_PLAIN_INTEGERS = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int64,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


def as_tensor(array: np.ndarray | Tensor, what: str, *, copy: bool = True) -> Tensor:
    """The array as a tensor of integers, float32 or float64, on the CPU."""
    if isinstance(array, Tensor):
        if array.is_complex() or array.layout != torch.strided:
            raise ValueError(
                f"{what} must be a dense tensor of booleans, integers or floats, "
                f"got {array.dtype} in layout {array.layout}."
            )
        array = array.detach().cpu()
        if array.is_floating_point():
            return array if array.dtype == torch.float64 else array.to(torch.float32)
        return array.to(_PLAIN_INTEGERS.get(array.dtype, array.dtype))
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} must hold booleans, integers or floats, got an array of dtype {array.dtype}."
        )
    floats = np.float64 if array.dtype.itemsize > 4 else np.float32
    dtype = {"b": np.uint8, "f": floats}.get(array.dtype.kind, array.dtype.newbyteorder("="))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        dtype = np.int64
    # What float64 cannot hold becomes infinite here and is refused with the other infinities.
    with np.errstate(over="ignore"):
        # torch takes no array that is not to be written.
        return torch.from_numpy(
            array.astype(dtype, order="C", copy=copy or not array.flags.writeable)
        )


def as_events(values: Tensor, what: str, *, new: bool = False) -> Tensor:
    """The values with an event shape of `(d,)` or `(channels, height, width)`.

    Args:
        values: The values.
        what: What to call them.
        new: Whether they are data for a trained model, of which a few may look like labels.
    """
    shape = tuple(values.shape)
    event_shape(shape, what)
    if not new and len(shape) == 2 and are_labels(values):
        raise labels_error(shape, what)
    return values.unsqueeze(1) if len(shape) == 3 else values


def event_shape(shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    """The shape of a datum, `(d,)` or `(channels, height, width)`, of an array of this shape.

    Raises:
        ValueError: If it is the shape of no data.
    """
    allowed = "(n, d), (n, height, width) or (n, 1 or 3 channels, height, width)"
    if len(shape) < 2:
        raise ValueError(f"{what} looks like labels: its shape must be {allowed}, got {shape}.")
    if len(shape) == 3 and shape[-1] in (1, 3):
        raise ValueError(
            f"{what} looks like a single picture with its channels last: its shape must be {allowed}, "
            f"got {shape} (as narrow pictures it would be {(shape[0], 1, *shape[1:])})."
        )
    if len(shape) == 3:
        return (1, *shape[1:])
    if len(shape) == 2 or (len(shape) == 4 and shape[1] in (1, 3)):
        return shape[1:]
    if len(shape) == 4 and shape[-1] in (1, 3):
        raise ValueError(
            f"{what} seems to have its channels last, shape {shape}: move that axis to the second "
            "place, with numpy.moveaxis(array, -1, 1)."
        )
    raise ValueError(f"the shape of {what} must be {allowed}, got {shape}.")


def labels_error(shape: tuple[int, ...], what: str) -> ValueError:
    """What to say of a matrix that `are_labels`."""
    return ValueError(
        f"{what} looks like labels: it has shape {shape} and "
        f"{'one whole number' if shape[1] == 1 else 'a single 1'} in each row."
    )


def are_labels(values: Tensor) -> bool:
    """Whether a matrix is a column of integers, or has 0 everywhere but for a single 1 in each row."""
    if values.numel() == 0:
        return False
    if values.shape[1] == 1:
        return not values.is_floating_point()
    low, high = values.aminmax()
    return bool(
        low == 0 and high == 1 and ((values != 0).sum(1) == 1).all() and (values.sum(1) == 1).all()
    )


@dataclass(frozen=True)
class Extent:
    """From where to where values reach, and whether they are whole numbers.

    Args:
        low: The lowest; NaN if there is one among them.
        high: The highest; NaN if there is one among them.
        whole: Whether none has a fraction.
    """

    low: float | int
    high: float | int
    whole: bool

    @classmethod
    def of(cls, values: Real[Tensor, "n ..."]) -> "Extent":
        """The extent of values, of which there must be one."""
        rows = max(1, _VALUES_AT_A_TIME // max(1, values[:1].numel()))
        return cls.joined(cls._of_part(part) for part in values.split(rows))

    @classmethod
    def _of_part(cls, values: Tensor) -> "Extent":
        low, high = values.aminmax()
        fractions = values.is_floating_point() and bool((values != values.round()).any())
        return cls(low.item(), high.item(), not fractions)

    @classmethod
    def joined(cls, parts: Iterable["Extent"]) -> "Extent":
        """The extent of all parts together, of which there must be one."""
        joined: Extent | None = None
        for part in parts:
            joined = part if joined is None else joined._and(part)
        assert joined is not None
        return joined

    def _and(self, other: "Extent") -> "Extent":
        # NaN is not equal to itself, and stays whichever side it is on.
        low = self.low if self.low <= other.low or self.low != self.low else other.low
        high = self.high if self.high >= other.high or self.high != self.high else other.high
        return Extent(low, high, self.whole and other.whole)


def native_support(
    extent: Extent, dtypes: Sequence[torch.dtype], levels: int | None, name: str
) -> tuple[str, int | None]:
    """The support that the splits' common type and values say, and the levels of integers.

    Args:
        extent: That of all splits together.
        dtypes: The type of each split.
        levels: The levels of integers, if they were given.
        name: What the set is called, for messages.

    Raises:
        ValueError: If it would be a guess, or there is no such support.
    """
    types = set(dtypes)
    if len(types) > 1:
        raise ValueError(
            f"the splits of {name} must have one type, got {sorted(map(str, types))}."
        )
    if levels is not None:
        return "integers", levels
    low, high = extent.low, extent.high
    floats = dtypes[0].is_floating_point
    whole = low >= 0 and extent.whole
    if whole and high <= 1:
        return "binary", None
    if torch.uint8 in types:
        if high < _DARKEST_PICTURES:
            raise ValueError(
                f"{name} holds uint8 from {low} to {high}, which may be grey levels or counts: say which "
                f"with levels (--data.levels {high + 1}, or 256) or support (--data.support counts)."
            )
        return "integers", 256
    if floats:
        if whole and high < 2**53:
            raise ValueError(
                f"{name} holds floats without a fraction, from {low:g} to {high:g}, which may be grey "
                f"levels, counts or real: say which with levels (--data.levels {high + 1:.0f}) or "
                "support (--data.support counts, --data.support real)."
            )
        return ("unit" if low >= 0 and high <= 1 else "real"), None
    if low < 0:
        raise ValueError(
            f"integers must be 0 or more (levels or counts), but {name} goes down to {low}; give real "
            "data as floats, or say so with support (--data.support real)."
        )
    return "counts", None
