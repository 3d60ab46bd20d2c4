#!/usr/bin/env bash
# Pillow 13.0.0 and imageio 2.38.1: frames of an animated GIF.
# Expected: as many frames as were given, each shown for the duration given.
# Seen: frames equal to the one before are dropped and their time is added to it; times are cut to
# hundredths of a second. 10 frames of 25 ms come back as 4 frames of 70, 50, 100 and 20 ms.
# Why it matters for VAEs: an animation of a traversal of a dimension that the decoder ignores, or
# of an interpolation with a pause, has fewer frames than steps, so that frame i is not step i.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    pillow==13.0.0 imageio==2.38.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import io

import imageio
import imageio.v3 as iio
import numpy as np
import PIL
from PIL import Image

greys = (0, 0, 0, 50, 50, 100, 100, 100, 100, 255)
arrays = [np.full((8, 8), grey, np.uint8) for grey in greys]
file = io.BytesIO()
first, *others = [Image.fromarray(array) for array in arrays]
first.save(file, "GIF", save_all=True, append_images=others, duration=25)
found = Image.open(file)
durations = []
for frame in range(found.n_frames):
    found.seek(frame)
    durations.append(found.info["duration"])
file = io.BytesIO()
iio.imwrite(file, arrays, extension=".gif", duration=25)
file.seek(0)
by_imageio = len(iio.imread(file, index=None, extension=".gif"))
print("Pillow", PIL.__version__, "imageio", imageio.__version__)
print("frames given", len(greys), "durations found", durations, "frames by imageio", by_imageio)
assert durations == [70, 50, 100, 20], "changed"
assert by_imageio == 4, "changed"
PYTHON
