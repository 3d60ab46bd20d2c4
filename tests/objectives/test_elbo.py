"""The ELBO, against Pyro's and against closed forms."""

import math
from functools import partial

import jaxtyping
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY, FullNormal
from pyro_vae.priors import PRIORS, GaussianMixture

PAIRS = pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        # Each of a Vamp's components is a posterior, whose density may be long.
        pytest.param(
            partial(prior, components=5) if p == "vamp" else prior, posterior, id=f"{p}-{q}"
        )
        for p, prior in PRIORS.items()
        for q, posterior in WITH_DENSITY.items()
        if prior.support == posterior.support
    ],
)


def binary(n=5):
    """Binary images of 4 x 4."""
    return torch.bernoulli(torch.full((n, 4, 4), 0.3))


def value(vae, x, objective, num_particles=1, seed=0):
    """The objective on the pair, under a seed."""
    torch.manual_seed(seed)
    return objective(log_densities(vae.model, vae.guide, x, num_particles=num_particles))


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@PAIRS
@pytest.mark.parametrize("num_particles", [1, 4])
def test_monte_carlo_elbo_and_its_gradients_are_trace_elbo(prior, posterior, num_particles):
    vae, x = build((4, 4), latent_dim=3, prior=prior, posterior=posterior), binary()
    ours = value(vae, x, ELBO(kl="monte_carlo"), num_particles).loss.sum()
    torch.manual_seed(0)
    trace_elbo = Trace_ELBO(num_particles, vectorize_particles=True, max_plate_nesting=1)
    theirs = trace_elbo.differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    parameters = list(vae.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters)
    )


@PAIRS
def test_analytic_kl_agrees_with_monte_carlo(prior, posterior):
    """Within five standard errors of 4,000 draws, for every datum and every pair that has one."""
    vae, x = build((4, 4), latent_dim=3, prior=prior, posterior=posterior), binary()
    elbo = ELBO()
    value(vae, x, elbo)
    analytic = elbo.kl_by_site == {"z": "analytic"}
    torch.manual_seed(0)
    terms = log_densities(vae.model, vae.guide, x, num_particles=4000 if analytic else 10)
    draws = terms.log_posterior - terms.log_prior
    kl = elbo(terms).values["kl"]
    if not analytic:
        assert elbo.kl_by_site == {"z": "Monte Carlo"}
        torch.testing.assert_close(kl, draws.mean(0))
    else:
        standard_error = draws.std(0) / math.sqrt(4000)
        assert ((kl - draws.mean(0)).abs() < 5 * standard_error).all()


@pytest.mark.parametrize(
    "posterior",
    [
        POSTERIORS[name]
        for name in (
            *("diagonal_normal", "low_rank_normal", "full_normal", "laplace"),
            *("batch_normalised", "committed_rate"),
        )
    ],
)
def test_kl_to_the_standard_normal_is_analytic_and_said_so(posterior):
    vae = build((4, 4), latent_dim=3, posterior=posterior)
    elbo = ELBO()
    value(vae, binary(), elbo)
    assert elbo.kl_by_site == {"z": "analytic"}


def test_kl_to_a_mixture_is_monte_carlo_and_said_so():
    elbo = ELBO()
    value(build((4, 4), latent_dim=3, prior=GaussianMixture), binary(), elbo)
    assert elbo.kl_by_site == {"z": "Monte Carlo"}


def test_analytic_elbo_is_trace_mean_field_elbo():
    vae, x = build((4, 4), latent_dim=3), binary()
    ours = value(vae, x, ELBO(), num_particles=4).loss.sum()
    torch.manual_seed(0)
    mean_field = TraceMeanField_ELBO(4, vectorize_particles=True, max_plate_nesting=1)
    theirs = mean_field.differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_full_normal_kl_is_torchs_between_multivariate_normals():
    vae, x = build((4, 4), latent_dim=3, posterior=FullNormal), binary()
    q = vae.posterior(x)
    p = MultivariateNormal(torch.zeros(3), torch.eye(3))
    expected = kl_divergence(MultivariateNormal(q.loc, scale_tril=q.scale_tril), p)
    torch.testing.assert_close(value(vae, x, ELBO()).values["kl"], expected.detach())


def test_beta_weighs_the_kl_alone_and_values_are_free_of_it():
    vae, x = build((4, 4), latent_dim=3), binary()
    plain = value(vae, x, ELBO())
    for beta in (0.0, 0.5, 4.0):
        weighted = value(vae, x, ELBO(beta=beta))
        expected = beta * plain.values["kl"] - plain.values["reconstruction"]
        torch.testing.assert_close(weighted.loss.detach(), expected)
        for name in ("elbo", "reconstruction", "kl"):
            torch.testing.assert_close(weighted.values[name], plain.values[name], rtol=0, atol=0)
        torch.testing.assert_close(weighted.values["beta"], torch.full((5,), beta))
    torch.testing.assert_close(plain.loss.detach(), -plain.values["elbo"])


def test_warm_up_is_linear_then_flat():
    elbo = ELBO(beta=2.0, warmup_epochs=4.0)
    weights = []
    for epochs in (0.0, 1.0, 2.5, 4.0, 9.0):
        elbo.set_progress(epochs)
        weights.append(elbo.weight.item())
    assert weights == [0.0, 0.5, 1.25, 2.0, 2.0]
    assert ELBO(beta=2.0).weight == 2


def test_state_holds_how_far_warm_up_is():
    trained, resumed = ELBO(beta=2.0, warmup_epochs=4.0), ELBO(beta=2.0, warmup_epochs=4.0)
    trained.set_progress(3.0)
    resumed.load_state_dict(trained.state_dict())
    assert resumed.weight == trained.weight == 1.5


def test_values_carry_no_gradient_and_loss_does():
    result = value(build((4, 4), latent_dim=3), binary(), ELBO())
    assert result.loss.requires_grad
    assert not any(term.requires_grad for term in result.values.values())


def test_more_particles_keep_the_expectation_and_lower_the_noise():
    vae, x = build((4, 4), latent_dim=3), binary(2)
    spread, mean = {}, {}
    for num_particles in (1, 64):
        losses = torch.stack(
            [value(vae, x, ELBO(), num_particles, seed).loss.detach() for seed in range(200)]
        )
        spread[num_particles], mean[num_particles] = losses.std(0), losses.mean(0)
    ratio = spread[1] / spread[64]
    assert ((ratio > 5) & (ratio < 12)).all()  # sqrt(64) = 8
    standard_error = spread[1] / math.sqrt(200)
    assert ((mean[1] - mean[64]).abs() < 5 * standard_error).all()


def test_a_guide_that_is_not_reparameterisable_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5))

    terms = log_densities(model, guide, torch.randn(5))
    with pytest.raises(ValueError, match="'z' is a Bernoulli without rsample"):
        ELBO()(terms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta must be at least 0 and finite, got -1.0"),
        ({"beta": math.inf}, "beta must be at least 0 and finite, got inf"),
        ({"beta": math.nan}, "beta must be at least 0 and finite, got nan"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must be at least 0"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"kl": "exact"}, "kl must be one of auto, monte_carlo, got 'exact'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        ELBO(**options)
