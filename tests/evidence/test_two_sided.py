"""The sandwich around log p(x) where it is known, and what opens it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.nn import PyroModule, pyro_method

from pyro_vae import likelihoods, posteriors, priors
from pyro_vae.evidence import TwoSidedCheck, two_sided, two_sided_check
from pyro_vae.model import build
from pyro_vae.rng import evaluation_mode

SHORT = {"num_temperatures": 50, "leapfrog_steps": 5}


def shifted(case, by=0.3):
    case.vae.posterior.bias = case.vae.posterior.bias + by
    return case


def log_evidence(case, x):
    """By the formula, of the data that the check has simulated."""
    decoder = case.vae.likelihood.decoder
    covariance = decoder.weight @ decoder.weight.mT + 0.25 * torch.eye(len(decoder.bias))
    return scipy.stats.multivariate_normal(decoder.bias.numpy(), covariance.numpy()).logpdf(x)


@pytest.mark.slow
def test_the_bounds_enclose_the_evidence(linear_gaussian):
    case, n = shifted(linear_gaussian(widen=1.6)), 150
    check = two_sided_check(case.vae, case.x, num_data=n, **SHORT)
    with evaluation_mode(case.vae, seed=0):
        x, _ = two_sided.simulate(case.vae, case.x, n)
    exact = log_evidence(case, x.numpy())
    below, above = exact - check.lower, check.upper - exact
    for side in (below, above):
        assert side.mean() > -4 * side.std() / n**0.5
        assert side.mean() < 0.05
    np.testing.assert_allclose(check.gap, below + above)
    assert 0 < check.mean_gap < 0.1
    assert "Good" in check.trust()


def test_with_the_exact_posterior_there_is_no_gap(linear_gaussian):
    case = linear_gaussian()
    check = two_sided_check(case.vae, case.x, num_data=9, num_chains=2, num_temperatures=3)
    np.testing.assert_allclose(check.gap, 0, atol=1e-9)


def test_without_temperatures_the_gap_is_wide(linear_gaussian):
    case = shifted(linear_gaussian(widen=0.6))
    check = two_sided_check(case.vae, case.x, num_temperatures=1)
    assert check.mean_gap > 1
    assert "Not to be trusted" in check.trust()


def test_reverse_chains_that_start_elsewhere_are_no_bound(linear_gaussian, monkeypatch):
    """The exact draw is what makes it one: from draws of a narrow guide the upper bound is too low."""
    case = shifted(linear_gaussian(widen=0.3))

    def elsewhere(vae, like_x, num_data):
        x, _ = right(vae, like_x, num_data)
        return x, {"z": vae.posterior(x).sample()}

    right = two_sided.simulate
    options = {"num_data": 60, "num_temperatures": 2, "leapfrog_steps": 1}
    gap = two_sided_check(case.vae, case.x, **options).mean_gap
    monkeypatch.setattr(two_sided, "simulate", elsewhere)
    assert two_sided_check(case.vae, case.x, **options).mean_gap < gap - 0.5


@pytest.mark.parametrize(
    "parts",
    [
        {"likelihood": likelihoods.Bernoulli},
        {"likelihood": likelihoods.Poisson, "prior": priors.Gamma, "posterior": posteriors.Gamma},
        {"likelihood": likelihoods.Bernoulli, "prior": priors.Beta, "posterior": posteriors.Beta},
        {
            "likelihood": likelihoods.Multinomial,
            "prior": priors.Dirichlet,
            "posterior": posteriors.Dirichlet,
        },
    ],
    ids=lambda parts: "-".join(part.__name__ for part in parts.values()),
)
def test_supports_and_likelihoods(parts):
    pyro.set_rng_seed(0)
    vae = build((5,), 2, train_data=torch.ones(8, 5), train_size=8, levels=4, **parts)
    like = torch.ones(3, 5, dtype=torch.uint8)
    check = two_sided_check(vae, like, num_data=30, num_temperatures=10, leapfrog_steps=2)
    assert np.isfinite(check.gap).all()
    assert abs(check.mean_gap) < 0.3


def test_chunks_and_parts(linear_gaussian):
    case = linear_gaussian()
    options = {"num_chains": 2, "num_temperatures": 2, "leapfrog_steps": 1}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    check = two_sided_check(case.vae, case.x, num_data=7, max_elements=30, **options)
    assert (torch.get_rng_state() == before).all()
    assert check.lower.shape == check.upper.shape == check.acceptance.shape == (7,)
    np.testing.assert_allclose(check.gap, 0, atol=1e-9)
    whole = TwoSidedCheck.concatenate([check, check])
    assert whole.summary()["n"] == 14
    one = two_sided_check(case.vae, case.x, num_data=1, **options)
    assert one.gap_se is None
    other = two_sided_check(case.vae, case.x, num_data=1, **{**options, "num_chains": 3})
    with pytest.raises(ValueError, match=r"one num_chains, got \[2, 3\]"):
        TwoSidedCheck.concatenate([one, other])
    with pytest.raises(ValueError, match="no results to concatenate"):
        TwoSidedCheck.concatenate([])


def check_of(lower, upper):
    return TwoSidedCheck(np.asarray(lower), np.asarray(upper), np.ones(len(lower)), 4, 10, 5)


@pytest.mark.parametrize(
    ("upper", "words"),
    [
        ([0.1, 0.1, 0.1], "Good"),
        ([9.0, 9.0, 9.0], "Not to be trusted"),
        ([-1.0, -1.0, -1.0], "Something is wrong"),
        ([np.inf, 0.0, 0.0], "not finite"),
    ],
)
def test_trust(upper, words):
    assert words in check_of([0.0, 0.0, 0.0], upper).trust()


class TwoObserved(PyroModule):
    """Nothing says which of two observed sites is the datum."""

    latent_sites = ("z",)

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x)

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def test_refusals(linear_gaussian):
    case = linear_gaussian()
    with pytest.raises(ValueError, match="num_data must be at least 1, got 0"):
        two_sided_check(case.vae, case.x, num_data=0)
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        two_sided_check(case.vae, case.x, num_chains=0)
    with pytest.raises(ValueError, match="at least one example"):
        two_sided_check(case.vae, case.x[:0])
    with pytest.raises(ValueError, match="one observed site, but it has 'x', 'y'"):
        two_sided_check(TwoObserved(), torch.zeros(3, 2).double())


@pytest.mark.parametrize("upper", [-0.3, 0.3])
def test_one_datum_is_not_judged(upper):
    assert check_of([0.0], [upper]).trust().startswith("One simulated datum")
