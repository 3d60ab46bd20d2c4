"""Low-rank normals and divergences of normals against dense float64 ones and Monte Carlo."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.distributions import LowRankNormal


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
