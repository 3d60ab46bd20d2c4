"""Closed-form KL divergences against quadrature, draws and torch."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from pyro_vae.distributions import (
    InteriorBeta,
    InteriorDirichlet,
    InteriorGamma,
    LowRankNormal,
    VonMisesFisher,
)


def low_rank(kind, batch=(4,), dim=5, rank=2, dtype=torch.float32):
    loc = torch.randn(*batch, dim, dtype=dtype)
    factor = torch.randn(*batch, dim, rank, dtype=dtype)
    variance = torch.rand(*batch, dim, dtype=dtype) + 0.1
    # Ours takes the scale.
    return kind(loc, factor, variance.sqrt() if kind is LowRankNormal else variance)


def diagonal(batch=(4,), dim=5, dtype=torch.float32):
    scale = torch.rand(*batch, dim, dtype=dtype) + 0.3
    return dist.Normal(torch.randn(*batch, dim, dtype=dtype), scale).to_event(1)


def dense(normal):
    """The same distribution with its covariance written out, in float64."""
    if isinstance(normal, dist.Independent):
        covariance = torch.diag_embed(normal.variance.double())
    elif isinstance(normal, LowRankNormal):
        factor = normal.factor.double()
        covariance = factor @ factor.mT + torch.diag_embed(normal.scale.double().square())
    elif isinstance(normal, dist.LowRankMultivariateNormal):
        factor = normal.cov_factor.double()
        covariance = factor @ factor.mT + torch.diag_embed(normal.cov_diag.double())
    else:
        covariance = normal.covariance_matrix.double()
    return dist.MultivariateNormal(normal.mean.double(), covariance)


@pytest.mark.parametrize("kind", [LowRankNormal, dist.LowRankMultivariateNormal])
@pytest.mark.parametrize("reverse", [False, True])
def test_low_rank_and_diagonal(kind, reverse):
    pair = low_rank(kind), diagonal(batch=())
    q, p = reversed(pair) if reverse else pair
    exact = kl_divergence(dense(q), dense(p))
    torch.testing.assert_close(kl_divergence(q, p).double(), exact, rtol=1e-5, atol=1e-5)
    z = q.sample((100_000,))
    ratio = q.expand((4,)).log_prob(z if z.dim() == 3 else z[:, None].expand(-1, 4, -1))
    z = z if z.dim() == 3 else z[:, None].expand(-1, 4, -1)
    ratio = ratio - p.expand((4,)).log_prob(z)
    error = ratio.std(0) / 100_000**0.5
    assert ((ratio.mean(0) - exact).abs() < 5 * error).all()


def test_low_rank_and_full_are_torchs():
    q = low_rank(LowRankNormal)
    p = dense(low_rank(LowRankNormal))
    p = dist.MultivariateNormal(p.loc.float(), p.covariance_matrix.float())
    for one, other in ((q, p), (p, q), (q, low_rank(LowRankNormal))):
        exact = kl_divergence(dense(one), dense(other))
        torch.testing.assert_close(kl_divergence(one, other).double(), exact, rtol=1e-3, atol=1e-3)


def test_normal_and_laplace():
    q = dist.Normal(torch.tensor([0.0, 0.3, -4.0, 50.0]), torch.tensor([1.0, 0.2, 2.0, 0.01]))
    p = dist.Laplace(torch.tensor(0.1), torch.tensor(0.7))
    z = q.sample((200_000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    error = ratio.std(0) / 200_000**0.5
    assert ((kl_divergence(q, p) - ratio.mean(0)).abs() < 5 * error + 1e-4).all()


def test_low_rank_density():
    q = low_rank(LowRankNormal)
    z = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(z).double(), dense(q).log_prob(z.double()))
    torch.testing.assert_close(q.expand((3, 4)).log_prob(z), q.log_prob(z))
    draws = q.sample((100_000,))
    for k in range(4):
        torch.testing.assert_close(
            draws[:, k].T.cov(), q.covariance_matrix[k], rtol=0.05, atol=0.05
        )


def test_a_dominant_factor_keeps_the_digits():
    """Float32 throughout is wrong by nats here, or has no Cholesky factor."""
    factor = 1e4 * torch.ones(1, 5, 2) + torch.randn(1, 5, 2)
    q = LowRankNormal(torch.zeros(1, 5), factor, torch.ones(1, 5))
    z = q.sample((100,))
    exact = dense(q).log_prob(z.double())
    torch.testing.assert_close(q.log_prob(z).double(), exact, rtol=0, atol=1e-2)


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


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.01, 1.0, 50.0, 5000.0])
@pytest.mark.parametrize(("loc", "other"), [(0.3, 2.0), (3.0, 0.7)])
def test_kl(kappa, loc, other):
    (q_loc, p_loc), (q_kappa, p_kappa) = numbers(loc, 1.0), numbers(kappa, other)
    q, p = dist.VonMises(q_loc, q_kappa), dist.VonMises(p_loc, p_kappa)
    found = float(kl_divergence(q, p))
    # Periodic and smooth: the sum over a fine grid is exact to rounding.
    angles = np.linspace(-math.pi, math.pi, 20_001)[1:]
    log_q = stats.vonmises.logpdf(angles, kappa, loc=loc)
    log_p = stats.vonmises.logpdf(angles, other, loc=1.0)
    expected = (np.exp(log_q) * (log_q - log_p)).sum() * 2 * math.pi / 20_000
    assert found == pytest.approx(expected, abs=1e-9, rel=1e-9)

    def on_the_circle(angle, concentration):
        return VonMisesFisher(torch.stack([angle.cos(), angle.sin()]), concentration)

    same = kl_divergence(on_the_circle(q_loc, q_kappa), on_the_circle(p_loc, p_kappa))
    assert found == pytest.approx(float(same), abs=1e-9, rel=1e-9)


def test_gradients_and_independents():
    loc, kappa = numbers(0.2, 1.0).requires_grad_(), numbers(0.5, 80.0).requires_grad_()
    p = dist.VonMises(numbers(0.0, 0.0), numbers(2.0, 3.0))
    assert torch.autograd.gradcheck(
        lambda loc, kappa: kl_divergence(dist.VonMises(loc, kappa), p), (loc, kappa)
    )
    q = dist.VonMises(loc, kappa)
    total = kl_divergence(q.to_event(1), p.to_event(1))
    torch.testing.assert_close(total, kl_divergence(q, p).sum())
    assert kl_divergence(p, p).abs().max() < 1e-12
