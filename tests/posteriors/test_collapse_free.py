"""Lower bounds of the KL, whatever an encoder says."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae.model import build
from pyro_vae.networks.layers import require_separable
from pyro_vae.posteriors import BatchNormalised, CommittedRate
from pyro_vae.priors import Vamp


class Given(nn.Module):
    """An encoder that gives its input, in another shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, x):
        return x.unflatten(-1, self.shape)


def standard(n):
    return dist.Normal(torch.zeros(n), torch.ones(n)).to_event(1)


@pytest.mark.parametrize("of", ["diagonal_normal", "low_rank_normal", "full_normal"])
@pytest.mark.parametrize("variance", [1e-20, 1e-12, 1.0, 1e8])
def test_batch_normalised_keeps_the_mean_kl_above_its_bound(of, variance):
    n = 32
    posterior = BatchNormalised(n, Given, of=of)
    rows = {"diagonal_normal": 2, "low_rank_normal": 4, "full_normal": 1 + n}[of]
    x = torch.randn(50, rows, n)
    x[:, 0] *= variance**0.5
    if of == "diagonal_normal":
        x[:, 1] = 0.5413  # softplus^-1(1): the mean's part of the KL alone
    kl = kl_divergence(posterior(x.flatten(1)), standard(n)).mean()
    assert kl >= 5.76 - 1e-5
    if of == "diagonal_normal":
        assert float(kl.detach()) == pytest.approx(5.76, abs=1e-3)
    with torch.no_grad():
        next(posterior.parameters()).fill_(0.5)
    kl = kl_divergence(posterior(x.flatten(1)), standard(n)).mean()
    assert kl >= n * (0.36 + 0.25) / 2 - 1e-5


@pytest.mark.parametrize("offset", [0.3, 100.0])
def test_a_small_spread_far_from_zero_is_scaled_too(offset):
    x = torch.full((50, 2, 4), offset)
    x[:25, 0] += 2e-7 * offset
    x[:, 1] = 0.5413
    posterior = BatchNormalised(4, Given)
    assert kl_divergence(posterior(x.flatten(1)), standard(4)).mean() >= 4 * 0.18 - 1e-5


def test_constant_means_are_beta_with_finite_gradients():
    x = torch.full((6, 8), 0.3, requires_grad=True)
    posterior = BatchNormalised(4, Given)
    loc = posterior(x).mean
    torch.testing.assert_close(loc, torch.zeros(6, 4))
    (gradient,) = torch.autograd.grad((loc * torch.randn(6, 4)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10
    posterior.eval()
    assert posterior.embed(x).abs().max() < 1e-5


def test_evaluation_uses_running_statistics_and_pseudo_inputs_leave_no_mark():
    x = torch.rand(200, 1, 2, 2)
    vae = build((1, 2, 2), 2, posterior=BatchNormalised, prior=partial(Vamp, components=3))
    embedded = vae.embed(x)
    torch.testing.assert_close(embedded.std(0, correction=0), torch.full((2,), 0.6))
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    vae.prior()
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    vae.eval()
    # The running variance is the population's estimate.
    torch.testing.assert_close(vae.embed(x), embedded, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(vae.embed(x[:1]), vae.embed(x)[:1])


def test_several_processes_are_refused():
    with pytest.raises(ValueError, match="batch normalisation"):
        require_separable(BatchNormalised(2, Given))


@pytest.mark.parametrize("rate", [1e-6, 0.01, 2.0, 60.0, 1e4])
def test_committed_rate_is_never_undercut(rate):
    posterior = CommittedRate(3, Given, rate=rate)
    ends = torch.tensor([-1e4, -100.0, -10.0, -1.0, 0.0, 0.3, 1.0, 10.0, 100.0, 1e4])
    grid = torch.cartesian_prod(torch.cat([ends, 20 * torch.randn(200)]), ends)
    x = grid[:, :, None].expand(-1, 2, 3).flatten(1).clone().requires_grad_()
    q = posterior(x)
    exact = kl_divergence(
        dist.Normal(q.base_dist.loc.double(), q.base_dist.scale.double()), dist.Normal(0.0, 1.0)
    )
    assert (exact >= rate / 3).all()
    assert exact.min() <= (rate / 3) * 1.2 + 1e-5  # the bound is nearly reached
    assert exact.max() > 10 * rate / 3
    assert (kl_divergence(q, standard(3)) >= rate * (1 - 1e-6)).all()
    (gradient,) = torch.autograd.grad(q.base_dist.loc.sum() + q.base_dist.scale.log().sum(), x)
    assert gradient.isfinite().all()
    torch.testing.assert_close(posterior.embed(x), q.mean)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (BatchNormalised, {"gamma": 0.0}, "gamma must be above 0"),
        (CommittedRate, {"rate": 0.0}, "rate must be above 0"),
        (CommittedRate, {"rate": float("inf")}, "rate must be above 0"),
    ],
)
def test_wrong_options(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(2, Given, **options)
