"""Mixtures of many normals, against torch's own log densities."""

import math

import pytest
import torch
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from analysis.elbo.aggregate_posterior import (
    coefficients,
    features,
    is_normal,
    log_marginal,
    log_sum,
)
from pyro_vae.distributions import LowRankNormal


@pytest.fixture
def draw():
    """Standard normal numbers of one stream."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", ["diagonal", "full", "low rank", "our low rank"])
def test_the_joint_is_the_log_sum_of_densities(draw, form):
    loc, scale = 3 + draw(40, 5), (draw(40, 5) - 3).exp()
    factor = scale[..., None] * draw(40, 5, 2)
    q = {
        "diagonal": lambda: Independent(Normal(loc, scale), 1),
        "full": lambda: MultivariateNormal(
            loc, scale_tril=torch.diag_embed(scale) + 0.1 * draw(40, 5, 5).tril(-1)
        ),
        "low rank": lambda: LowRankMultivariateNormal(loc, factor, scale.square()),
        "our low rank": lambda: LowRankNormal(loc, factor, scale),
    }[form]()
    assert is_normal(q)
    z = q.sample() + 1e-3
    truth = q.expand(torch.Size((40, 40))).log_prob(z[:, None].expand(40, 40, 5)).logsumexp(1)
    centre = z.mean(0)
    found = log_sum(features(z - centre, q), coefficients(q, centre))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)


def test_a_narrow_component_far_out_keeps_its_digits():
    """(z - mu)^2 / sigma^2 is of order 1, its terms of order 10^13."""
    loc = torch.tensor([[30.0], [-30.0]], dtype=torch.float64)
    scale = torch.full_like(loc, 1e-5)
    q = Independent(Normal(loc, scale), 1)
    z = loc + scale
    found = log_sum(features(z - 0.1, q), coefficients(q, torch.full((1,), 0.1).double()))
    truth = -0.5 - math.log(1e-5) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found, torch.full((2,), truth).double(), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("width", "narrow"),
    [(1.0, 0.0), (0.01, 0.0), (1e-4, 0.0), (0.5, 0.01)],
)
def test_the_line_is_interpolated_to_a_thousandth(draw, width, narrow):
    """Of some widths; and wide components with a share of narrow ones among them."""
    loc, scale = draw(400), width * (0.3 * draw(400)).exp()
    scale[: int(narrow * 400)] = 1e-3
    z = (loc + scale * draw(400)).repeat(2)
    z = z + torch.cat([torch.zeros(400), scale * draw(400)])
    found = log_marginal(z, loc, scale)
    direct = log_marginal(z, loc, scale, interpolate=False)
    truth = Normal(loc, scale).log_prob(z[:50, None]).logsumexp(1) - math.log(400)
    torch.testing.assert_close(direct[:50], truth, rtol=0, atol=1e-6)
    assert (found - direct).abs().max() < 1e-3


def test_ties_one_point_and_what_is_not_finite():
    loc, scale = torch.zeros(5).double(), torch.ones(5).double()
    for z in (torch.zeros(300), torch.tensor([1.0]), torch.arange(300.0).remainder(70)):
        found = log_marginal(z.double(), loc, scale)
        torch.testing.assert_close(found, Normal(0.0, 1.0).log_prob(z.double()), atol=1e-3, rtol=0)
    assert log_marginal(torch.tensor([math.nan]).double(), loc, scale).isnan().all()
