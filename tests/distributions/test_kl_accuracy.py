"""Divergences in float32 against the same in float64, at large and small concentrations."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.distributions import InteriorBeta, InteriorDirichlet, InteriorGamma


def pairs(c, dtype):
    def t(*values):
        return torch.tensor(values, dtype=dtype)

    log_normal = dist.LogNormal(t(0.3), t(0.5))
    yield InteriorGamma(t(1.3 * c), t(2 * c)), InteriorGamma(t(1.0), t(1.0))
    yield InteriorBeta(t(1.3 * c), t(0.9 * c)), InteriorBeta(t(1.0), t(1.0))
    yield InteriorDirichlet(t(*[1.1 * c] * 8)), InteriorDirichlet(t(*[1.0] * 8))
    yield log_normal, InteriorGamma(t(c), t(1.2 * c))
    yield InteriorGamma(t(1.3 * c), t(2 * c)), log_normal
    yield dist.Weibull(t(1.4), t(1.7)), InteriorGamma(t(c), t(1.2 * c))


@pytest.mark.parametrize("c", [0.05, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("pair", range(6))
def test_float32_is_float64(c, pair):
    q, p = list(pairs(c, torch.float32))[pair]
    exact = kl_divergence(*list(pairs(c, torch.float64))[pair])
    kl = kl_divergence(q, p)
    assert kl.dtype == torch.float32
    # What rounding the parameters changes is allowed.
    torch.testing.assert_close(kl.double(), exact, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("family", [InteriorGamma, InteriorBeta])
def test_closed_form_is_monte_carlo(family):
    torch.manual_seed(0)
    q = family(torch.tensor(2.5), torch.tensor(1.3))
    p = family(torch.tensor(0.8), torch.tensor(1.9))
    z = q.sample((200_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std() / len(z) ** 0.5
    assert (ratio.mean() - kl_divergence(q, p)).abs() < 5 * error


def test_dirichlets_is_monte_carlo():
    torch.manual_seed(0)
    q = InteriorDirichlet(torch.tensor([2.0, 0.7, 1.5]))
    p = InteriorDirichlet(torch.tensor([1.0, 0.4, 3.0]))
    z = q.sample((200_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    assert (ratio.mean() - kl_divergence(q, p)).abs() < 5 * ratio.std() / len(z) ** 0.5
