"""Distribution functions against SciPy's and against sums of the mass."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli

from analysis.calibration.distribution_functions import distribution_function
from pyro_vae.distributions import CategoricalLevels, DiscretizedLogistic, NegativeBinomial


def counts():
    x = torch.randint(0, 9, (7, 30), generator=torch.Generator().manual_seed(0)).float()
    # On both sides of where a sum gives way to the incomplete beta function.
    x[0, :6] = torch.tensor([63.0, 64, 65, 100, 500, 0])
    x[1] = 0
    return x


@pytest.mark.parametrize("inflated", [False, True])
def test_negative_binomial_is_scipys(inflated):
    generator = torch.Generator().manual_seed(1)
    log_mean = 2 * torch.randn(5, 7, 30, generator=generator) + 1
    log_t = 2 * torch.randn(30, generator=generator)
    gate = torch.randn(5, 7, 30, generator=generator) if inflated else None
    distribution, x = NegativeBinomial(log_mean, log_t, gate), counts()
    below, equal = distribution_function(distribution, x, distribution.log_prob(x))
    t, mean = log_t.double().exp(), log_mean.double().exp()
    expected = stats.nbinom.cdf(x.double() - 1, t, t / (t + mean))
    if gate is not None:
        zero = gate.double().sigmoid().numpy()
        expected = np.where(x > 0, zero + (1 - zero) * expected, 0)
    np.testing.assert_allclose(below, expected, atol=1e-6)
    np.testing.assert_allclose(equal, distribution.log_prob(x).exp())


def test_all_zeros_are_below_nothing():
    distribution, x = NegativeBinomial(torch.zeros(4, 2, 3), torch.zeros(3)), torch.zeros(2, 3)
    below, _ = distribution_function(distribution, x, distribution.log_prob(x))
    assert below.abs().max() == 0


@pytest.mark.parametrize(
    "distribution",
    [
        CategoricalLevels(logits=torch.linspace(-1, 1, 24).reshape(2, 3, 4).sin() * 3),
        DiscretizedLogistic(torch.linspace(-1, 5, 6).reshape(2, 3), torch.tensor(0.7), 4),
    ],
)
def test_levels_are_sums_of_the_mass(distribution):
    x = torch.tensor([0.0, 2, 3])
    below, equal = distribution_function(distribution, x, distribution.log_prob(x))
    mass = torch.stack([distribution.log_prob(torch.full((3,), float(k))).exp() for k in range(4)])
    levels = torch.arange(4).reshape(4, 1, 1)
    np.testing.assert_allclose(below, torch.where(levels < x, mass, 0).sum(0), atol=1e-6)
    np.testing.assert_allclose(equal, torch.where(levels == x, mass, 0).sum(0), atol=1e-6)


def test_others_have_none():
    distribution, x = Bernoulli(torch.full((3,), 0.5)), torch.ones(3)
    assert distribution_function(distribution, x, distribution.log_prob(x)) is None
