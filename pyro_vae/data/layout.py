"""Layout of arrays: the event shape, and the position of the channels."""

from typing import Literal, TypeVar, get_args

import numpy as np
from torch import Tensor

# The meaning of the axes of an array, and the position of its channels.
Layout = Literal["auto", "image", "series", "sequence"]
Channels = Literal["auto", "first", "last"]

_Array = TypeVar("_Array", np.ndarray, Tensor)

# Images at most this high and at least this many times as wide are more likely series.
_LOW_IMAGE = 16
_WIDE_IMAGE = 8


def as_events(values: Tensor, what: str, layout: Layout = "auto", *, new: bool = False) -> Tensor:
    """Reshape to events of `(d,)`, images, series or sequences.

    Args:
        values: The values.
        what: Their name in messages.
        layout: The meaning of three axes: see `event_shape`.
        new: Whether they are new data for a trained model, a few rows of which may look like
            labels.
    """
    shape = tuple(values.shape)
    event = event_shape(shape, what, layout)
    if not new and len(shape) == 2 and are_labels(values):
        raise labels_error(shape, what)
    return values.reshape(shape[0], *event)


def event_shape(shape: tuple[int, ...], what: str, layout: Layout = "auto") -> tuple[int, ...]:
    """The event shape of an array of this shape, channels first.

    Args:
        shape: The array's shape.
        what: Its name in messages.
        layout: "image": `(n, height, width)` or `(n, channels, height, width)`. "series":
            `(n, channels, length)`. "sequence": `(n, T, d)`, `(n, T, height, width)` or
            `(n, T, channels, height, width)`, T frames in time. "auto": images, refused where the
            channels may be last.

    Raises:
        ValueError: If data cannot have this shape, or the channels may be last.
    """
    allowed = (
        "(n, d), (n, height, width), (n, channels, height, width), with layout series "
        "(--data.layout series) (n, channels, length), or with layout sequence (n, T, d) and "
        "(n, T, channels, height, width)"
    )
    if layout == "sequence" and 3 <= len(shape) <= 5:
        return shape[1:] if len(shape) != 4 else (shape[1], 1, *shape[2:])
    if len(shape) < 2:
        raise ValueError(f"{what} looks like labels: its shape must be {allowed}, got {shape}.")
    if len(shape) == 2 or (len(shape) == 3 and layout == "series"):
        return shape[1:]
    if len(shape) == 3:
        height, width = shape[1:]
        # A width of 2 or 4 and a small height may be an image of a few pixels.
        single = width in (1, 3) or (width in (2, 4) and height >= _LOW_IMAGE)
        if layout == "auto" and single:
            raise ValueError(
                f"{what} looks like a single image with its channels last: its shape must be "
                f"{allowed}, got {shape}. For images this narrow give layout image "
                f"(--data.layout image), which reads them as {(shape[0], 1, *shape[1:])}; for "
                "series layout series (--data.layout series --data.channels last)."
            )
        return (1, height, width)
    if len(shape) == 4 and layout not in ("series", "sequence"):
        if layout == "auto":
            _check_channels_first(shape, what)
        return shape[1:]
    raise ValueError(f"the shape of {what} must be {allowed}, got {shape}.")


def move_channels_first(
    array: _Array, what: str, layout: Layout = "auto", channels: Channels = "auto"
) -> tuple[_Array, Layout]:
    """Move the channels to the second axis.

    Args:
        array: Data of any shape.
        what: Their name in messages.
        layout: The meaning of three axes.
        channels: The position of the channels; "auto" is first, refused where they may be last.

    Returns:
        The array, and the layout to pass to `event_shape`.

    Raises:
        ValueError: If an option is unknown or does not fit the shape, or the channels may be last.
    """
    for name, word, words in (("layout", layout, Layout), ("channels", channels, Channels)):
        if word not in get_args(words):
            raise ValueError(f"{name} must be one of {', '.join(get_args(words))}, got {word!r}.")
    shape = tuple(array.shape)
    axes = 3 if layout == "series" else 4
    if layout == "sequence":
        if channels == "last":
            raise ValueError(
                "frames of a sequence have their channels first, (n, T, channels, height, width), "
                f"got {what} of shape {shape} and channels last."
            )
        return array, layout
    if channels != "auto" and len(shape) != axes:
        raise ValueError(
            f"channels (--data.channels {channels}) needs an array of {axes} axes, got {what} of "
            f"shape {shape}{'' if axes == 3 else '; for series give --data.layout series'}."
        )
    if channels == "last":
        array = array.movedim(-1, 1) if isinstance(array, Tensor) else np.moveaxis(array, -1, 1)
    elif channels == "auto" and len(shape) == axes == 4:
        _check_channels_first(shape, what)
    elif channels == "auto" and len(shape) == axes == 3 and shape[2] < shape[1]:
        raise ValueError(
            f"{what} seems to have its channels last, as its shape {shape} would have more "
            "channels than positions: give channels (--data.channels last, or first)."
        )
    return array, "image" if layout == "auto" and len(shape) == 4 else layout


def layout_of(event: tuple[int, ...]) -> Layout:
    """The layout of arrays `(n, *event)`."""
    return "sequence" if len(event) == 4 else "series" if len(event) == 2 else "image"


def layout_like(shape: tuple[int, ...], event: tuple[int, ...]) -> Layout:
    """The layout that gives an array of this shape this event shape; "auto" if there is none."""
    if len(event) == 4:
        return "sequence"
    if shape[1:] == event and len(event) == 2:
        return "series"
    return "image" if event in (shape[1:], (1, *shape[1:])) else "auto"


def layout_notes(shape: tuple[int, ...], layout: Layout) -> tuple[str, ...]:
    """A note if an array of this shape is read as images but may hold series."""
    if layout != "auto" or len(shape) != 3:
        return ()
    height, width = shape[1:]
    if height > _LOW_IMAGE or width < _WIDE_IMAGE * height:
        return ()
    series = f"if they are series of {height} channels: --data.layout series"
    return (f"taken as images of {height} x {width}; {series}",)


def _check_channels_first(shape: tuple[int, ...], what: str) -> None:
    where = _channel_axis(*shape[1:])
    if where == "first":
        return
    options = "channels (--data.channels last, or first)"
    if where == "unknown":
        raise ValueError(
            f"{what} of shape {shape} may have its channels on the second axis or on the last: "
            f"say which with {options}."
        )
    _, height, width, channels = shape
    move = _channel_axis(channels, height, width) == "first"
    raise ValueError(
        f"{what} seems to have its channels last, shape {shape}: say where they are with {options}"
        f"{', or move that axis with numpy.moveaxis(array, -1, 1)' if move else ''}."
    )


def _channel_axis(first: int, middle: int, last: int) -> Literal["first", "last", "unknown"]:
    """Guess the channel axis of an image: channels are few, and images are often square."""
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
    """The error for a matrix for which `are_labels` holds."""
    return ValueError(
        f"{what} looks like labels: it has shape {shape} and "
        f"{'one whole number' if shape[1] == 1 else 'a single 1'} in each row."
    )


def are_labels(values: Tensor) -> bool:
    """Whether a matrix is a single column of integers, or one-hot rows."""
    if values.numel() == 0:
        return False
    if values.shape[1] == 1:
        return not values.is_floating_point()
    low, high = values.aminmax()
    return bool(
        low == 0 and high == 1 and ((values != 0).sum(1) == 1).all() and (values.sum(1) == 1).all()
    )
