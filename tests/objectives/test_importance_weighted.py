"""Importance-weighted bounds, against Pyro's ELBO, float64 references and exact evidence."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import CIWAE, ELBO, IWAE, MIWAE
from pyro_vae.posteriors import WITH_DENSITY
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
    torch.manual_seed(2)
    return torch.bernoulli(torch.full((n, 4, 4), 0.3))


def terms_of(vae, x, num_particles, seed=0):
    """The terms of the pair, under a seed."""
    torch.manual_seed(seed)
    return log_densities(vae.model, vae.guide, x, num_particles=num_particles)


def assert_same(ours, theirs, parameters):
    """The same losses and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), parameters), torch.autograd.grad(theirs.sum(), parameters)
    )


@PAIRS
def test_one_particle_is_trace_elbo(prior, posterior):
    vae, x = build((4, 4), latent_dim=3, prior=prior, posterior=posterior), binary()
    ours = IWAE(num_particles=1)(terms_of(vae, x, 1)).loss.sum()
    torch.manual_seed(0)
    trace_elbo = Trace_ELBO(1, vectorize_particles=True, max_plate_nesting=1)
    theirs = trace_elbo.differentiable_loss(vae.model, vae.guide, x)
    assert_same(ours, theirs, list(vae.parameters()))


@PAIRS
def test_bounds_are_those_of_the_log_weights(prior, posterior):
    """Against sums of exponentials in float64, in value and in gradient."""
    vae, x = build((4, 4), latent_dim=3, prior=prior, posterior=posterior), binary()
    parameters = list(vae.parameters())

    def reference(log_weight, groups):
        # Of the one datum's weights, about the largest.
        groups = log_weight.double().reshape(groups, -1, len(x))
        largest = groups.detach().max(1, keepdim=True).values
        return ((groups - largest).exp().mean(1).log() + largest.squeeze(1)).mean(0)

    for objective, bound in (
        (IWAE(num_particles=6), lambda log_weight: reference(log_weight, 1)),
        (MIWAE(groups=3, particles_per_group=2), lambda log_weight: reference(log_weight, 3)),
        (
            CIWAE(elbo_share=0.3, num_particles=6),
            lambda log_weight: 0.3 * log_weight.double().mean(0) + 0.7 * reference(log_weight, 1),
        ),
    ):
        assert objective.num_particles == 6
        result = objective(terms_of(vae, x, 6))
        expected = bound(terms_of(vae, x, 6).log_weight)
        assert_same(result.loss, -expected.float(), parameters)
        name = type(objective).__name__.lower()
        torch.testing.assert_close(result.values[name], -result.loss.detach(), rtol=0, atol=0)


def test_the_groups_of_miwae_are_of_draws_next_to_one_another():
    """As `(groups, particles_per_group)`, with different weights that tell any other split."""
    vae, x = build((4, 4), latent_dim=3), binary()
    terms = terms_of(vae, x, 6)
    log_weight = terms.log_weight.detach()
    first, second = log_weight[:3].logsumexp(0), log_weight[3:].logsumexp(0)
    loss = MIWAE(groups=2, particles_per_group=3)(terms).loss.detach()
    torch.testing.assert_close(loss, math.log(3) - (first + second) / 2)


def test_shares_and_groups_at_their_ends_are_iwae_and_the_elbo():
    vae, x = build((4, 4), latent_dim=3, prior=GaussianMixture), binary()
    parameters = list(vae.parameters())
    elbo, iwae = ELBO(kl="monte_carlo"), IWAE()
    for objective, same in (
        (CIWAE(elbo_share=0.0), iwae),
        (CIWAE(elbo_share=1.0), elbo),
        (MIWAE(groups=1, particles_per_group=5), iwae),
        (MIWAE(groups=5, particles_per_group=1), elbo),
    ):
        ours, theirs = (of(terms_of(vae, x, 5)).loss for of in (objective, same))
        assert_same(ours, theirs, parameters)


@pytest.mark.parametrize("objective", [IWAE(), MIWAE(), CIWAE()])
def test_values_are_the_elbo_of_the_same_draws_and_carry_no_gradient(objective):
    vae, x = build((4, 4), latent_dim=3), binary()
    k = objective.num_particles
    result, elbo = objective(terms_of(vae, x, k)), ELBO()(terms_of(vae, x, k))
    for name in ("elbo", "reconstruction", "kl"):
        torch.testing.assert_close(result.values[name], elbo.values[name], rtol=0, atol=0)
    assert objective.kl_by_site == {"z": "analytic"}
    assert result.loss.requires_grad
    assert not any(term.requires_grad for term in result.values.values())


