"""A coupling flow: its inverse, its Jacobian, and the density of its draws."""

import pytest
import torch

from pyro_vae.distributions import NormalFlow
from pyro_vae.networks import CouplingFlow


def moved(dim: int, context: int = 0) -> CouplingFlow:
    """A flow away from its start."""
    torch.manual_seed(0)
    flow = CouplingFlow(dim, 5, (16, 16), context)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return flow.double()


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_inverse_and_jacobian(dim, context):
    flow = moved(dim, context)
    u = torch.randn(dim).double()
    h = torch.randn(context).double() if context else None
    z, log_det = flow(u, h)
    back, same = flow.inverse(z, h)
    torch.testing.assert_close(back, u, atol=1e-9, rtol=0)
    torch.testing.assert_close(same, log_det)
    jacobian = torch.autograd.functional.jacobian(lambda u: flow(u, h)[0], u)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_starts_as_the_normal(dim):
    flow = CouplingFlow(dim, 5, (16,))
    z = 3 * torch.randn(7, dim)
    p = NormalFlow(torch.zeros(dim), torch.ones(dim), flow)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(p.log_prob(z), expected)


def test_a_draw_has_the_density_of_its_value_in_value_and_gradient():
    flow = moved(3, 2)
    h = torch.randn(4, 2).double()
    loc, scale = torch.randn(4, 3).double().requires_grad_(), torch.ones(4, 3).double() / 2
    q = NormalFlow(loc, scale, flow, h).expand((6, 4))
    z = q.rsample()
    leaves = [loc, *flow.parameters()]
    own, inverted = q.log_prob(z), q.log_prob(z.clone())
    torch.testing.assert_close(own, inverted)
    for a, b in zip(
        torch.autograd.grad(own.sum(), leaves, retain_graph=True, allow_unused=True),
        torch.autograd.grad(inverted.sum(), leaves, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    assert q.log_prob(q.sample()).requires_grad
