"""Reading an image file as an array, with any number of channels and bits per channel."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")

# Pillow's modes of 8 bits or less, and those of more that hold what the file does.
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_TRANSPARENT = ("LA", "PA", "RGBA")
_DEEP = ("I;16", "I;16L", "I;16B", "F")

# How TIFF files begin, and tags of theirs.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _SAMPLES, _ORIENTATION, _FORMAT = 258, 277, 274, 339

# ITU-R 601-2, as Pillow's grey.
_LUMA = (0.299, 0.587, 0.114)


class DamagedPictureError(ValueError):
    """A file that cannot be read as a picture; the message says why, in a few words."""


def read_picture(
    file: Path,
    size: int | None = None,
    channels: int | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """A picture, `(channels, height, width)`, in the file's own type: uint8, uint16, float32 and others.

    Pillow reads what it reads without loss. It reduces colours of 16 bits to 8, and drops samples of
    TIFF files beyond the third: torchvision reads the PNG files among them, tifffile the TIFF files.

    Args:
        file: The file.
        size: Cut to the largest square in the middle, and scaled to so many pixels a side.
        channels: 1 is grey, 3 RGB, 4 RGB and opacity; None as in the file.
        content: What the file holds; None if it is to be read.

    Raises:
        DamagedPictureError: If the file cannot be read.
        ValueError: If it holds several pictures, is transparent, or has no such channels.
        ImportError: If Pillow cannot be imported, or what reads pictures that Pillow does not.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError(
            f"pictures are read by Pillow, which cannot be imported ({error}): pip install pillow"
        ) from error
    try:
        content = file.read_bytes() if content is None else content
    except OSError as error:
        raise DamagedPictureError(error.strerror or str(error)) from error
    tiff = content[:4] in _TIFF
    pixels, alpha = None, False
    try:
        with Image.open(BytesIO(content)) as opened:
            orientation = opened.getexif().get(_ORIENTATION, 1)
            frames = getattr(opened, "n_frames", 1)
            if tiff and not _reads_tiff(opened):
                pixels = None
            elif _is_deep_colour_png(content):
                pixels = _by_torchvision(content)
                pixels, alpha = _turned(pixels, orientation), pixels.shape[2] in (2, 4)
            # MPO is what phones write: a JPEG, and smaller or further views of it.
            elif frames > 1 and opened.format != "MPO":
                raise _RefusedError(f"has {frames} frames: save each as a picture of its own")
            else:
                # Cameras store how they were held, and leave the turning to the reader.
                image = ImageOps.exif_transpose(opened)
                alpha = image.mode in _TRANSPARENT or "transparency" in image.info
                pixels = _by_pillow(image)
    except (_RefusedError, ImportError) as error:
        raise type(error)(f"{file} {error}.") from error
    # Pillow raises a dozen types between them for damaged files.
    except Exception as error:
        if not tiff:
            # Pillow names the object in memory that it read from.
            unknown = isinstance(error, UnidentifiedImageError)
            reason = (
                "no image that Pillow can identify" if unknown else " ".join(str(error).split())
            )
            raise DamagedPictureError(reason) from error
        pixels = None
    if pixels is None:
        pixels, alpha = _by_tifffile(file, content)
    if alpha and channels != 4:
        opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1.0
        if (pixels[..., -1] != opaque).any():
            raise ValueError(
                f"{file} is transparent in places: --data.channels 4 (in Python, channels=4) keeps the "
                "opacity as a fourth channel; for pictures without it, flatten them onto a background and "
                "save them again."
            )
        pixels = pixels[..., :-1]
    if channels is not None:
        pixels = _with_channels(file, pixels, channels, alpha)
    if size is not None:
        pixels = _scaled(pixels, size)
    return np.moveaxis(pixels, -1, 0)


def middle_square(image: Any, side: int, size: int) -> Any:
    """The square of `side` pixels a side in the middle of a Pillow image, scaled to `size` a side.

    Bilinear, and where it makes smaller, over the area that a pixel covers.
    """
    from PIL import Image

    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize's `box`: it takes in pixels from around the box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


class _RefusedError(ValueError):
    """A picture that is read, and is not what data are made of."""


def _by_pillow(image: Any) -> np.ndarray:
    """An open image as `(height, width, channels)`."""
    if image.mode in _GREY or image.mode in _COLOUR:
        grey = image.mode in _GREY
        transparent = image.mode in _TRANSPARENT or "transparency" in image.info
        names = ("LA", "RGBA") if transparent else ("L", "RGB")
        pixels = np.asarray(image.convert(names[0] if grey else names[1]))
    elif image.mode == "I" and image.format in (None, "PNG"):
        # What older versions of Pillow make of 16 bits.
        pixels = np.asarray(image).astype(np.uint16)
    elif image.mode in _DEEP:
        pixels = np.asarray(image)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    else:
        raise _RefusedError(
            f"has pixels of Pillow's mode {image.mode}: save it as PNG or TIFF of 8 or 16 bits"
        )
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _is_deep_colour_png(content: bytes) -> bool:
    """Whether it is a PNG of 16 bits in more than one channel, which Pillow reduces to 8."""
    return content[:8] == b"\x89PNG\r\n\x1a\n" and content[24] == 16 and content[25] != 0


