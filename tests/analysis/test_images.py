"""Reconstructions and samples, of images and of other data."""

import numpy as np
import pytest

from analysis.images import is_image, plot_reconstructions, plot_samples

SHAPES = [(6, 7), (1, 6, 7), (3, 6, 7), (30,), (2, 5), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_samples(words, shape):
    data = np.random.default_rng(0).random((5, *shape))
    axes, text = words(plot_samples(data))
    assert "p(x | z)" in text
    drawn = [ax for ax in axes if ax.images or ax.collections]
    assert len(drawn) == 5
    assert bool(drawn[0].images) == is_image(shape)


def test_an_image_is_drawn_as_it_is():
    image = np.linspace(0, 2, 12).reshape(1, 1, 3, 4)
    (drawn,) = plot_samples(image, limits=(0.0, 2.0)).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), image[0, 0] / 2)
    colour = np.random.default_rng(0).random((1, 3, 4, 5))
    (drawn,) = plot_samples(colour).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), colour[0].transpose(1, 2, 0))


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 6, 7)), (13, (3, 6, 7)), (4, (30,))])
def test_reconstructions_stand_below_their_originals(words, shape, count):
    data = np.random.default_rng(0).integers(0, 2, (count, *shape), dtype=np.uint8)
    axes, text = words(plot_reconstructions(data, 0.5 * data))
    assert "data" in text
    assert "model" in text
    drawn = [ax for ax in axes if ax.images or ax.collections]
    assert len(drawn) == 2 * count
    if is_image(shape):
        columns = min(count, 10)
        above, below = (drawn[i].images[0].get_array() for i in (0, columns))
        np.testing.assert_allclose(0.5 * above, below)
