"""The maps onto supports are invertible, with the determinants that autograd finds."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.distributions import InteriorBeta, InteriorDirichlet, InteriorGamma, SphericalUniform
from pyro_vae.evidence.unconstrained import Elementwise, Simplex, bijection_onto

DOUBLE = torch.float64
CPU = torch.device("cpu")
MAPS = {
    "real": (Elementwise("real"), 3),
    "positive": (Elementwise("positive"), 3),
    "unit": (Elementwise("unit"), 3),
    "simplex": (Simplex(4, DOUBLE, CPU), 3),
}


@pytest.mark.parametrize("name", MAPS)
def test_inverse_and_determinant(name):
    bijection, dim = MAPS[name]
    u = 2 * torch.randn(20, dim, dtype=DOUBLE)
    z, log_det, inside = bijection(u)
    torch.testing.assert_close(bijection.inverse(z), u)
    assert inside.all()
    for i in range(len(u)):
        # A density on the simplex is one of all coordinates but the last.
        jacobian = torch.autograd.functional.jacobian(lambda v: bijection(v)[0][:dim], u[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[i])


@pytest.mark.parametrize("corners", [2, 3, 10])
def test_the_simplex_treats_corners_alike(corners):
    bijection = Simplex(corners, DOUBLE, CPU)
    torch.testing.assert_close(
        bijection.basis.mT @ bijection.basis, torch.eye(corners - 1).double()
    )
    torch.testing.assert_close(bijection.basis.sum(0), torch.zeros(corners - 1, dtype=DOUBLE))
    z, log_det, _ = bijection(torch.zeros(corners - 1, dtype=DOUBLE))
    torch.testing.assert_close(z, torch.full_like(z, 1 / corners))
    assert float(log_det) == pytest.approx(-corners * math.log(corners) + math.log(corners) / 2)


@pytest.mark.parametrize(
    ("bijection", "density"),
    [
        (Elementwise("positive"), dist.Gamma(torch.tensor([2.0]).double(), 1.5).to_event(1)),
        (Elementwise("unit"), dist.Beta(torch.tensor([2.0]).double(), 0.7).to_event(1)),
        (Simplex(2, DOUBLE, CPU), dist.Dirichlet(torch.tensor([2.0, 0.7]).double())),
    ],
)
def test_densities_have_mass_one(bijection, density):
    u = torch.linspace(-30, 30, 60_001, dtype=DOUBLE).unsqueeze(-1)
    z, log_det, inside = bijection(u)
    log_prob = torch.where(inside, density.log_prob(z) + log_det, -torch.inf)
    assert float(log_prob.exp().sum() * 1e-3) == pytest.approx(1, abs=1e-6)


EDGES = [
    (Elementwise("positive"), torch.tensor([[0.0], [1e-45], [torch.finfo(torch.float32).tiny]])),
    (Elementwise("unit"), torch.tensor([[0.0], [1.0], [1 - 1e-7], [1e-45]])),
    (Simplex(2, torch.float32, CPU), torch.tensor([[0.0, 1.0], [1.0, 0.0], [1e-45, 1.0]])),
]


@pytest.mark.parametrize(("bijection", "z"), EDGES, ids=["positive", "unit", "simplex"])
def test_draws_that_were_rounded_to_an_edge_are_inside(bijection, z):
    u = bijection.inverse(z)
    assert u.isfinite().all()
    again, log_det, inside = bijection(u)
    assert inside.all()
    assert log_det.isfinite().all()
    assert (again > 0).all()


@pytest.mark.parametrize(("bijection", "z"), EDGES, ids=["positive", "unit", "simplex"])
def test_what_is_far_beyond_an_edge_is_outside_and_has_gradients(bijection, z):
    u = torch.tensor([[-500.0], [500.0]], requires_grad=True)
    again, log_det, inside = bijection(u)
    assert not inside.any()
    (gradient,) = torch.autograd.grad(again.log().sum() + log_det.sum(), u)
    assert again.isfinite().all()
    assert gradient.isfinite().all()


ONES = torch.ones(5, 3)


@pytest.mark.parametrize(
    ("distribution", "kind"),
    [
        (dist.Normal(ONES, ONES).to_event(1), "real"),
        (dist.MultivariateNormal(ONES, torch.eye(3)), "real"),
        (dist.LogNormal(ONES, ONES).to_event(1), "positive"),
        (InteriorGamma(ONES, ONES).to_event(1).expand((4, 5)), "positive"),
        (InteriorBeta(ONES, ONES).to_event(1), "unit"),
        (InteriorDirichlet(ONES), "simplex"),
    ],
)
def test_supports_are_read_from_constraints(distribution, kind):
    like = distribution.sample()
    assert getattr(bijection_onto(distribution, like, site="z"), "support", "simplex") == kind


@pytest.mark.parametrize(
    ("distribution", "word"),
    [
        (SphericalUniform(ONES), None),
        (dist.Bernoulli(0.5 * ONES).to_event(1), None),
        (dist.OneHotCategorical(ONES), None),
        (dist.Pareto(ONES, ONES).to_event(1), None),
        (dist.Normal(ONES, ONES).to_event(1), "sparse"),
        (dist.MixtureSameFamily(dist.Categorical(ONES), dist.Normal(ONES, ONES)), None),
    ],
)
def test_other_supports_are_refused(distribution, word):
    like = distribution.sample()
    with pytest.raises(ValueError, match="real, positive, unit or simplex, but at site 'z' it is"):
        bijection_onto(distribution, like, site="z", support=word)


def test_scalars_are_refused():
    with pytest.raises(
        ValueError, match=r"a latent vector, but at site 'z' .* event shape is \(\)"
    ):
        bijection_onto(dist.Normal(ONES, ONES), ONES, site="z")
