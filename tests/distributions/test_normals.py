"""Low-rank normals and mixtures of diagonal normals against torch's."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import DiagonalNormalMixture, LowRankNormal


@pytest.mark.parametrize("leading", [(), (4,)])
def test_density_is_scipys(leading):
    loc, factor = torch.randn(4, 2, 3), torch.randn(*leading, 6, 2)
    scale = torch.rand(*leading, 2, 3) + 0.1
    p = LowRankNormal(loc, factor, scale, event_dim=2)
    x = torch.randn(4, 2, 3)
    found = p.expand((5, 4)).log_prob(x)
    assert found.shape == (5, 4)
    for n in range(4):
        w = (factor[n] if leading else factor).double().numpy()
        sigma = (scale[n] if leading else scale).double().flatten().numpy()
        covariance = w @ w.T + np.diag(sigma**2)
        oracle = stats.multivariate_normal(loc[n].flatten().double().numpy(), covariance)
        assert float(found[3, n]) == pytest.approx(oracle.logpdf(x[n].flatten()), rel=1e-5)
        np.testing.assert_allclose(p.variance[n].flatten(), np.diag(covariance), rtol=1e-5)


def test_draws_have_the_covariance_and_pathwise_gradients():
    torch.manual_seed(0)
    factor = torch.randn(3, 2, requires_grad=True)
    scale = (torch.rand(3) + 0.1).requires_grad_()
    x = LowRankNormal(torch.ones(3), factor, scale).rsample((200_000,))
    covariance = factor @ factor.T + scale.square().diag()
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.05, rtol=0.02)
    pathwise = torch.autograd.grad((x - 1).prod(-1).mean() + (x[:, 0] * x[:, 1]).mean(), factor)
    exact = torch.autograd.grad(covariance[0, 1], factor)  # The third central moment is 0.
    torch.testing.assert_close(pathwise, exact, atol=0.1, rtol=0)


def test_a_tiny_scale_and_a_large_factor_are_finite():
    factor = torch.full((784, 10), 10.0, requires_grad=True)
    scale = torch.full((784,), 1e-2, requires_grad=True)
    loc = torch.zeros(784, requires_grad=True)
    log_prob = LowRankNormal(loc, factor, scale).log_prob(1e4 * torch.ones(784))
    log_prob.backward()
    assert log_prob.isfinite()
    for parameter in (factor, scale, loc):
        assert parameter.grad.isfinite().all()


@pytest.fixture
def pair():
    """The same mixture twice, ours and torch's."""
    logits, loc, scale = torch.randn(7), 3 * torch.randn(7, 4), torch.rand(7, 4) + 0.05
    for parameter in (logits, loc, scale):
        parameter.requires_grad_()
    torchs = dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1)
    )
    return DiagonalNormalMixture(logits, loc, scale), torchs, (logits, loc, scale)


def test_density_and_gradients(pair):
    ours, torchs, parameters = pair
    z = 3 * torch.randn(5, 6, 4)
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z), rtol=1e-5, atol=1e-5)
    # Random signs: a plain sum would let an error in one term hide behind another.
    sign = torch.randn(5, 6)
    mine = torch.autograd.grad((sign * ours.log_prob(z)).sum(), parameters)
    theirs = torch.autograd.grad((sign * torchs.log_prob(z)).sum(), parameters)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_narrow_components_far_from_the_origin_keep_their_digits():
    loc, scale = torch.full((2, 50), 30.0), torch.full((2, 50), 1e-3)
    ours = DiagonalNormalMixture(torch.zeros(2), loc, scale)
    z = loc[:1] + 1e-3
    expected = dist.Normal(loc[:1].double(), scale[:1].double()).to_event(1).log_prob(z.double())
    torch.testing.assert_close(ours.log_prob(z).double(), expected, rtol=0, atol=1e-3)


def test_moments_and_samples(pair):
    ours, torchs, _ = pair
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)
    z = ours.sample((200_000,))
    assert not z.requires_grad
    error = (ours.variance / len(z)).sqrt()
    assert ((z.mean(0) - ours.mean).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0), ours.variance, rtol=0.03, atol=0)


def test_shapes(pair):
    ours, _, _ = pair
    expanded = ours.expand((3, 5))
    assert expanded.batch_shape == (3, 5)
    assert expanded.sample((2,)).shape == (2, 3, 5, 4)
    assert expanded.mean.shape == expanded.variance.shape == (3, 5, 4)
    assert expanded.log_prob(torch.zeros(4)).shape == (3, 5)
    assert expanded.log_prob(torch.zeros(2, 3, 5, 4)).shape == (2, 3, 5)


def test_validation(pair):
    ours, _, (logits, loc, scale) = pair
    with pytest.raises(ValueError, match="scale"):
        DiagonalNormalMixture(logits, loc, -scale)
    with pytest.raises(ValueError, match="support"):
        ours.expand((1,)).log_prob(torch.full((1, 4), float("nan")))
