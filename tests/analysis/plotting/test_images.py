"""Reconstructions and samples of images and other data."""

import numpy as np
import pytest

from analysis.plotting.images import is_image, plot_reconstructions, plot_samples, value_limits

SHAPES = [(6, 7), (3, 6, 7), (30,), (2, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_samples(words, shape):
    data = np.random.default_rng(0).random((5, *shape))
    axes, text = words(plot_samples(data))
    assert "p(x | z)" in text
    drawn = [ax for ax in axes if ax.images or ax.collections]
    assert len(drawn) == 5
    assert bool(drawn[0].images) == is_image(shape)


def test_images_are_drawn_unchanged():
    image = np.linspace(0, 2, 12).reshape(1, 1, 3, 4)
    (drawn,) = plot_samples(image, limits=(0.0, 2.0)).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), image[0, 0] / 2)
    colour = np.random.default_rng(0).random((1, 3, 4, 5))
    (drawn,) = plot_samples(colour).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), colour[0].transpose(1, 2, 0))


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 6, 7)), (12, (3, 6, 7)), (4, (30,))])
def test_reconstructions_are_below_their_originals(shape, count):
    data = np.random.default_rng(0).integers(0, 2, (count, *shape), dtype=np.uint8)
    axes = plot_reconstructions(data, 0.5 * data).axes
    assert {"data", "model"} <= {ax.get_ylabel() for ax in axes}
    drawn = [ax for ax in axes if ax.images or ax.collections]
    assert len(drawn) == 2 * count
    if is_image(shape):
        columns = min(count, 10)
        above, below = (drawn[i].images[0].get_array() for i in (0, columns))
        np.testing.assert_allclose(0.5 * above, below)


def test_other_channels_are_side_by_side_on_separate_scales():
    data = (
        np.random.default_rng(0).random((5, 4, 6, 7)) * np.array([1, 10, 100, 1000])[:, None, None]
    )
    (drawn, *_) = plot_samples(data, value_limits(data)).axes[0].images
    grid = np.ma.filled(drawn.get_array(), np.nan)
    assert grid.shape == (13, 15)
    assert np.isnan(grid[6]).all()
    assert np.isnan(grid[:, 7]).all()
    for channel, corner in enumerate([(0, 0), (0, 8), (7, 0), (7, 8)]):
        low, high = data[:, channel].min(), data[:, channel].max()
        there = grid[corner[0] : corner[0] + 6, corner[1] : corner[1] + 7]
        np.testing.assert_allclose(there, (data[0, channel] - low) / (high - low), atol=1e-9)


def test_series_are_lines_with_axes(words):
    data = np.random.default_rng(0).normal(size=(2, 3, 40)) + np.array([0, 50, 1])[:, None]
    figure = plot_reconstructions(data, data + 1, value_limits(data))
    axes, text = words(figure)
    assert "channel 2" in text
    assert "position in the series" in text
    # Two series of three channels each.
    assert len([ax for ax in axes if ax.lines]) == 6
    behind, above = axes[4].lines
    np.testing.assert_array_equal(behind.get_ydata(), data[0, 1])
    np.testing.assert_array_equal(above.get_ydata(), data[0, 1] + 1)
    low, high = axes[4].get_ylim()
    assert 40 < low < high < 60
    # At most eight series are drawn.
    assert len([ax for ax in plot_samples(np.tile(data, (10, 1, 1))).axes if ax.lines]) == 24
