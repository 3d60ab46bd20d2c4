"""The low-rank normal against SciPy's, its draws and their gradients."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import LowRankNormal


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
