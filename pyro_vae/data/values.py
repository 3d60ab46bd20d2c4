"""What the values of an array are: their type, the shape of a datum, their range and their support."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.columns import places

Support = Literal["binary", "integers", "counts", "unit", "real"]

# Kinds of data, by which a model file chooses a default likelihood: see `kind_of`.
Kind = Literal["binary", "grey", "levels", "counts", "unit", "real"]

# How the axes of an array of three axes are read, and where its channels are.
Layout = Literal["auto", "image", "series"]
Channels = Literal["auto", "first", "last"]

_Array = TypeVar("_Array", np.ndarray, Tensor)

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

# Images so low and wide are more likely series, a row a channel.
_LOW_IMAGE = 16
_WIDE_IMAGE = 8

# Rows whose values are checked at a time.
_ROWS_AT_A_TIME = 4096


def kind_of(support: str, levels: int | None, rows: Real[Tensor, " n *event"]) -> Kind:
    """The kind of data: the support, but "levels" for integers, and "grey" for grey images as of digits.

    Images of one channel, of levels or in [0, 1], are grey if a Bernoulli draw with p the grey level keeps
    most of what is in them: if the draw makes less than half of the variance of the binarised pixels,
    mean p (1 - p) < m (1 - m) / 2 with m the mean of p. Photographs are not.

    Args:
        support: That of the data.
        levels: The number of levels of integers.
        rows: Some of the data.
    """
    if levels == 2:
        return "binary"
    if support in ("integers", "unit") and rows.dim() == 4 and rows.shape[1] == 1:
        p = rows.double() / ((levels or 2) - 1)
        if (p * (1 - p)).mean() < p.mean() * (1 - p.mean()) / 2:
            return "grey"
    kind: Any = "levels" if support == "integers" else support
    return kind


def as_tensor(array: np.ndarray | Tensor, what: str, *, copy: bool = True) -> Tensor:
    """The array as a tensor of integers, float32 or float64, on the CPU."""
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
    if np.ma.is_masked(array):
        count = int(np.ma.getmaskarray(array).sum())
        raise ValueError(
            f"{what} has {count:,} masked values: fill them in, or leave out their rows or columns."
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
    # What float64 cannot hold becomes infinite here and is refused with the other infinities.
    with np.errstate(over="ignore"):
        # torch takes no array that is not to be written.
        return torch.from_numpy(
            array.astype(dtype, order="C", copy=copy or not array.flags.writeable)
        )


def as_events(values: Tensor, what: str, layout: Layout = "auto", *, new: bool = False) -> Tensor:
    """The values with an event shape of `(d,)`, `(channels, height, width)` or `(channels, length)`.

    Args:
        values: The values.
        what: What to call them.
        layout: What three axes are: see `event_shape`.
        new: Whether they are data for a trained model, of which a few may look like labels.
    """
    shape = tuple(values.shape)
    event = event_shape(shape, what, layout)
    if not new and len(shape) == 2 and are_labels(values):
        raise labels_error(shape, what)
    return values.reshape(shape[0], *event)


def event_shape(shape: tuple[int, ...], what: str, layout: Layout = "auto") -> tuple[int, ...]:
    """The shape of a datum of an array of this shape, whose channels, if it has any, are first.

    Args:
        shape: The array's.
        what: What it is called, for messages.
        layout: "image": `(n, height, width)` or `(n, channels, height, width)`. "series":
            `(n, channels, length)`. "auto": images, refused where the channels may be last.

    Raises:
        ValueError: If it is the shape of no data, or the channels may be last.
    """
    allowed = (
        "(n, d), (n, height, width), (n, channels, height, width), or with layout series "
        "(--data.layout series) (n, channels, length)"
    )
    if len(shape) < 2:
        raise ValueError(f"{what} looks like labels: its shape must be {allowed}, got {shape}.")
    if len(shape) == 2 or (len(shape) == 3 and layout == "series"):
        return shape[1:]
    if len(shape) == 3:
        height, width = shape[1:]
        # Two or four beside a small height may be a picture of a few pixels.
        single = width in (1, 3) or (width in (2, 4) and height >= _LOW_IMAGE)
        if layout == "auto" and single:
            raise ValueError(
                f"{what} looks like a single picture with its channels last: its shape must be "
                f"{allowed}, got {shape}. For pictures as narrow as that give layout image "
                f"(--data.layout image), which reads them as {(shape[0], 1, *shape[1:])}; for series "
                "layout series (--data.layout series --data.channels last)."
            )
        return (1, height, width)
    if len(shape) == 4 and layout != "series":
        if layout == "auto":
            _check_channels_first(shape, what)
        return shape[1:]
    raise ValueError(f"the shape of {what} must be {allowed}, got {shape}.")


def arranged(
    array: _Array, what: str, layout: Layout = "auto", channels: Channels = "auto"
) -> tuple[_Array, Layout]:
    """The array with its channels on the second axis, and the layout that `event_shape` takes.

    Args:
        array: Data of any shape.
        what: What they are called, for messages.
        layout: What three axes are.
        channels: Where the channels are; "auto": first, refused where they may be last.

    Raises:
        ValueError: If an option is unknown or does not fit the shape, or the channels may be last.
    """
    for name, word, words in (("layout", layout, Layout), ("channels", channels, Channels)):
        if word not in get_args(words):
            raise ValueError(f"{name} must be one of {', '.join(get_args(words))}, got {word!r}.")
    shape = tuple(array.shape)
    axes = 3 if layout == "series" else 4
    if channels != "auto" and len(shape) != axes:
        raise ValueError(
            f"channels (--data.channels {channels}) needs an array of {axes} axes, got {what} of shape "
            f"{shape}{'' if axes == 3 else '; of series, give layout series (--data.layout series)'}."
        )
    if channels == "last":
        array = array.movedim(-1, 1) if isinstance(array, Tensor) else np.moveaxis(array, -1, 1)
    elif channels == "auto" and len(shape) == axes == 4:
        _check_channels_first(shape, what)
    elif channels == "auto" and len(shape) == axes == 3 and shape[2] < shape[1]:
        raise ValueError(
            f"{what} seems to have its channels last, shape {shape}, more channels than positions "
            "otherwise: say where they are with channels (--data.channels last, or first)."
        )
    return array, "image" if layout == "auto" and len(shape) == 4 else layout


def layout_like(shape: tuple[int, ...], event: tuple[int, ...]) -> Layout:
    """The layout in which an array of this shape has data of this event shape; "auto" if there is none."""
    if shape[1:] == event and len(event) == 2:
        return "series"
    return "image" if event in (shape[1:], (1, *shape[1:])) else "auto"


def layout_notes(shape: tuple[int, ...], layout: Layout) -> tuple[str, ...]:
    """What to say of an array of this shape that is read as images but may be series."""
    if layout != "auto" or len(shape) != 3:
        return ()
    height, width = shape[1:]
    if height > _LOW_IMAGE or width < _WIDE_IMAGE * height:
        return ()
    series = f"if they are series of {height} channels: --data.layout series"
    return (f"taken as images of {height} x {width}; {series}",)


def _check_channels_first(shape: tuple[int, ...], what: str) -> None:
    """Raise unless an array of four axes has its channels on the second."""
    where = _channel_axis(*shape[1:])
    if where == "first":
        return
    options = "channels (--data.channels last, or first)"
    if where == "unknown":
        raise ValueError(
            f"{what} of shape {shape} may have its channels on the second axis or on the last: say "
            f"which with {options}."
        )
    _, height, width, channels = shape
    moved = _channel_axis(channels, height, width) == "first"
    raise ValueError(
        f"{what} seems to have its channels last, shape {shape}: say where they are with {options}"
        + (
            ", or move that axis to the second place, with numpy.moveaxis(array, -1, 1)."
            if moved
            else "."
        )
    )


def _channel_axis(first: int, middle: int, last: int) -> Literal["first", "last", "unknown"]:
    """Where the channels of an image of these three sides are: pictures have few, and are often square."""
    if first in (1, 3):
        return "first"
    if last <= 4 and last < first:
        return "last"
    if middle == last:
        return "first"
    if first == middle:
        return "last"
    if first <= min(middle, last):
        return "first"
    return "last" if last < min(first, middle) else "unknown"


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
    extent: Extent,
    dtypes: Sequence[torch.dtype],
    levels: int | None,
    name: str,
    event_shape: Sequence[int] = (),
) -> tuple[str, int | None]:
    """The support that the splits' common type and values say, and the levels of integers.

    Args:
        extent: That of all splits together.
        dtypes: The type of each split.
        levels: The levels of integers, if they were given.
        name: What the set is called, for messages.
        event_shape: The shape of a datum: of pictures, other integers than uint8 are not taken for
            counts.

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
    if len(event_shape) == 3:
        top = max(256, 1 << int(high).bit_length())
        more = ", or 65536" if 256 < top < 65536 else ""
        raise ValueError(
            f"{name} holds pictures of whole numbers from {low} to {high}, which may be grey levels, "
            f"counts or measurements: say which with levels (--data.levels {top}{more}) or support "
            "(--data.support counts, --data.support real)."
        )
    return "counts", None