def linear_gaussian(x, num_particles, widen):
    """The terms of z ~ N(0, 1), x ~ N(z, 1), q = N(x / 2, widen^2 / 2): log p(x) = log N(x | 0, 2)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, widen / math.sqrt(2)))

    torch.manual_seed(0)
    evidence = dist.Normal(torch.zeros_like(x), math.sqrt(2)).log_prob(x)
    return log_densities(model, guide, x, num_particles=num_particles), evidence


@pytest.mark.parametrize("objective", [IWAE(), MIWAE(), CIWAE()])
def test_with_the_exact_posterior_each_draw_gives_the_evidence(objective):
    x = torch.randn(20, dtype=torch.float64)
    terms, evidence = linear_gaussian(x, objective.num_particles, widen=1.0)
    torch.testing.assert_close(-objective(terms).loss, evidence)


def test_bounds_are_below_the_evidence_in_their_order():
    """With a guide too wide: ELBO < CIWAE < IWAE-16 < log p(x), ELBO < MIWAE-4x4 < IWAE-16."""
    x = torch.full((20_000,), 0.7, dtype=torch.float64)
    terms, evidence = linear_gaussian(x, 16, widen=1.6)
    bounds = {
        type(objective): -objective(terms).loss.mean()
        for objective in (
            ELBO(kl="monte_carlo"),
            CIWAE(num_particles=16),
            IWAE(num_particles=16),
            MIWAE(groups=4, particles_per_group=4),
        )
    }
    # KL(q || p(z | x)) of the two normals, in closed form.
    gap = (1.6**2 - 1) / 2 - math.log(1.6)
    assert evidence[0] - bounds[ELBO] == pytest.approx(gap, abs=0.01)
    assert bounds[ELBO] + 0.05 < bounds[CIWAE] < bounds[IWAE] - 0.05
    assert bounds[ELBO] + 0.05 < bounds[MIWAE] < bounds[IWAE] - 0.01
    assert bounds[IWAE] < evidence[0] - 0.005


@pytest.mark.parametrize("groups", [2, 5])
def test_more_groups_keep_the_expectation_and_lower_the_noise(groups):
    x = torch.full((20_000,), 0.7, dtype=torch.float64)
    one = MIWAE(groups=1)(linear_gaussian(x, 4, widen=1.6)[0]).loss
    many = MIWAE(groups=groups)(linear_gaussian(x, 4 * groups, widen=1.6)[0]).loss
    assert (one.mean() - many.mean()).abs() < 5 * one.std() / math.sqrt(len(x))
    assert float(one.var() / many.var()) == pytest.approx(groups, rel=0.1)


@pytest.mark.parametrize("objective", [IWAE(), MIWAE()])
def test_draws_of_weight_zero_spoil_no_gradient(objective):
    k = objective.num_particles
    loc = torch.full((50,), 0.8, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            # Below 0 its log density is -inf, where validation does not forbid to ask.
            z = pyro.sample("z", dist.HalfNormal(1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    torch.manual_seed(0)
    terms = log_densities(model, guide, torch.ones(50), num_particles=k)
    loss = objective(terms).loss
    possible = loss.isfinite()
    assert possible.sum() > 20
    assert not terms.log_weight[:, possible].isfinite().all()
    (grad,) = torch.autograd.grad(loss[possible].sum(), loc)
    assert grad.isfinite().all()
    assert (grad[possible] != 0).all()


def test_a_density_and_a_mass_make_no_weight():
    """A relaxed guide against a one-hot prior, which validation off would let pass."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "z",
                dist.RelaxedOneHotCategoricalStraightThrough(
                    torch.tensor(0.5), probs=torch.ones(3) / 3
                ),
            )

    for objective in (IWAE(), MIWAE(), CIWAE()):
        k = objective.num_particles
        terms = log_densities(model, guide, torch.randn(5), num_particles=k)
        name = type(objective).__name__
        with pytest.raises(ValueError, match=f"{name} weighs draws by .* at site 'z' the model's"):
            objective(terms)


@pytest.mark.parametrize("objective", [IWAE(), MIWAE(), CIWAE()])
def test_a_guide_that_is_not_reparameterisable_is_refused(objective):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5))

    terms = log_densities(model, guide, torch.randn(5), num_particles=objective.num_particles)
    with pytest.raises(ValueError, match="'z' is a Bernoulli without rsample"):
        objective(terms)


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (partial(IWAE, num_particles=0), "num_particles must be at least 1, got 0"),
        (partial(MIWAE, groups=0), "groups must be at least 1, got 0"),
        (partial(MIWAE, particles_per_group=-2), "particles_per_group must be at least 1, got -2"),
        (partial(CIWAE, num_particles=0), "num_particles must be at least 1, got 0"),
        (partial(CIWAE, elbo_share=1.5), "elbo_share must be from 0 to 1, got 1.5"),
        (partial(CIWAE, elbo_share=math.nan), "elbo_share must be from 0 to 1, got nan"),
    ],
)
def test_options_out_of_range_are_refused(construct, message):
    with pytest.raises(ValueError, match=message):
        construct()
