"""Discretised logistics and their mixtures against SciPy, and all levels summed."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.distributions import CategoricalLevels, DiscretizedLogistic, LogisticMixture

LEVELS = 9


@pytest.mark.parametrize("loc", [-7.0, 0.2, 4.0, 8.6, 30.0])
@pytest.mark.parametrize("scale", [0.05, 0.7, 40.0])
def test_log_prob_is_a_difference_of_scipys(loc, scale):
    p = DiscretizedLogistic(torch.tensor(loc), torch.tensor(scale), LEVELS)
    x = np.arange(LEVELS)
    logistic = stats.logistic(np.float64(np.float32(loc)), np.float64(np.float32(scale)))
    upper = np.where(x == LEVELS - 1, np.inf, x + 0.5)
    lower = np.where(x == 0, -np.inf, x - 0.5)
    # On the side where neither is near 1.
    mass = np.where(
        x < loc,
        logistic.cdf(upper) - logistic.cdf(lower),
        logistic.sf(lower) - logistic.sf(upper),
    )
    found = p.log_prob(torch.from_numpy(x)).double()
    assert found.isfinite().all()
    seen = mass > 1e-290
    np.testing.assert_allclose(found[seen], np.log(mass[seen]), rtol=1e-5, atol=2e-6)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(p.mean) == pytest.approx(float((found.exp() * torch.tensor(x)).sum()), abs=1e-4)


@pytest.mark.parametrize("loc", [-1e6, 1e6])
def test_far_tails_are_finite_and_draw_back(loc):
    loc = torch.full((LEVELS,), loc, requires_grad=True)
    scale = torch.full((LEVELS,), 0.01, requires_grad=True)
    log_prob = DiscretizedLogistic(loc, scale, LEVELS).log_prob(torch.arange(LEVELS))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()
    # Every level but the near end pulls the location to itself.
    assert (loc.grad[1:-1] * loc.detach()[1:-1].sign() < 0).all()


def test_draws_have_the_frequencies():
    torch.manual_seed(0)
    p = DiscretizedLogistic(torch.tensor(2.2), torch.tensor(1.5), LEVELS)
    counts = p.expand((50_000,)).sample().long().bincount(minlength=LEVELS)
    mass = p.log_prob(torch.arange(LEVELS)).double().exp()
    assert stats.chisquare(counts, 50_000 * (mass / mass.sum()).numpy()).pvalue > 1e-3


def mixture(levels, pixels=1, components=2, seed=3):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    return LogisticMixture(
        normal(components, 1, 1, pixels),
        levels / 2 + normal(components, 3, 1, pixels),
        normal(components, 3, 1, pixels).exp() * 0.6,
        levels,
        event_dim=3,
        coefficients=normal(components, 3, 1, pixels).tanh(),
    )


def test_a_tied_mixture_has_mass_one_and_the_formulas_density():
    levels = 5
    p = mixture(levels)
    events = torch.tensor(list(itertools.product(range(levels), repeat=3))).float()
    found = p.log_prob(events.view(-1, 3, 1, 1))
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    weights = p.logits.flatten().softmax(0)
    middle = (levels - 1) / 2
    for event, log_prob in zip(events[::7], found[::7], strict=True):
        red, green, _ = event - middle
        total = torch.zeros(())
        for k, weight in enumerate(weights):
            a, b, c = p.coefficients[k].flatten()
            moved = torch.stack([torch.zeros(()), a * red, b * red + c * green])
            loc = p.loc[k].flatten() + moved
            one = DiscretizedLogistic(loc, p.scale[k].flatten(), levels)
            total = total + weight * one.log_prob(event).sum().exp()
        assert float(log_prob) == pytest.approx(float(total.log()), abs=1e-4)


def test_a_tied_mixture_draws_what_it_says():
    torch.manual_seed(0)
    levels = 3
    p = mixture(levels)
    events = torch.tensor(list(itertools.product(range(levels), repeat=3))).float()
    mass = p.log_prob(events.view(-1, 3, 1, 1)).exp().double()
    x = p.expand((60_000,)).sample().view(-1, 3).long()
    counts = (x @ torch.tensor([9, 3, 1])).bincount(minlength=27)
    assert stats.chisquare(counts, 60_000 * (mass / mass.sum()).numpy()).pvalue > 1e-3


def test_a_tied_mixtures_mean_is_exact_within_the_levels():
    torch.manual_seed(0)
    p = mixture(40, pixels=4)
    draws = p.expand((20_000,)).sample()
    assert draws.shape == (20_000, 3, 1, 4)
    error = 5 * draws.std(0) / 20_000**0.5 + 0.01
    assert ((draws.mean(0) - p.mean).abs() < error).all()


def test_an_untied_mixture_is_one_of_each_element():
    logits, loc, scale = torch.randn(2, 3, 4), 4 + torch.randn(2, 3, 4), torch.rand(2, 3, 4) + 0.2
    p = LogisticMixture(logits, loc, scale, LEVELS)
    x = torch.randint(LEVELS, (2, 4))
    each = DiscretizedLogistic(loc, scale, LEVELS).log_prob(x[:, None])
    expected = torch.logsumexp(logits.log_softmax(1) + each, 1).sum(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.manual_seed(0)
    draws = p.expand((20_000, 2)).sample()
    torch.testing.assert_close(draws.mean(0), p.mean, atol=0.1, rtol=0)


def test_levels_of_a_categorical_have_moments():
    logits = torch.randn(3, LEVELS)
    p = CategoricalLevels(logits=logits)
    for n in range(3):
        probs = logits[n].double().softmax(0).numpy()
        oracle = stats.rv_discrete(values=(np.arange(LEVELS), probs / probs.sum()))
        assert float(p.mean[n]) == pytest.approx(oracle.mean(), rel=1e-5)
        assert float(p.variance[n]) == pytest.approx(oracle.var(), rel=1e-4)
        np.testing.assert_allclose(p.log_prob(torch.full((3,), 4))[n], oracle.logpmf(4), rtol=1e-5)
    assert CategoricalLevels(logits=1e4 * logits).log_prob(torch.tensor(4)).isfinite().all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_discretized_logistic_has_its_variance(levels):
    top = levels - 1
    loc = top * torch.tensor([-0.3, 0.0, 0.31, 0.5, 0.77, 1.2])
    scale = top * torch.tensor([0.1, 0.01, 0.001, 0.3, 0.05, 0.2])
    p = DiscretizedLogistic(loc, scale, levels)
    values = torch.arange(levels).double()[:, None]
    mass = DiscretizedLogistic(loc.double(), scale.double(), levels).log_prob(values).exp()
    mean = (mass * values).sum(0)
    variance = (mass * (values - mean).square()).sum(0)
    torch.testing.assert_close(p.variance.double(), variance, rtol=1e-4, atol=1e-5)
