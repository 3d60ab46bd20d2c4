"""Pictures of densities: what is shaded is the density, on the support's own map."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from analysis.plotting.latent import draw_density, latent_dim
from analysis.plotting.style import new_figure
from pyro_vae.distributions import OneHots


class Known(nn.Module):
    """A prior of this support and distribution."""

    def __init__(self, support, distribution, **attributes):
        super().__init__()
        self.support, self.distribution = support, distribution
        self.latent_dim = distribution.event_shape[0]
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self):
        return self.distribution


def picture(prior, codes=None) -> tuple[np.ndarray, object]:
    ax = new_figure(2.0, 2.0).subplots()
    draw_density(ax, prior, codes)
    return np.asarray(ax.images[0].get_array()) if ax.images else np.array([]), ax


def test_the_plane():
    loc = torch.tensor([2.0, -1.0])
    shades, ax = picture(Known("real", dist.Normal(loc, torch.ones(2)).to_event(1)))
    row, column = np.unravel_index(shades.argmax(), shades.shape)
    left, right, bottom, top = ax.images[0].get_extent()
    assert left + (right - left) * column / 160 == pytest.approx(2, abs=0.06)
    assert bottom + (top - bottom) * row / 160 == pytest.approx(-1, abs=0.06)
    assert shades.max() == pytest.approx(math.sqrt(1 / (2 * math.pi)), rel=1e-2)


def test_the_triangle():
    prior = Known("simplex", dist.Dirichlet(torch.ones(3)))
    shades, ax = picture(prior, torch.eye(3))
    inside = shades[shades > 0]
    assert np.allclose(inside, math.sqrt(2.0))
    # The triangle's share of the picture.
    left, right, bottom, top = ax.images[0].get_extent()
    assert (shades > 0).mean() == pytest.approx(
        math.sqrt(3) / 4 / ((right - left) * (top - bottom)), abs=0.02
    )
    # Its apex is above the middle of its base.
    _, columns = np.nonzero(shades[-8:])
    assert left + (right - left) * columns.mean() / 160 == pytest.approx(0.5, abs=0.02)
    corners = np.column_stack(ax.lines[-1].get_data())
    np.testing.assert_allclose(corners, [[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]], atol=1e-12)


def test_cells_and_exact_zeros():
    logits = torch.tensor([[0.5, 0.5], [1.0, 1e-30]]).log()
    codes = Known("one_hot", OneHots(logits), values=2)
    codes.latent_dim = latent_dim("one_hot")
    cells, _ = picture(codes)
    np.testing.assert_allclose(cells, [[0.5, 0.5], [0, 0]], atol=1e-6)

    class Zeros(dist.Delta):
        pass

    _, ax = picture(Known("sparse", Zeros(torch.zeros(2), event_dim=1)))
    assert len(ax.lines[-1].get_xdata()) == 1


def test_more_dimensions_than_a_picture():
    with pytest.raises(ValueError, match="latent_dim 2, got 3"):
        picture(Known("real", dist.Normal(torch.zeros(3), 1.0).to_event(1)))
