"""Priors and posteriors on the sphere: extreme encoders, the KL in closed form, bad options."""

import pytest
import torch
from torch import nn

from pyro_vae import posteriors, priors
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.networks import unit_vector
from pyro_vae.objectives import ELBO

SPHERE = [name for name, part in posteriors.POSTERIORS.items() if part.support == "sphere"]
PRIORS = [name for name, part in priors.PRIORS.items() if part.support == "sphere"]


class Constant(nn.Module):
    """An encoder that gives the same outputs for any datum."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x):
        return self.outputs.expand(len(x), -1)


@pytest.mark.parametrize("name", SPHERE)
@pytest.mark.parametrize("direction", [0.0, 1e-30, 1e-4, 1e4, 1e25])
@pytest.mark.parametrize("concentration", [-1e4, -1.0, 1e4])
def test_extreme_encoders_stay_finite(name, direction, concentration):
    outputs = torch.tensor([direction, -direction, direction, concentration])
    posterior = posteriors.POSTERIORS[name](3, lambda _: Constant(outputs))
    q = posterior(torch.zeros(500, 4))
    z = q.rsample()
    uniform = priors.SphericalUniform(3)()
    kl = torch.distributions.kl_divergence(q, uniform)
    log_prob = q.log_prob(z)
    for value in (z, kl, log_prob):
        assert value.isfinite().all()
    (z[:, 0].sum() + kl.sum() + log_prob.sum()).backward()
    assert posterior.encoder.outputs.grad.isfinite().all()
    torch.testing.assert_close(posterior.embed(torch.zeros(1, 4)).norm(), torch.tensor(1.0))


def test_a_direction_has_length_one_and_the_gradient_of_a_projection():
    h = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_vector(h), nn.functional.normalize(h, dim=-1))
    assert torch.autograd.gradcheck(unit_vector, (h,))
    zero = torch.zeros(2, 4, requires_grad=True)
    unit_vector(zero).sum().backward()
    assert (unit_vector(zero).detach() == torch.eye(4)[0]).all()
    assert (zero.grad == 0).all()


@pytest.mark.parametrize("posterior", SPHERE)
def test_against_the_uniform_prior_the_kl_is_analytic_and_right(posterior):
    vae = build(
        (1, 4, 4),
        4,
        prior=priors.SphericalUniform,
        posterior=posteriors.POSTERIORS[posterior],
    )
    x = (torch.rand(5, 1, 4, 4) < 0.5).float()
    values = {}
    for kl in ("auto", "monte_carlo"):
        objective = ELBO(kl=kl)
        terms = log_densities(vae.model, vae.guide, x, num_particles=20_000)
        values[kl] = objective(terms).values["kl"]
        assert objective.kl_by_site["z"] == ("analytic" if kl == "auto" else "Monte Carlo")
    torch.testing.assert_close(values["auto"], values["monte_carlo"], rtol=0, atol=0.05)


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_on_no_sphere_is_refused(name):
    with pytest.raises(ValueError, match=r"latent_dim must be at least 2.*got 1"):
        priors.PRIORS[name](1)


@pytest.mark.parametrize("name", SPHERE)
def test_a_posterior_on_no_sphere_is_refused(name):
    with pytest.raises(ValueError, match=r"latent_dim must be at least 2.*got 1"):
        posteriors.POSTERIORS[name](1, lambda shape: nn.Linear(3, shape[0]))
