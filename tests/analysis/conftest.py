"""What the figures' tests share."""

import numpy as np
import pytest
from scipy.ndimage import find_objects, label


@pytest.fixture
def words():
    """Draw a figure and return its axes and all that is written on it."""

    def read(figure):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
        return figure.axes, " | ".join(filter(None, texts))

    return read


@pytest.fixture
def images_in():
    """Return the images on a panel, row by row: the parts that gaps separate."""

    def find(ax):
        (drawn,) = ax.images
        mosaic = np.ma.filled(drawn.get_array(), np.nan)
        # Between images in colour is white.
        inside = np.isfinite(mosaic) if mosaic.ndim == 2 else (mosaic < 1).any(-1)
        return [mosaic[part] for part in find_objects(label(inside)[0])]

    return find
