"""Distributions off the real line against quadrature, Monte Carlo and enumeration."""

import pyro.distributions as dist
import pytest
import torch
from scipy import integrate
from torch.distributions import kl_divergence

from pyro_vae.distributions import (
    InteriorBeta,
    InteriorDirichlet,
    InteriorGamma,
    LogisticNormal,
    OneHots,
    SpikeAndSlab,
)
from pyro_vae.distributions.kl import mean_log_complement

t = torch.tensor


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pairs():
    log_normal = dist.LogNormal(t([0.3]), t([0.6])).to_event(1)
    gamma = InteriorGamma(t([2.5]), t([1.3])).to_event(1)
    weibull = dist.Weibull(t([1.4]), t([1.7])).to_event(1)
    logistic = LogisticNormal(t([0.3, -1.0, 0.5]), t([0.4, 1.2, 0.7]))
    other = LogisticNormal(t([0.0, 0.2, -0.4]), t([1.0, 0.8, 1.5]))
    dirichlet = InteriorDirichlet(t([2.0, 0.7, 1.5]))
    sparse = SpikeAndSlab(t([0.4]), t([1.0]), t([0.5])).to_event(1)
    spikes = SpikeAndSlab(t([-1.0]), t([0.2]), t([1.5])).to_event(1)
    yield from [(log_normal, gamma), (weibull, gamma), (gamma, log_normal), (gamma, gamma)]
    yield log_normal, dist.LogNormal(t([0.0]), t([1.0])).to_event(1)
    yield from [(logistic, other), (dirichlet, other), (sparse, spikes)]
    yield OneHots(torch.randn(2, 3)), OneHots(torch.randn(2, 3))
    yield (
        dist.Kumaraswamy(t([1.7]).double(), t([0.6]).double()).to_event(1),
        dist.Beta(t([0.8]).double(), t([1.9]).double()).to_event(1),
    )


@pytest.mark.parametrize(("q", "p"), list(pairs()))
def test_closed_form_kl_is_monte_carlo(q, p):
    z = q.sample((400_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std() / len(z) ** 0.5
    assert (ratio.mean() - kl_divergence(q, p)).abs() < 5 * error + 1e-4


@pytest.mark.parametrize("a", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("b", [0.05, 1.0, 30.0])
def test_mean_log_complement(a, b):
    def integrand(s):  # With u = exp(-s) the survival function.
        w = torch.exp(-t(s / b, dtype=torch.float64))
        return float(torch.log(-torch.expm1(torch.log1p(-w) / a))) * float(torch.exp(t(-s)))

    exact = integrate.quad(integrand, 1e-12, 35, limit=500)[0]
    assert float(mean_log_complement(t(a), t(b))) == pytest.approx(exact, rel=1e-4)


def test_logistic_normal_has_mass_one():
    p = LogisticNormal(t([0.3, -1.0, 0.5]).double(), t([0.4, 1.2, 0.7]).double())
    y = torch.linspace(-14, 14, 400).double()
    logits = torch.cat([torch.cartesian_prod(y, y), torch.zeros(160_000, 1).double()], -1)
    z = logits.softmax(-1)
    total = (p.log_prob(z) + z.log().sum(-1)).exp().sum() * (y[1] - y[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_draws_near_the_boundary_are_finite():
    for p in (
        InteriorDirichlet(torch.full((30,), 0.02, requires_grad=True)),
        InteriorGamma(torch.full((30,), 0.02), torch.ones(30)).to_event(1),
        LogisticNormal(torch.full((30,), 20.0) * torch.randn(30), torch.full((30,), 5.0)),
    ):
        z = p.rsample((1000,))
        assert p.support.check(z).all()
        assert p.log_prob(z).isfinite().all()


def test_draws_of_beta_stay_off_both_ends():
    """In float32 most of these are nearer to 1 than any number below it."""
    q = InteriorBeta(t([0.05, 0.02, 5.0]), t([0.05, 5.0, 0.02]))
    z = q.rsample((20_000,))
    assert (z > 0).all()
    assert (z < 1).all()
    assert q.log_prob(z).isfinite().all()


def test_spikes_are_exact_zeros_and_slab_gradients_exact():
    logits, loc, scale = (t(v, requires_grad=True) for v in (0.4, 1.0, 0.5))
    q = SpikeAndSlab(logits, loc, scale)
    z = q.rsample((400_000,))
    gamma = float(q.probs.detach())
    assert float((z == 0).float().mean()) == pytest.approx(1 - gamma, abs=4e-3)
    # E[z^2] = gamma (m^2 + s^2).
    gradients = torch.autograd.grad(z.square().mean(), (loc, scale))
    assert float(gradients[0]) == pytest.approx(2 * gamma, rel=0.02)
    assert float(gradients[1]) == pytest.approx(gamma, rel=0.02)


@pytest.mark.parametrize("estimator", ["gumbel_softmax", "straight_through"])
def test_one_hots_are_vertices_with_the_mass_of_a_categorical(estimator):
    q = OneHots(torch.randn(2, 3, requires_grad=True), 0.5, estimator)
    z = q.rsample((100_000,))
    assert q.support.check(z).all()
    torch.testing.assert_close(z.mean(0), q.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(
        q.log_prob(z), dist.OneHotCategorical(logits=q.logits).log_prob(z.view(-1, 2, 3)).sum(-1)
    )


def test_the_exact_posterior_gives_the_evidence():
    prior, likelihood = torch.randn(1, 3), torch.randn(3)
    joint = prior.log_softmax(-1)[0] + likelihood
    q, p = OneHots(joint[None]), OneHots(prior)
    z = q.sample((50,))
    bound = z @ likelihood + p.log_prob(z) - q.log_prob(z)
    torch.testing.assert_close(bound, joint.logsumexp(-1).expand(50))
