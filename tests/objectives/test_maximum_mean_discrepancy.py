"""The maximum mean discrepancy, against closed forms between normals."""

import math

import jaxtyping
import pytest
import torch

from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO, Info
from pyro_vae.objectives.aggregate_posterior import squared_discrepancy
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY
from pyro_vae.priors import PRIORS, GaussianMixture, StandardNormal


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def mean_kernel(shift, variance, c, d):
    """E exp(-|u|^2 / C) of u ~ N(m, v I), |m|^2 = shift: a product of d normal integrals."""
    return (1 + 2 * variance / c) ** (-d / 2) * math.exp(-shift / (c + 2 * variance))


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.3, 0.4)])
@pytest.mark.parametrize("bandwidth", [1.0, 0.5])
def test_the_gaussian_kernels_is_the_closed_form_between_normals(loc, scale, bandwidth):
    """Between N(m 1, s^2 I) and N(0, I), within four standard errors; 0 for one distribution."""
    d, c = 3, 2 * 3 * bandwidth**2
    z, other = loc + scale * torch.randn(1500, 20, d), torch.randn(1500, 20, d)
    found = squared_discrepancy(z, other, "gaussian", bandwidth)
    expected = (
        mean_kernel(0, 2 * scale**2, c, d)
        + mean_kernel(0, 2, c, d)
        - 2 * mean_kernel(d * loc**2, 1 + scale**2, c, d)
    )
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(1500)
    if loc or scale != 1:
        assert expected > 10 * float(found.std()) / math.sqrt(1500)


def test_the_inverse_multiquadratic_kernels_is_a_mixture_of_gaussian_ones():
    """C / (C + r) = int_0^inf e^(-t) e^(-t r / C) dt, so that its value between normals is an integral."""
    d, scale = 2, 0.5
    c = 2 * d
    t = torch.linspace(0, 40, 40_001, dtype=torch.float64)

    def mean(variance):
        return torch.trapezoid((-t).exp() * (1 + 2 * variance * t / c) ** (-d / 2), t)

    z, other = scale * torch.randn(1500, 20, d), torch.randn(1500, 20, d)
    found = squared_discrepancy(z, other)
    expected = float(mean(2 * scale**2) + mean(2) - 2 * mean(1 + scale**2))
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(1500)
    assert abs(float(squared_discrepancy(torch.randn(1500, 20, d), other).mean())) < 0.004


def test_pairs_by_hand():
    """Two draws on a line against two: each distance in its kernel."""
    z, other = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    gaussian = [math.exp(-r / 2) for r in (1, 9, 0, 9, 1, 4)]
    rational = [2 / (2 + r) for r in (1, 9, 0, 9, 1, 4)]
    for kernel, (first, second, *between) in (
        ("gaussian", gaussian),
        ("inverse_multiquadratic", rational),
    ):
        found = squared_discrepancy(z, other, kernel)
        assert float(found) == pytest.approx(first + second - 2 * sum(between) / 4, rel=1e-12)


def a_pair(objective, posterior="diagonal_normal", prior=None, n=6):
    posterior = POSTERIORS[posterior]
    prior = prior or next(p for p in PRIORS.values() if p.support == posterior.support)
    vae = build((4, 4), latent_dim=4, prior=prior, posterior=posterior)
    x = torch.bernoulli(torch.full((n, 4, 4), 0.3))
    terms = log_densities(vae.model, vae.guide, x, num_particles=objective.num_particles)
    return vae, terms


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_loss_weighs_as_the_paper_does(num_particles):
    info = Info(alpha=0.25, strength=8.0, num_particles=num_particles)
    _, terms = a_pair(info)
    value = info(terms)
    elbo = ELBO()(terms).values
    expected = 0.75 * elbo["kl"] + 7.25 * value.values["mmd_squared"] - elbo["reconstruction"]
    torch.testing.assert_close(value.loss.detach(), expected)
    for name in ("elbo", "reconstruction", "kl"):
        assert (value.values[name] == elbo[name]).all()
    assert not any(logged.requires_grad for logged in value.values.values())
    # alpha = 0 and strength = 1 are the ELBO.
    torch.testing.assert_close(Info(alpha=0.0, strength=1.0)(terms).loss, ELBO()(terms).loss)


def test_particles_are_averaged_and_draws_of_one_datum_are_no_pair():
    info = Info(num_particles=3)
    _, terms = a_pair(info)
    torch.manual_seed(1)
    found = info(terms).values["mmd_squared"]
    torch.manual_seed(1)
    prior = torch.randn(3, 6, 4)
    by_particle = [squared_discrepancy(z, p) for z, p in zip(terms.draws[0], prior, strict=True)]
    torch.testing.assert_close(
        found, torch.stack(by_particle).mean().float().expand(6), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("posterior", WITH_DENSITY)
def test_every_guide_is_served_and_gets_a_gradient(posterior):
    info = Info(alpha=1.0)
    vae, terms = a_pair(info, posterior)
    value = info(terms)
    penalty = value.loss + terms.log_likelihood.mean(0)
    parameters = [p for name, p in vae.posterior.named_parameters() if "encoder" in name]
    gradients = torch.autograd.grad(penalty.sum(), parameters, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert value.loss.isfinite().all()


def test_a_prior_learns_where_it_is_reparameterisable():
    info = Info(alpha=1.0)
    for name, learns in (("flow", True), ("gaussian_mixture", False)):
        vae, terms = a_pair(info, prior=PRIORS[name])
        gradients = torch.autograd.grad(
            info(terms).loss.sum(), [*vae.prior.parameters()], allow_unused=True
        )
        assert any(g is not None and g.abs().sum() > 0 for g in gradients) is learns


@pytest.mark.parametrize("prior", [StandardNormal, GaussianMixture])
def test_a_batch_of_one_has_no_penalty(prior):
    info = Info(alpha=0.0, strength=50.0)
    _, terms = a_pair(info, prior=prior, n=1)
    torch.testing.assert_close(info(terms).loss, ELBO()(terms).loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
        ({"alpha": math.nan}, "alpha must be from 0 to 1, got nan"),
        ({"alpha": 0.0, "strength": 0.5}, r"strength must be at least 1 - alpha = 1.0 .* got 0.5"),
        ({"strength": math.inf}, "strength must be at least"),
        ({"kernel": "linear"}, "kernel must be one of inverse_multiquadratic, gaussian, got"),
        ({"bandwidth": 0.0}, "bandwidth must be above 0 and finite, got 0.0"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"kl": "exact"}, "kl must be one of auto, monte_carlo, got 'exact'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        Info(**options)
