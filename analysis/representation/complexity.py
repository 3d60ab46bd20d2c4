"""What data cost without the model: the length of compressed files."""

import io
import math
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Integer, Real

from analysis.plotting.images import is_image

if TYPE_CHECKING:
    import PIL.Image

# Values on a line are rounded to so many levels, for a compressor and for a histogram.
LEVELS = 256


def compressed_length(
    x: Integer[np.ndarray, " n *event"], *, binary: bool | None = None
) -> Float[np.ndarray, " n"]:
    """L(x): the length of each datum as a compressed file, less a blank one's, in nats.

    Images of at most 256 levels are PNG files. Binary data are deflated bits or, images that are shorter
    so, a fax (ITU-T T.6): digits by more than half. Anything else is deflated, one plane of bytes after
    another. Of data as small as these any such code wastes some hundred bits.

    Args:
        x: Whole numbers from 0 on.
        binary: Whether they are binary data; None if they are where all are 0 or 1. Sets that are
            compared must say: a dark one, of no value above 1, would get a code of its own.

    Returns:
        log 2 times the bits beyond those of a blank datum.
    """
    lengths = []
    for encode in _encoders(x, bool(x.max() <= 1) if binary is None else binary):
        blank = len(encode(np.zeros_like(x[0])))
        lengths.append([len(encode(datum)) - blank for datum in x])
    return 8 * math.log(2) * np.min(lengths, axis=0).astype(np.float64)


def on_levels(
    x: Real[np.ndarray, " n *event"],
    support: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Integer[np.ndarray, " n *event"]:
    """Data as whole numbers: fractions rounded down to 256 levels from `low` to `high`, others as they are."""
    if support in ("unit", "real"):
        scaled = (x.astype(np.float64) - low) / max(high - low, 1e-12)
        return np.clip(scaled * LEVELS, 0, LEVELS - 1).astype(np.uint8)
    return x.astype(np.uint8 if x.max() < LEVELS else np.uint32)


def log_cell(support: str, elements: int, *, low: float = 0.0, high: float = 1.0) -> float:
    """log of the volume of a cell of `on_levels`: a density plus this is a probability, in nats."""
    if support not in ("unit", "real"):
        return 0.0
    return elements * math.log(max(high - low, 1e-12) / LEVELS)


def _encoders(x: np.ndarray, binary: bool) -> list[Callable[[np.ndarray], bytes]]:
    """The compressors for data of this kind, each from a datum to a file."""
    shape = x.shape[1:]
    if binary:
        grey = is_image(shape) and (len(shape) == 2 or shape[0] == 1)
        return [_deflated_bits, _fax] if grey else [_deflated_bits]
    drawn = is_image(shape) and (len(shape) == 2 or shape[0] in (1, 3))
    return [_png] if drawn and x.dtype == np.uint8 else [_deflated]


def _deflated_bits(datum: np.ndarray) -> bytes:
    return zlib.compress(np.packbits(datum.astype(np.uint8)).tobytes(), 9)


def _deflated(datum: np.ndarray) -> bytes:
    planes = datum.astype("<u4").reshape(-1, 1).view(np.uint8).T
    return zlib.compress(planes.tobytes(), 9)


def _png(datum: np.ndarray) -> bytes:
    from PIL import Image

    colour = datum.ndim == 3 and len(datum) == 3
    plane = np.moveaxis(datum, 0, -1) if colour else datum.reshape(datum.shape[-2:])
    return _saved(Image.fromarray(np.ascontiguousarray(plane)), "PNG", optimize=True)


def _fax(datum: np.ndarray) -> bytes:
    from PIL import Image

    plane = datum.reshape(datum.shape[-2:]).astype(np.uint8) * np.uint8(255)
    return _saved(Image.fromarray(plane).convert("1"), "TIFF", compression="group4")


def _saved(image: "PIL.Image.Image", kind: str, **options: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()
