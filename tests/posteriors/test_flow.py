"""Flow posteriors: inverses, Jacobians, densities of draws and of anything else, and a tighter bound."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import networks
from pyro_vae.model import build
from pyro_vae.networks import InverseAutoregressiveFlow
from pyro_vae.posteriors import (
    CouplingFlowPosterior,
    DiagonalNormal,
    InverseAutoregressivePosterior,
)
from pyro_vae.priors import Vamp

FLOWS = {
    "coupling_flow": CouplingFlowPosterior,
    "inverse_autoregressive": InverseAutoregressivePosterior,
}


class Given(nn.Module):
    """An encoder that gives its input."""

    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        return x


def moved(module: nn.Module, by: float = 0.2) -> nn.Module:
    """A module away from its start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def flow_of(dim: int, steps: int = 4) -> InverseAutoregressiveFlow:
    return moved(InverseAutoregressiveFlow(dim, steps, hidden=9, context=3))


def jacobian_of(f, u):
    return torch.autograd.functional.jacobian(f, u)


@pytest.mark.parametrize("hidden", [1, 3, 20])
@pytest.mark.parametrize("step", [0, 1])
def test_a_step_reads_what_comes_before_and_the_next_one_what_comes_after(step, hidden):
    flow = moved(InverseAutoregressiveFlow(5, 2, hidden, 3), by=1.0)
    h = torch.randn(3)
    flow.steps = flow.steps[step : step + 1]
    turn = (lambda z: z.flip(-1)) if step else (lambda z: z)
    jacobian = jacobian_of(lambda u: turn(flow(turn(u), h)[0]), torch.randn(5))
    if step:
        jacobian = jacobian.flip(0, 1)
    assert (jacobian.triu(1) == 0).all()
    assert (jacobian.diagonal() > 0).all()
    assert (jacobian.diagonal() < 1).all()
    rows, columns = torch.tril_indices(5, 5, -1)
    assert (jacobian[rows, columns] != 0).any()


def test_two_steps_let_every_coordinate_move_every_other():
    flow = moved(InverseAutoregressiveFlow(5, 2, 20, 3), by=0.5)
    assert (jacobian_of(lambda u: flow(u, torch.ones(3))[0], torch.randn(5)) != 0).all()


@pytest.mark.parametrize("dim", [1, 2, 5, 12])
def test_inverse_and_jacobian(dim):
    flow = flow_of(dim)
    u, h = torch.randn(8, dim), torch.randn(8, 3)
    z, log_det = flow(u, h)
    back, same = flow.inverse(z, h)
    torch.testing.assert_close(back, u, atol=1e-5, rtol=0)
    torch.testing.assert_close(same, log_det, atol=1e-5, rtol=0)
    flow.double()
    u, h = u[0].double(), h[0].double()
    jacobian = jacobian_of(lambda u: flow(u, h)[0], u)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], flow(u, h)[1])


def test_context_moves_every_step_and_the_first_coordinate_too():
    flow = flow_of(3, steps=1)
    by_context = jacobian_of(lambda h: flow(torch.zeros(3), h)[0], torch.randn(3))
    assert (by_context.abs().sum(-1) > 0).all()


