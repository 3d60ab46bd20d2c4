"""The flow prior: it learns, it is affine in one dimension, and its sampler's gradient is right."""

import pytest
import torch
from torch import distributions

from pyro_vae.priors import Flow


def bimodal() -> distributions.Distribution:
    """0.3 N((-1.5, -1), 0.5^2 I) + 0.7 N((1.5, 1), 0.5^2 I)."""
    modes = distributions.Normal(torch.tensor([[-1.5, -1.0], [1.5, 1.0]]), 0.5)
    return distributions.MixtureSameFamily(
        distributions.Categorical(torch.tensor([0.3, 0.7])), distributions.Independent(modes, 1)
    )


def moved(prior: Flow, by: float = 0.2) -> Flow:
    """A flow away from its start."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return prior


def test_learns_two_modes():
    prior, target, steps = Flow(2, hidden=(32, 32)), bimodal(), 300
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-prior().log_prob(target.sample((256,))).mean()).backward()
        optimizer.step()
        schedule.step()
    z = target.sample((20_000,))
    with torch.no_grad():
        assert (target.log_prob(z) - prior().log_prob(z)).mean() < 0.05  # KL, from 1.5
        assert (prior().sample((20_000,))[:, 0] > 0).float().mean() == pytest.approx(0.7, abs=0.03)


def test_in_one_dimension_it_is_a_normal():
    p = moved(Flow(1, hidden=(8,)).double())()
    with torch.no_grad():
        line = torch.linspace(-30, 30, 100_001, dtype=torch.float64)
        density = p.log_prob(line[:, None]).exp()
        assert torch.trapezoid(density, line) == pytest.approx(1, abs=1e-6)
        loc = torch.trapezoid(density * line, line)
        scale = torch.trapezoid(density * (line - loc).square(), line).sqrt()
        expected = distributions.Normal(loc, scale).log_prob(line)
    torch.testing.assert_close(p.log_prob(line[:, None]).detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_samplers_gradient():
    """d/dtheta E[g(z)] of draws, against differences of the integral of g(z) p(z)."""
    prior = moved(Flow(2, couplings=3, hidden=(8,)).double(), 0.3)
    bias = prior.flow.couplings[1].rest[-1].bias
    line = torch.linspace(-12, 12, 1201, dtype=torch.float64)
    plane, area = torch.cartesian_prod(line, line), (line[1] - line[0]) ** 2

    def g(z):
        return torch.sin(z[..., 0]) + z[..., 0] * z[..., 1]

    def exact() -> float:
        with torch.no_grad():
            return float((g(plane) * prior().log_prob(plane).exp()).sum() * area)

    rows = [torch.autograd.grad(g(prior().rsample((4000,))).mean(), bias)[0] for _ in range(50)]
    found, error = torch.stack(rows).mean(0), torch.stack(rows).std(0) / 50**0.5
    for i in range(len(bias)):
        with torch.no_grad():
            bias[i] += 1e-4
            above = exact()
            bias[i] -= 2e-4
            below = exact()
            bias[i] += 1e-4
        assert abs(found[i] - (above - below) / 2e-4) < 4 * error[i] + 1e-4


@pytest.mark.parametrize("latent_dim", [1, 2, 40])
def test_extremes_are_finite(latent_dim):
    prior = moved(Flow(latent_dim), 0.03)
    for size in (1e-30, 1.0, 1e4):
        z = (size * torch.randn(50, latent_dim)).requires_grad_()
        log_prob = prior().log_prob(z)
        leaves = [z, *prior.parameters()]
        gradients = torch.autograd.grad(log_prob.sum(), leaves, allow_unused=True)
        assert log_prob.isfinite().all()
        assert all(g is None or g.isfinite().all() for g in gradients)
    # A parameter as large as it is ever seen: the scale stays within its bound.
    for coupling in prior.flow.couplings:
        torch.nn.init.constant_(coupling.rest[-1].bias, 1e4)
    assert prior().sample((50,)).isfinite().all()
    assert prior().log_prob(torch.randn(50, latent_dim)).isfinite().all()
