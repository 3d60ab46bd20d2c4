"""Reading of an image file as an array, with any number of channels and bits per channel."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")

# Pillow's modes of at most 8 bits, and deeper ones that preserve the file's values.
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_TRANSPARENT = ("LA", "PA", "RGBA")
_DEEP = ("I;16", "I;16L", "I;16B", "F")

# The first bytes of TIFF files, and TIFF tags.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _SAMPLES, _ORIENTATION, _FORMAT = 258, 277, 274, 339

# ITU-R 601-2, as Pillow's grey.
_LUMA = (0.299, 0.587, 0.114)


class DamagedImageError(ValueError):
    """A file that cannot be read as an image; the message is the reason in a few words."""


class _RefusedError(ValueError):
    """An image that can be read but is not usable as data."""


def read_image(
    file: Path,
    size: int | None = None,
    channels: int | None = None,
    content: bytes | None = None,
) -> np.ndarray:
    """Read an image, `(channels, height, width)`, in the file's own dtype.

    Pillow reads what it can read without loss. It reduces 16-bit colours to 8 bits, and drops
    samples of TIFF files beyond the third: torchvision reads such PNG files, tifffile such TIFF
    files.

    Args:
        file: The file.
        size: Crop to the largest central square, and scale it to this side length.
        channels: 1 is grey, 3 RGB, 4 RGB and opacity; None as in the file.
        content: The file's contents; None to read it.

    Raises:
        DamagedImageError: If the file cannot be read.
        ValueError: If it holds several images, is transparent, or cannot have these channels.
        ImportError: If Pillow, or what reads images that Pillow does not, cannot be imported.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError(
            f"images are read by Pillow, which cannot be imported ({error}): pip install pillow"
        ) from error
    try:
        content = file.read_bytes() if content is None else content
    except OSError as error:
        raise DamagedImageError(error.strerror or str(error)) from error
    tiff = content[:4] in _TIFF
    pixels, alpha = None, False
    try:
        with Image.open(BytesIO(content)) as opened:
            orientation = opened.getexif().get(_ORIENTATION, 1)
            frames = getattr(opened, "n_frames", 1)
            if tiff and not _is_lossless_tiff(opened):
                pixels = None
            elif _is_deep_colour_png(content):
                pixels = _rotate_upright(_decode_with_torchvision(content), orientation)
                alpha = pixels.shape[2] in (2, 4)
            # Phones write MPO: a JPEG, and smaller or other views of it.
            elif frames > 1 and opened.format != "MPO":
                raise _RefusedError(f"has {frames} frames: save each as its own image")
            else:
                image = ImageOps.exif_transpose(opened)
                alpha = image.mode in _TRANSPARENT or "transparency" in image.info
                pixels = _decode_with_pillow(image)
    except (_RefusedError, ImportError) as error:
        raise type(error)(f"{file} {error}.") from error
    # Pillow raises a dozen types between them for damaged files.
    except Exception as error:
        if not tiff:
            # Pillow's message names the in-memory object that it read.
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "not an image known to Pillow" if unknown else " ".join(str(error).split())
            raise DamagedImageError(reason) from error
        pixels = None
    if pixels is None:
        pixels, alpha = _decode_with_tifffile(file, content)
    if alpha and channels != 4:
        if (pixels[..., -1] != _opaque(pixels)).any():
            raise ValueError(
                f"{file} is transparent in places: --data.channels 4 (in Python, channels=4) "
                "keeps the opacity as a fourth channel; to drop it, flatten the images onto a "
                "background and save them again."
            )
        pixels = pixels[..., :-1]
    if channels is not None:
        pixels = _convert_channels(file, pixels, channels, alpha)
    if size is not None:
        pixels = _crop_and_scale(pixels, size)
    return np.moveaxis(pixels, -1, 0)


def center_square(image: Any, side: int, size: int) -> Any:
    """Crop a Pillow image to a central square of this side, and scale it bilinearly to `size`.

    Where it reduces, it averages over the area of a pixel.
    """
    from PIL import Image

    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize's `box`: it includes pixels from around the box.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def _opaque(pixels: np.ndarray) -> float | int:
    return np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1.0


def _decode_with_pillow(image: Any) -> np.ndarray:
    """An open image as `(height, width, channels)`."""
    if image.mode in _GREY or image.mode in _COLOUR:
        transparent = image.mode in _TRANSPARENT or "transparency" in image.info
        names = ("LA", "RGBA") if transparent else ("L", "RGB")
        pixels = np.asarray(image.convert(names[0] if image.mode in _GREY else names[1]))
    elif image.mode == "I" and image.format in (None, "PNG"):
        # Older versions of Pillow read 16 bits so.
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
    """Whether it is a PNG of 16 bits in several channels, which Pillow reduces to 8."""
    return content[:8] == b"\x89PNG\r\n\x1a\n" and content[24] == 16 and content[25] != 0


