"""Enumerated sites are summed as by Pyro, and exactly."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyro_vae.evidence import annealed_importance_sampling, importance_weighting
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ELBO, IWAE, DReG

CLASSES, DIM = 3, 2
PARALLEL = {"enumerate": "parallel"}


class Mixture(nn.Module):
    """x ~ N(w z + shift_y, 1), z ~ N(mean_y, 1), y ~ Cat(pi); the guide has y first, last or not."""

    def __init__(self, guide_class):
        super().__init__()
        self.guide_class = guide_class
        generator = torch.Generator().manual_seed(1)

        def parameter(*shape):
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.logits, self.means = parameter(CLASSES), parameter(CLASSES, DIM)
        self.weights, self.shifts = parameter(DIM, DIM), parameter(CLASSES, DIM)
        self.q_logits, self.q_weights = parameter(DIM, CLASSES), parameter(DIM, DIM)
        self.q_shifts = parameter(CLASSES, DIM)

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer=dict(PARALLEL))
            z = pyro.sample("z", dist.Normal(self.means[y], 1.0).to_event(1))
            # One of the two reads the class in each variant.
            shift = self.shifts[y] if self.guide_class != "last" else 0.0
            loc = z @ self.weights + shift
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = 0.3 * x @ self.q_weights
            if self.guide_class == "first":
                probabilities = dist.Categorical(logits=x @ self.q_logits)
                y = pyro.sample("y", probabilities, infer=dict(PARALLEL))
                loc = loc + 0.3 * self.q_shifts[y]
            z = pyro.sample("z", dist.Normal(loc, 1.5).to_event(1))
            if self.guide_class == "last":
                probabilities = dist.Categorical(logits=z @ self.q_logits)
                pyro.sample("y", probabilities, infer=dict(PARALLEL))

    def log_evidence(self, x):
        covariance = self.weights.T @ self.weights + torch.eye(DIM)
        shift = self.shifts if self.guide_class != "last" else 0.0
        marginal = dist.MultivariateNormal(self.means @ self.weights + shift, covariance)
        return (self.logits.log_softmax(0) + marginal.log_prob(x[:, None])).logsumexp(-1)


@pytest.mark.parametrize("guide_class", ["first", "last", "none"])
def test_the_bound_is_that_of_trace_enum_elbo(guide_class):
    program, x = Mixture(guide_class), torch.randn(5, DIM)
    theirs_of = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss
    pyro.set_rng_seed(0)
    theirs = theirs_of(program.model, program.guide, x)
    expected = torch.autograd.grad(theirs, [*program.parameters()], allow_unused=True)
    pyro.set_rng_seed(0)
    terms = log_densities(program.model, program.guide, x)
    value = ELBO(kl="monte_carlo").value(terms)
    found = torch.autograd.grad(value.loss.sum(), [*program.parameters()], allow_unused=True)
    torch.testing.assert_close(value.loss.sum(), theirs)
    for ours, gradient in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5)
    assert set(terms.model_sites) == {"x", "z"} | ({"y"} if guide_class != "none" else set())


@pytest.mark.parametrize("guide_class", ["first", "last", "none"])
def test_log_evidence_is_exact_to_monte_carlo_error(guide_class):
    program, x = Mixture(guide_class), torch.randn(20, DIM)
    with torch.no_grad():
        exact = program.log_evidence(x).numpy()
        found = importance_weighting(program.model, program.guide, x, num_samples=20_000)
    assert found.log_evidence == pytest.approx(exact, abs=0.1)
    assert (found.elbo <= exact + 0.05).all()


@pytest.mark.parametrize("guide_class", ["first", "last", "none"])
def test_annealing_sums_over_classes(guide_class):
    program, x = Mixture(guide_class), torch.randn(4, DIM)
    program.latent_sites = ("z",)
    found = annealed_importance_sampling(program, x, num_chains=200, num_temperatures=100)
    with torch.no_grad():
        exact = program.log_evidence(x).numpy()
    assert found.log_evidence == pytest.approx(exact, abs=0.1)


def test_the_kl_is_in_closed_form_where_the_draw_does_not_decide_the_class():
    x = torch.randn(4, DIM)
    program = Mixture("first")
    terms = log_densities(program.model, program.guide, x, num_particles=20_000)
    for site in ("y", "z"):
        closed = terms.closed_form_kl(site)
        estimate = (terms.guide_sites[site] - terms.model_sites[site]).mean(0)
        torch.testing.assert_close(closed.mean(0), estimate, rtol=0.02, atol=0.02)
    # p(z | y) is of a class that the guide draws after z, or that is summed out.
    for guide_class in ("last", "none"):
        program = Mixture(guide_class)
        assert log_densities(program.model, program.guide, x).closed_form_kl("z") is None


def test_no_closed_form_where_the_prior_depends_on_the_draw():
    def model(x):
        with pyro.plate("data", len(x)):
            top = pyro.sample("top", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", dist.Normal(top, 0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 0.5))
            pyro.sample("top", dist.Normal(z, 0.5))

    terms = log_densities(model, guide, torch.zeros(3), num_particles=4)
    assert terms.closed_form_kl("z") is None
    assert terms.closed_form_kl("top") is not None


def test_a_class_of_the_guide_alone_is_refused():
    program, x = Mixture("first"), torch.randn(4, DIM)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match="enumerates the site 'y'"),
    ):
        log_densities(model, program.guide, x)


def test_objectives_of_one_site_refuse_a_class():
    program, x = Mixture("first"), torch.randn(4, DIM)
    terms = log_densities(program.model, program.guide, x, num_particles=3)
    IWAE(3)(terms)
    with pytest.raises(ValueError, match="the sites y, z"):
        DReG(3)(terms)
