"""Densities on [0, 1] against SciPy and quadrature, near 1/2 and at the ends."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pyro_vae.distributions import Beta, ContinuousBernoulli, LogitNormal

LOGITS = [-1e4, -30.0, -2.0, -0.11, -0.09, -1e-3, 0.0, 1e-6, 0.05, 0.3, 5.0, 30.0, 1e4]


@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_scipys_truncated_exponential(logit):
    p = ContinuousBernoulli(torch.tensor(logit))
    x = np.array([0.0, 0.2, 0.5, 0.9, 1.0], dtype=np.float32)
    if logit == 0:
        expected, mean, variance = np.zeros(5), 0.5, 1 / 12
    else:
        # Falling with |l|, or its mirror image.
        size, mirrored = abs(np.float64(np.float32(logit))), logit > 0
        oracle = stats.truncexpon(size, scale=1 / size)
        expected = oracle.logpdf(1 - x.astype(float) if mirrored else x.astype(float))
        mean = 1 - oracle.mean() if mirrored else oracle.mean()
        variance = 1 / size**2 - (0 if size > 700 else 1 / (4 * math.sinh(size / 2) ** 2))
    np.testing.assert_allclose(p.log_prob(torch.from_numpy(x)), expected, rtol=2e-7, atol=2e-7)
    # SciPy's own moments cancel near 0.
    near = abs(logit) < 1e-4
    assert float(p.mean) == pytest.approx(0.5 + logit / 12 if near else mean, abs=1e-6)
    tolerance = 1e-6 if abs(logit) > 0.05 or logit == 0 else 1e-3
    assert float(p.variance) == pytest.approx(1 / 12 if near else variance, abs=tolerance)


def test_continuous_bernoullis_score_is_x_minus_the_mean():
    """The gradient of an exponential family's log p."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    p = ContinuousBernoulli(logits)
    (gradient,) = torch.autograd.grad(p.log_prob(torch.full_like(logits, 0.3)).sum(), logits)
    torch.testing.assert_close(gradient, 0.3 - p.mean.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("logit", [-30.0, -1.0, 0.0, 1e-5, 0.09, 8.0])
def test_continuous_bernoullis_draws_and_their_gradient(logit):
    torch.manual_seed(0)
    logits = torch.tensor(logit, requires_grad=True)
    p = ContinuousBernoulli(logits)
    x = p.rsample((100_000,))
    variance = float(p.variance.detach())
    assert float(x.detach().mean()) == pytest.approx(
        float(p.mean.detach()), abs=5 * math.sqrt(variance / 1e5)
    )
    assert float(x.detach().var()) == pytest.approx(variance, rel=0.03)
    # d E[x] / d l is the variance, in an exponential family.
    (gradient,) = torch.autograd.grad(x.mean(), logits)
    assert float(gradient) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.5), (2.0, 3.0), (500.0, 0.01), (1e4, 1e4)])
def test_beta_is_scipys_within_the_ends(a, b):
    x = np.array([2e-6, 0.1, 0.5, 0.7, 1 - 1e-4], dtype=np.float32)
    p = Beta(torch.tensor(a), torch.tensor(b))
    expected = stats.beta(np.float32(a), np.float32(b)).logpdf(x.astype(float))
    np.testing.assert_allclose(p.log_prob(torch.from_numpy(x)), expected, rtol=1e-5, atol=1e-4)
    ends = p.expand((2,)).log_prob(torch.tensor([0.0, 1.0]))
    assert ends.isfinite().all()


def test_logit_normal_is_scipys_and_its_moments_are_quadratures():
    loc, scale = np.float32(0.7), np.float32(1.4)
    p = LogitNormal(torch.tensor(loc), torch.tensor(scale))
    x = np.array([2e-6, 0.2, 0.5, 0.99], dtype=np.float32).astype(float)
    logit = np.log(x) - np.log1p(-x)
    expected = stats.norm(loc, scale).logpdf(logit) - np.log(x) - np.log1p(-x)
    np.testing.assert_allclose(p.log_prob(torch.tensor(x)), expected, rtol=1e-5)
    assert p.expand((2,)).log_prob(torch.tensor([0.0, 1.0])).isfinite().all()
    moments = [
        integrate.quad(
            lambda u, k=k: stats.norm(loc, scale).pdf(u) / (1 + math.exp(-u)) ** k, -20, 20
        )[0]
        for k in (1, 2)
    ]
    assert float(p.mean) == pytest.approx(moments[0], abs=1e-6)
    assert float(p.variance) == pytest.approx(moments[1] - moments[0] ** 2, abs=1e-6)
    torch.manual_seed(0)
    draws = p.expand((100_000,)).sample()
    assert float(draws.mean()) == pytest.approx(moments[0], abs=5e-3)


def test_logit_normals_draws_have_the_gradient_of_the_mean():
    torch.manual_seed(0)
    loc, scale = torch.tensor(0.7, requires_grad=True), torch.tensor(1.4, requires_grad=True)
    p = LogitNormal(loc, scale)
    pathwise = torch.autograd.grad(p.rsample((200_000,)).mean(), (loc, scale))
    exact = torch.autograd.grad(p.mean, (loc, scale))
    torch.testing.assert_close(pathwise, exact, atol=2e-3, rtol=0)
