"""Negative binomials and multinomials against SciPy, their own moments, and where they overflow."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import Multinomial, NegativeBinomial


def negative_binomial(mean, inverse_dispersion, gate=None):
    log = [torch.tensor(value).log() for value in (mean, inverse_dispersion)]
    gate_logits = None if gate is None else torch.logit(torch.tensor(gate))
    return NegativeBinomial(*log, gate_logits)


@pytest.mark.parametrize("mean", [1e-4, 0.3, 20.0, 3e3])
@pytest.mark.parametrize("t", [1e-4, 0.5, 30.0, 1e5])
def test_negative_binomial_is_scipys(mean, t):
    x = np.array([0, 1, 2, 7, 100, 5_000])
    expected = stats.nbinom(t, t / (t + mean)).logpmf(x)
    log_prob = negative_binomial(mean, t).log_prob(torch.tensor(x))
    np.testing.assert_allclose(log_prob, expected, rtol=3e-5, atol=1e-5)


def test_a_large_inverse_dispersion_is_a_poisson():
    x = np.arange(60)
    log_prob = negative_binomial(12.0, math.exp(12)).log_prob(torch.tensor(x))
    np.testing.assert_allclose(log_prob, stats.poisson(12.0).logpmf(x), rtol=1e-3, atol=1e-4)


def test_inflation_is_a_mixture_with_an_atom():
    x = np.arange(40)
    nbinom = stats.nbinom(2.0, 2.0 / (2.0 + 3.0))
    expected = np.log(0.3 * (x == 0) + 0.7 * nbinom.pmf(x))
    log_prob = negative_binomial(3.0, 2.0, 0.3).log_prob(torch.tensor(x))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


@pytest.mark.parametrize("gate", [None, 0.3])
def test_negative_binomial_moments_are_those_of_the_mass_and_of_draws(gate):
    p = negative_binomial(3.0, 2.0, gate)
    x = torch.arange(400.0)
    mass = p.log_prob(x).double().exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    mean = float((mass * x).sum())
    variance = float((mass * x**2).sum()) - mean**2
    assert float(p.mean) == pytest.approx(mean, rel=1e-5)
    assert float(p.variance) == pytest.approx(variance, rel=1e-4)
    torch.manual_seed(0)
    draws = p.expand((40_000,)).sample()
    assert float(draws.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 40_000))
    assert float(draws.var()) == pytest.approx(variance, rel=0.07)


@pytest.mark.parametrize("log_mean", [-1e4, 1e4])
@pytest.mark.parametrize("gate", [None, -1e4, 1e4])
def test_negative_binomial_is_finite_in_the_tails(log_mean, gate):
    log_mean = torch.full((3,), log_mean, requires_grad=True)
    log_t = torch.full((3,), -12.0, requires_grad=True)
    parameters = [log_mean, log_t]
    if gate is not None:
        parameters.append(torch.full((3,), gate, requires_grad=True))
    p = NegativeBinomial(*parameters)
    log_prob = p.log_prob(torch.tensor([0.0, 1.0, 800.0]))
    assert log_prob.isfinite().all()
    for gradient in torch.autograd.grad(log_prob.sum(), parameters):
        assert gradient.isfinite().all()
    assert p.mean.isfinite().all()
    assert p.sample((5,)).isfinite().all()


def test_multinomial_is_scipys_for_each_total():
    logits = torch.randn(4, 5)
    x = torch.tensor([[0, 0, 0, 0, 0], [3, 1, 0, 2, 9], [0, 1, 0, 0, 0], [90, 11, 300, 2, 57]])
    log_prob = Multinomial(logits, torch.tensor(1.0)).log_prob(x)
    for n in range(4):
        probs = logits[n].double().softmax(-1).numpy()
        expected = stats.multinomial(int(x[n].sum()), probs / probs.sum()).logpmf(x[n].numpy())
        assert float(log_prob[n]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_multinomial_draws_have_the_total_and_the_moments():
    torch.manual_seed(0)
    p = Multinomial(torch.randn(2, 1, 3), torch.tensor(12.0), event_dim=2).expand((20_000, 2))
    x = p.sample()
    assert x.shape == (20_000, 2, 1, 3)
    assert (x.sum((-2, -1)) == 12).all()
    torch.testing.assert_close(x.mean(0), p.mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(x.var(0), p.variance[0], atol=0.1, rtol=0)


def test_multinomial_is_finite_in_the_tails():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    log_prob = Multinomial(logits, torch.tensor(3.0)).log_prob(torch.tensor([[0, 2, 800]]))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert logits.grad.isfinite().all()
    assert Multinomial(logits, torch.tensor(3.0)).sample().sum() == 3