def check_support(
    values: Any,
    support: str,
    levels: int | None,
    *,
    name: str,
    event_names: Sequence[str] = (),
) -> None:
    """Make sure that values are in a support.

    Args:
        values: `(n, *event_shape)`: a tensor, rows on the disk or sparse rows.
        support: One of `SUPPORTS`.
        levels: The number of levels of integers.
        name: What to call the values.
        event_names: What the elements are called.

    Raises:
        ValueError: If they are not: how many in which columns, and in which rows.
    """
    event_shape = tuple(values.shape[1:])
    counts = torch.zeros(event_shape[0], dtype=torch.int64)
    rows, examples = [], []
    for start in range(0, len(values), _ROWS_AT_A_TIME):
        flat = values[start : start + _ROWS_AT_A_TIME].flatten(1)
        outside = outside_support(flat, support, levels)
        if outside.any():
            counts += outside.reshape(len(flat), event_shape[0], -1).sum((0, 2))
            rows += (start + outside.any(1).nonzero().flatten()).tolist()
            examples.append(flat[outside][0].item())
    if not rows:
        return
    example = examples[0]
    allowed = (
        f"0 to {levels - 1}, the levels" if levels else f"{SUPPORTS[support]}, the {support} data"
    )
    fractions = (
        f" Values in [0, 1] are levels as round({levels - 1} * x)."
        if levels and 0 < example < 1
        else ""
    )
    raise ValueError(
        f"{name} holds values outside {allowed} that the model was trained on, such as {example:g}: "
        f"{places(counts, rows, event_shape, event_names)}.{fractions}"
    )


def outside_support(flat: Tensor, support: str, levels: int | None) -> Tensor:
    """Where values are outside a support."""
    floats = flat.is_floating_point()
    outside = ~flat.isfinite() if floats else torch.zeros(flat.shape, dtype=torch.bool)
    if support != "real":
        outside |= flat < 0
        if support != "counts":
            outside |= flat > (levels or 2) - 1
    if support in ("binary", "integers", "counts") and floats:
        outside |= flat != flat.round()
    return outside
