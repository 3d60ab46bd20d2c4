"""Images that Pillow reads in unusual ways."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from pyro_vae.data.image_folders import image_rows

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (1, 6, 5), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)


def test_the_first_picture_of_an_mpo_is_read(tmp_path):
    """Phones write a JPEG with a smaller one behind it."""
    first, second = (Image.fromarray(image) for image in COLOUR[:2])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "b.jpg")
    one, other = image_rows(tmp_path).values
    np.testing.assert_array_equal(one, other)


def test_complex_pictures_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY[0].astype(np.complex64))
    with pytest.raises(ValueError, match=r"a.tif holds complex64, not real numbers"):
        image_rows(tmp_path)