def _decode_with_torchvision(content: bytes) -> np.ndarray:
    """A PNG as `(height, width, channels)`, in 16 bits."""
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_image
    # A torchvision built for another torch fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "has colours of 16 bits, which torchvision reads, and it cannot be imported "
            f"({' '.join(str(error).split())}): save the images as TIFF and pip install tifffile"
        ) from error
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with warnings.catch_warnings():
        # Decoding moves to another package in a later release of torchvision.
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = decode_image(encoded, ImageReadMode.UNCHANGED)
    return pixels.numpy().transpose(1, 2, 0)


def _is_lossless_tiff(image: Any) -> bool:
    """Whether Pillow reads all that is in a TIFF file."""
    bits = image.tag_v2.get(_BITS, (1,))
    bits = max(bits) if isinstance(bits, tuple) else bits
    samples = image.tag_v2.get(_SAMPLES, 1)
    unsigned = set(image.tag_v2.get(_FORMAT, (1,))) == {1}
    exact = (bits <= 8 and unsigned) or image.mode in _DEEP
    # Pillow 13 reads lines of the wrong length where width and height are exchanged.
    upright = image.tag_v2.get(_ORIENTATION, 1) <= 4
    return image.n_frames == 1 and samples == len(image.getbands()) and exact and upright


def _decode_with_tifffile(file: Path, content: bytes) -> tuple[np.ndarray, bool]:
    """A TIFF as `(height, width, channels)`, and whether the last channel is opacity."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            f"{file} has several pages, or channels or bits that Pillow does not read; tifffile "
            f"does, and cannot be imported ({error}): pip install tifffile"
        ) from error
    try:
        with tifffile.TiffFile(BytesIO(content)) as opened:
            series, page = opened.series[0], opened.pages[0]
            sizes = dict(zip(series.axes, series.shape, strict=True))
            axes = "".join(axis for axis, n in sizes.items() if n > 1 or axis in "YX")
            if len(opened.series) > 1 or axes not in ("YX", "YXS", "SYX", "CYX"):
                raise _RefusedError(
                    f"{file} has {len(opened.pages)} pages: save each as its own image."
                )
            pixels = series.asarray().reshape([sizes[axis] for axis in axes])
            if pixels.dtype.kind not in "buif":
                raise _RefusedError(f"{file} holds {pixels.dtype}, not real numbers.")
            orientation = page.tags.get(_ORIENTATION)  # pyright: ignore[reportAttributeAccessIssue]
            extra = tuple(int(kind) for kind in page.extrasamples)  # pyright: ignore[reportAttributeAccessIssue]
    except _RefusedError:
        raise
    # Damaged files, and compression that another package reads (imagecodecs).
    except Exception as error:
        reason = " ".join(str(error).split())
        if "imagecodecs" in reason:
            raise ImportError(
                f"{file} cannot be read ({reason}): pip install imagecodecs"
            ) from error
        raise DamagedImageError(reason) from error
    if axes == "YX":
        pixels = pixels[..., None]
    elif axes != "YXS":
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    turn = 1 if orientation is None else int(orientation.value)
    return _rotate_upright(pixels, turn), extra[-1:] in ((1,), (2,))


def _rotate_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the orientation that the file states."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _convert_channels(file: Path, pixels: np.ndarray, channels: int, alpha: bool) -> np.ndarray:
    """A grey or colour image with this number of channels."""
    found = pixels.shape[2]
    if found > 4 or (found in (2, 4) and not alpha):
        raise ValueError(
            f"{file} has {found} channels, which are not colours: leave out channels "
            "(--data.channels)."
        )
    if channels == found:
        return pixels
    if channels == 1:
        return _round_like(pixels @ np.array(_LUMA), pixels)[..., None]
    colours = pixels[..., :-1] if found in (2, 4) else pixels
    colours = np.broadcast_to(colours, (*pixels.shape[:2], 3))
    if channels == 3:
        return colours
    opacity = (
        pixels[..., -1:] if found in (2, 4) else np.full_like(pixels[..., :1], _opaque(pixels))
    )
    return np.concatenate([colours, opacity], -1)


def _crop_and_scale(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square, scaled."""
    from PIL import Image

    side = min(pixels.shape[:2])
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        image = Image.fromarray(
            np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        )
        return np.asarray(center_square(image, side, size)).reshape(size, size, -1)
    bands = [
        np.asarray(center_square(Image.fromarray(band.astype(np.float32)), side, size))
        for band in np.moveaxis(pixels, -1, 0)
    ]
    return _round_like(np.stack(bands, -1), pixels)


def _round_like(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Values in the type of pixels, rounded to integers if necessary."""
    return (np.rint(values) if pixels.dtype.kind in "ui" else values).astype(pixels.dtype)