def test_untrained_it_is_a_diagonal_normal():
    posterior = InverseAutoregressivePosterior(3, Given, context=2)
    x = torch.randn(4, 8)
    a = torch.sigmoid(torch.tensor(1.5)) ** 4
    expected = dist.Normal(a * x[:, :3], a * (nn.functional.softplus(x[:, 3:6]) + 1e-5)).to_event(
        1
    )
    z = torch.randn(6, 4, 3)
    torch.testing.assert_close(posterior(x).log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(posterior.embed(x), expected.mean)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_a_draw_has_the_density_of_its_copy_in_value_and_gradient(name, latent_dim):
    posterior = moved(FLOWS[name](latent_dim, Given, context=3)).double()
    x = torch.randn(4, 2 * latent_dim + 3, dtype=torch.float64, requires_grad=True)
    for shape in ((4,), (6, 4)):
        q = posterior(x).expand(shape)
        z = q.rsample()
        assert z.shape == (*shape, latent_dim)
        own, other = q.log_prob(z), q.log_prob(z.clone())
        assert own.shape == other.shape == shape
        torch.testing.assert_close(own, other)
        leaves = [x, *posterior.parameters()]
        for a, b in zip(
            torch.autograd.grad(own.sum(), leaves, retain_graph=True, allow_unused=True),
            torch.autograd.grad(other.sum(), leaves, allow_unused=True),
            strict=True,
        ):
            # None is a derivative of 0: one path may not touch what the other finds not to matter.
            a, b = (torch.zeros((), dtype=x.dtype) if g is None else g for g in (a, b))
            torch.testing.assert_close(*torch.broadcast_tensors(a, b), atol=1e-9, rtol=1e-7)
    # Each element of a larger batch has its datum's density.
    z = torch.randn(6, 4, latent_dim, dtype=torch.float64)
    one_by_one = torch.stack([posterior(x).log_prob(row) for row in z])
    torch.testing.assert_close(q.log_prob(z), one_by_one)


@pytest.mark.parametrize("name", FLOWS)
def test_one_dimension_has_mass_one(name):
    posterior = moved(FLOWS[name](1, Given, context=3))
    q = posterior(torch.randn(5, 5))
    z = torch.linspace(-60, 60, 120_001)[:, None, None].expand(-1, 5, 1)
    mass = q.log_prob(z).exp().sum(0) * 1e-3
    torch.testing.assert_close(mass, torch.ones(5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FLOWS)
def test_a_draw_never_goes_through_the_inverse(name, monkeypatch):
    posterior = FLOWS[name](2, Given, context=3)

    def never(*_):
        raise AssertionError("the inverse of a draw")

    monkeypatch.setattr(type(posterior.flow), "inverse", never)
    q = posterior(torch.randn(4, 7)).expand((10, 4))
    q.log_prob(q.rsample())
    with torch.no_grad():
        q.log_prob(q.sample())


@pytest.mark.parametrize("name", FLOWS)
def test_vamp_over_a_flow_is_the_mean_of_its_components(name):
    vae = build((1, 2, 2), 2, posterior=FLOWS[name], prior=partial(Vamp, components=7))
    moved(vae).double()
    z = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    # One component at a time, on its own.
    components = [vae.posterior(u[None]) for u in vae.prior.pseudo_inputs]
    direct = torch.cat([q.log_prob(z[:, None]) for q in components], 1)
    direct = direct.logsumexp(1) - math.log(7)
    log_prob = vae.prior().expand((6,)).log_prob(z)
    torch.testing.assert_close(log_prob, direct)
    leaves = [z, vae.prior.pseudo_inputs]
    for a, b in zip(
        torch.autograd.grad(log_prob.sum(), leaves, retain_graph=True),
        torch.autograd.grad(direct.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert vae.prior().sample((3,)).shape == (3, 2)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("raw_scale", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("context", [-1e4, 0.0, 1e4])
def test_extreme_encoders_stay_finite(name, raw_scale, context):
    posterior = moved(FLOWS[name](3, Given, context=4))
    row = torch.tensor([1e4, -1e4, 0.0, *[raw_scale] * 3, context, -context, 1e4, -1e4])
    x = row.expand(50, -1).clone().requires_grad_()
    q = posterior(x)
    z = q.rsample()
    for value in (q.log_prob(z), q.log_prob(z.detach().clone()), q.log_prob(torch.zeros(50, 3))):
        assert value.isfinite().all()
        leaves = [x, *posterior.parameters()]
        for gradient in torch.autograd.grad(
            value.sum(), leaves, retain_graph=True, allow_unused=True
        ):
            assert gradient is None or gradient.isfinite().all()


def log_joint(z):
    """log N(z_1 | 0, 1) N(z_2 | 0, 3^2) N(1 | z_1^2 - z_2 / 2, 0.3^2): a bent posterior of z."""
    z_1, z_2 = z.unbind(-1)
    return (
        dist.Normal(0.0, 1.0).log_prob(z_1)
        + dist.Normal(0.0, 3.0).log_prob(z_2)
        + dist.Normal(z_1.square() - z_2 / 2, 0.3).log_prob(torch.ones(()))
    )


def trained_elbo(part) -> float:
    """The ELBO of that program after some steps."""
    pyro.set_rng_seed(0)
    posterior = part(2, lambda shape: networks.MLP((1,), shape, hidden=(8,)))
    optimiser = torch.optim.Adam(posterior.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
    x = torch.ones(1, 1)

    def elbo(draws):
        q = posterior(x).expand((draws, 1))
        z = q.rsample()
        return (log_joint(z) - q.log_prob(z)).mean()

    for _ in range(400):
        optimiser.zero_grad()
        (-elbo(64)).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float(elbo(100_000))


@pytest.mark.slow
def test_flows_come_closer_to_a_known_evidence_than_a_normal():
    line_1, line_2 = torch.linspace(-6, 6, 2401).double(), torch.linspace(-12, 40, 5201).double()
    plane = torch.cartesian_prod(line_1, line_2)
    log_evidence = float(log_joint(plane).logsumexp(0) + math.log(0.005 * 0.01))
    gap = {name: log_evidence - trained_elbo(part) for name, part in FLOWS.items()}
    normal = log_evidence - trained_elbo(DiagonalNormal)
    assert normal > 0.6
    for name, value in gap.items():
        assert -0.01 < value < normal / 2, (name, value, normal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"bound": 0.0}, "bound must be above 0 and finite, got 0.0"),
        ({"bound": float("inf")}, "bound must be above 0 and finite, got inf"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        InverseAutoregressivePosterior(**{"latent_dim": 2, "encoder": Given, **options})


def test_under_autocast_gates_have_all_digits():
    """Untrained, the map is a multiplication without a network, so that it is the same in bfloat16."""
    flow, u, context = (
        InverseAutoregressiveFlow(8, 4, 9, 3),
        torch.randn(20, 8),
        torch.zeros(20, 3),
    )
    z, log_det = flow(u, context)
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(
            (*flow(u, context), *flow.inverse(z, context)), (z, log_det, u, log_det), strict=True
        ):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["coupling_flow", "inverse_autoregressive"])
def test_the_flows_parameters_come_first(name):
    """The state of an optimizer in a checkpoint is by position."""
    names = [name for name, _ in build((4,), 3, posterior=name).posterior.named_parameters()]
    assert names[0].startswith("flow.")
    assert names[-1].startswith("encoder.")
