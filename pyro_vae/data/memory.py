"""Whether an array will fit into this machine's memory, before it is made or read."""

import math
import os
from collections.abc import Sequence

# Of a file that is read whole, memory holds two or three copies at once while it is split.
_READ_WHOLE = 0.25


def read_whole(size: int) -> bool:
    """Whether a file of so many bytes is small enough to be read into memory as a whole."""
    return size <= _READ_WHOLE * _memory()


def require_memory(shape: Sequence[int], itemsize: int, what: str) -> None:
    """Raise unless an array of such elements, and the copy that splitting makes, fit.

    Args:
        shape: The array's shape.
        itemsize: The bytes of an element.
        what: What the array is, for the message.

    Raises:
        ValueError: If they need more than this machine has, with both numbers.
    """
    needed = 2 * math.prod(shape) * itemsize
    if needed > (available := _memory()):
        raise ValueError(
            f"{what} would be an array of shape {tuple(shape)}, which takes {needed / 2**30:,.1f} GiB "
            f"while it is split, more than this machine's {available / 2**30:,.1f} GiB: keep fewer rows "
            "or columns."
        )


def _memory() -> float:
    """This machine's memory in bytes; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
