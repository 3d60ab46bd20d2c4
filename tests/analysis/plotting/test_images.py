"""Reconstructions and samples of images and other data."""

import numpy as np
import pytest

from analysis.plotting.images import (
    draw_grid,
    is_image,
    plot_reconstructions,
    plot_samples,
    value_limits,
)
from analysis.plotting.style import new_figure

SHAPES = [(6, 7), (3, 6, 7), (30,), (2, 5)]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples(words, images_in, shape):
    data = RNG.random((5, *shape))
    axes, text = words(plot_samples(data))
    assert "p(x | z)" in text
    if is_image(shape):
        (ax,) = axes
        assert len(images_in(ax)) == 5
    else:
        assert len([ax for ax in axes if ax.collections]) == 5


def test_images_are_drawn_unchanged():
    image = np.linspace(0, 2, 12).reshape(1, 1, 3, 4)
    (drawn,) = plot_samples(image, limits=(0.0, 2.0)).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), image[0, 0] / 2)
    colour = RNG.random((1, 3, 4, 5))
    (drawn,) = plot_samples(colour).axes[0].images
    np.testing.assert_allclose(drawn.get_array(), colour[0].transpose(1, 2, 0))


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 6, 7)), (12, (3, 6, 7)), (4, (30,))])
def test_reconstructions_are_below_their_originals(words, images_in, shape, count):
    data = RNG.random((count, *shape))
    axes, text = words(plot_reconstructions(data, 0.5 * data))
    assert "data" in text
    assert "model" in text
    if not is_image(shape):
        assert len([ax for ax in axes if ax.collections]) == 2 * count
        return
    images, columns = images_in(axes[0]), min(count, 10)
    assert len(images) == 2 * count
    for first in range(0, count, columns):
        band = images[2 * first :][: 2 * len(data[first : first + columns])]
        above, below = np.split(np.array(band), 2)
        shown = np.moveaxis(data[first : first + columns], 1, -1)
        np.testing.assert_allclose(above, shown[..., 0] if shape[0] == 1 else shown)
        np.testing.assert_allclose(below, 0.5 * above)


def test_images_are_at_their_places(images_in):
    rows = RNG.random((3, 4, 5, 7))
    (ax,) = draw_grid(
        new_figure(5.0, 4.0),
        [rows[0], rows[1][:3], rows[2]],
        names=("a", "b", "c"),
        titles={1: "second", 3: "last"},
        row_groups=2,
        column_groups=2,
        framed=[(2, 1)],
    )
    drawn = images_in(ax)
    wanted = [*rows[0], *rows[1][:3], *rows[2]]
    np.testing.assert_allclose(drawn, wanted)
    # Rows of five pixels, columns of seven and gaps of one, with an empty line between groups.
    mosaic = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert mosaic.shape == (3 * 5 + 2 + 2, 4 * 7 + 3 + 2)
    np.testing.assert_allclose(mosaic[14:, 8:15], rows[2, 1])
    np.testing.assert_allclose(ax.get_yticks(), [2, 8, 16])
    np.testing.assert_allclose(ax.get_xticks(), [11, 29])
    (frame,) = ax.patches
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (7.5, 13.5, 7, 5)
    assert len(draw_grid(new_figure(5.0, 4.0), [*RNG.random((2, 4, 9))], column_groups=2)) == 8


def test_other_channels_are_side_by_side_on_separate_scales():
    data = RNG.random((5, 4, 6, 7)) * np.array([1, 10, 100, 1000])[:, None, None]
    (drawn,) = plot_samples(data, value_limits(data)).axes[0].images
    grid = np.ma.filled(drawn.get_array(), np.nan)[:13, :15]
    assert np.isnan(grid[6]).all()
    assert np.isnan(grid[:, 7]).all()
    for channel, corner in enumerate([(0, 0), (0, 8), (7, 0), (7, 8)]):
        low, high = data[:, channel].min(), data[:, channel].max()
        there = grid[corner[0] : corner[0] + 6, corner[1] : corner[1] + 7]
        np.testing.assert_allclose(there, (data[0, channel] - low) / (high - low), atol=1e-9)


def test_series_are_lines_with_axes(words):
    data = RNG.normal(size=(2, 3, 40)) + np.array([0, 50, 1])[:, None]
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