def _by_torchvision(content: bytes) -> np.ndarray:
    """A PNG as `(height, width, channels)`, in 16 bits."""
    import warnings

    import torch

    try:
        from torchvision.io import ImageReadMode, decode_image
    # A torchvision built for another torch fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "has colours of 16 bits, which torchvision reads, and it cannot be imported "
            f"({' '.join(str(error).split())}): save the pictures as TIFF and pip install tifffile"
        ) from error
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with warnings.catch_warnings():
        # Decoding moves to another package in a later release of torchvision.
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = decode_image(encoded, ImageReadMode.UNCHANGED)
    return pixels.numpy().transpose(1, 2, 0)


def _reads_tiff(image: Any) -> bool:
    """Whether Pillow gives all that is in a TIFF file."""
    bits = image.tag_v2.get(_BITS, (1,))
    bits = max(bits) if isinstance(bits, tuple) else bits
    samples = image.tag_v2.get(_SAMPLES, 1)
    unsigned = set(image.tag_v2.get(_FORMAT, (1,))) == {1}
    whole = (bits <= 8 and unsigned) or image.mode in _DEEP
    # Pillow 13 reads lines of the wrong length where width and height change places.
    unturned = image.tag_v2.get(_ORIENTATION, 1) <= 4
    return image.n_frames == 1 and samples == len(image.getbands()) and whole and unturned


def _by_tifffile(file: Path, content: bytes) -> tuple[np.ndarray, bool]:
    """A TIFF as `(height, width, channels)`, and whether the last channel is opacity."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f"{file} has several pages, or channels or bits that Pillow does not read; tifffile does, "
            f"and cannot be imported ({error}): pip install tifffile"
        ) from error
    try:
        with tifffile.TiffFile(BytesIO(content)) as opened:
            series = opened.series[0]
            page = opened.pages[0]
            pages = len(opened.pages)
            axes, shape = series.axes, series.shape
            kept = "".join(
                axis for axis, n in zip(axes, shape, strict=True) if n > 1 or axis in "YX"
            )
            if len(opened.series) > 1 or kept not in ("YX", "YXS", "SYX", "CYX"):
                raise _RefusedError(
                    f"{file} has {pages} pages: save each as a picture of its own."
                )
            pixels = series.asarray().reshape(
                [n for axis, n in zip(axes, shape, strict=True) if axis in kept]
            )
            if pixels.dtype.kind not in "buif":
                raise _RefusedError(f"{file} holds {pixels.dtype}, not real numbers.")
            orientation = page.tags.get(_ORIENTATION)  # pyright: ignore[reportAttributeAccessIssue]
            extra = tuple(int(kind) for kind in page.extrasamples)  # pyright: ignore[reportAttributeAccessIssue]
    except _RefusedError:
        raise
    # Of damaged files, and of compression that another package reads (imagecodecs).
    except Exception as error:
        reason = " ".join(str(error).split())
        if "imagecodecs" in reason:
            raise ImportError(
                f"{file} cannot be read ({reason}): pip install imagecodecs"
            ) from error
        raise DamagedPictureError(reason) from error
    pixels = {2: lambda p: p[..., None], 3: lambda p: p}[pixels.ndim](pixels)
    if kept in ("SYX", "CYX"):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    return _turned(pixels, 1 if orientation is None else int(orientation.value)), extra[-1:] in (
        (1,),
        (2,),
    )


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The picture upright, from the orientation that the file states."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _with_channels(file: Path, pixels: np.ndarray, channels: int, alpha: bool) -> np.ndarray:
    """A grey or colour picture with so many channels."""
    found = pixels.shape[2]
    if found > 4 or (found == 4 and not alpha) or (found == 2 and not alpha):
        raise ValueError(
            f"{file} has {found} channels, which are no colours: leave out channels (--data.channels)."
        )
    if channels == found:
        return pixels
    if channels == 1:
        return _like(pixels @ np.array(_LUMA), pixels)[..., None]
    colours = pixels[..., :-1] if found in (2, 4) else pixels
    colours = np.broadcast_to(colours, (*pixels.shape[:2], 3))
    if channels == 3:
        return colours
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1
    opacity = pixels[..., -1:] if found in (2, 4) else np.full_like(pixels[..., :1], opaque)
    return np.concatenate([colours, opacity], -1)


def _scaled(pixels: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle, at another size."""
    from PIL import Image

    side = min(pixels.shape[:2])
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        image = Image.fromarray(
            np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        )
        return np.asarray(middle_square(image, side, size)).reshape(size, size, -1)
    bands = [
        np.asarray(middle_square(Image.fromarray(band.astype(np.float32)), side, size))
        for band in np.moveaxis(pixels, -1, 0)
    ]
    return _like(np.stack(bands, -1), pixels)


def _like(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values in the type of pixels, rounded if that is of integers."""
    return (np.rint(values) if pixels.dtype.kind in "ui" else values).astype(pixels.dtype)
