#!/usr/bin/env bash
# Pillow 13.0.0, imageio 2.38.1: 16-bit PNG.
# Expected: a PNG of 16 bits a channel keeps its values, or is refused; and if it is reduced to
# 8 bits, colour and grey are reduced by one rule.
# Seen: colour is opened as 8-bit RGB without a warning, low bytes dropped: 1000 -> 3; imageio
# hands that on as uint8. Grey keeps its 16 bits, but convert("L") clips it: 1000 -> 255.
# Documented: that such modes are not supported ("Concepts"); not that opening drops the low bytes.
# Output, of 1000, 1255, 65535: colour 3, 4, 255 (imageio: uint8); grey as L 255, 255, 255.
# Why it matters for VAEs: microscopy and depth images use a few hundred of the 65536 levels. After
# the shift a handful are left, and after the clip the picture is white; both pass for 8-bit data.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    pillow==13.0.0 imageio==2.38.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import struct
import warnings
import zlib

import imageio.v3 as iio
import numpy as np
import PIL
from PIL import Image

warnings.simplefilter("error")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, row, color_type):
    """One row of pixels, 16 bits a channel."""
    header = struct.pack(">IIBBBBB", len(row), 1, 16, color_type, 0, 0, 0)
    pixels = zlib.compress(b"\0" + row.astype(">u2").tobytes())
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        file.write(chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


values = np.array([1000, 1255, 65535])
write_png("color.png", np.stack([values] * 3, axis=1), 2)
write_png("grey.png", values, 0)
with Image.open("color.png") as image:
    color_mode, color = image.mode, np.asarray(image)[0, :, 0].tolist()
with Image.open("grey.png") as image:
    grey_mode, grey = image.mode, np.asarray(image)[0].tolist()
    as_l = np.asarray(image.convert("L"))[0].tolist()
by_imageio = iio.imread("color.png").dtype
print("Pillow", PIL.__version__, "written", values.tolist())
print("colour", color_mode, color, "imageio", by_imageio)
print("grey", grey_mode, grey, "as L", as_l)
assert (color_mode, color, by_imageio) == ("RGB", [3, 4, 255], np.uint8), "changed"
assert (grey, as_l) == ([1000, 1255, 65535], [255, 255, 255]), "changed"
PYTHON
