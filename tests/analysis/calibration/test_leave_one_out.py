"""p(x_i | x_-i) against Bayes' rule, the conditional normal and ArviZ."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.calibration.leave_one_out import leave_one_element_out, same_image_probability
from analysis.model_samples import (
    distribution_function,
    element_distribution,
    guide_blocks,
    new_data,
)
from analysis.result import UndefinedCheckError
from pyro_vae import likelihoods, posteriors, priors
from pyro_vae.distributions import CategoricalLevels, DiscretizedLogistic, NegativeBinomial
from pyro_vae.model import VAE
from pyro_vae.networks import MLP


def exact_probability(model, x):
    """p(x_i = 1 | x_-i) of a mixture by Bayes' rule."""
    theta = model.logits.double().sigmoid()
    flat = x.flatten(1).double().unsqueeze(1)
    log_p = flat * theta.log() + (1 - flat) * (1 - theta).log()
    weight = (log_p.sum(-1, keepdim=True) - log_p).softmax(1)
    return (weight * theta).sum(1).reshape(x.shape).numpy()


def exact_normal(model, x):
    """The standardised x_i and the scale of p(x_i | x_-i) = N."""
    weight = model.weight.double()
    noise = model.noise**2 * torch.eye(len(weight), dtype=torch.double)
    precision = (weight @ weight.mT + noise).inverse()
    scale = precision.diagonal().rsqrt()
    residual = ((x.flatten(1).double() - model.bias) @ precision) * scale
    return residual.reshape(x.shape).numpy(), scale.reshape(x.shape[1:]).numpy()


def test_binary_forecast_is_bayes_rule():
    model = BernoulliMixture()
    x = model.draw(20, 1)
    result = leave_one_element_out(model.vae(), x, num_samples=2000)
    exact = exact_probability(model, x)
    np.testing.assert_allclose(result.probability, exact, atol=0.02)
    assert np.abs(result.probability - exact).mean() < 0.002
    chance = np.where(x.numpy() > 0, exact, 1 - exact)
    np.testing.assert_allclose(result.log_score, np.log(chance), atol=0.06)
    # The PIT of a one lies above P(x_i = 0), of a zero below.
    ones = x.numpy() > 0
    assert (result.pit[ones] >= 1 - result.probability[ones]).all()
    assert (result.pit[~ones] <= 1 - result.probability[~ones]).all()


def test_a_wrong_guide_is_weighed_away():
    model = BernoulliMixture()
    x = model.draw(20, 1)
    exact = exact_probability(model, x)
    result = leave_one_element_out(model.vae(guide_sharpness=0.5), x, num_samples=2000)
    assert np.abs(result.probability - exact).mean() < 0.004


def test_normal_score_and_pit_are_the_conditional_normals():
    model = LinearGaussian(event_shape=(20,))
    x = model.draw(30, 1)
    result = leave_one_element_out(model.vae(), x, num_samples=4000)
    standard, scale = exact_normal(model, x)
    np.testing.assert_allclose(
        result.log_score, stats.norm.logpdf(standard) - np.log(scale), atol=0.25
    )
    assert np.abs(result.pit - stats.norm.cdf(standard)).mean() < 0.01
    assert result.probability is None
    assert result.trusted
    assert result.summary()["khat_share_above"] == 0


def test_same_image_has_seen_the_element():
    model = BernoulliMixture()
    x = model.draw(300, 1)
    seen = same_image_probability(model.vae(), x)
    forecast = leave_one_element_out(model.vae(), x).probability
    assert forecast is not None
    gain = [np.square(p - x.numpy()).mean() for p in (forecast, seen)]
    assert gain[1] < gain[0] - 0.002


@pytest.mark.parametrize(
    ("likelihood", "draw"),
    [
        (likelihoods.Poisson, lambda z: torch.poisson(torch.full_like(z, 1.7))),
        (likelihoods.Laplace, torch.randn_like),
        (likelihoods.StudentT, torch.randn_like),
        (likelihoods.NegativeBinomial, lambda z: torch.poisson(torch.full_like(z, 1.7))),
        (
            partial(likelihoods.DiscretizedLogistic, levels=256),
            lambda z: torch.randint(0, 256, z.shape).to(z.dtype),
        ),
        (likelihoods.Beta, torch.rand_like),
        (likelihoods.ZeroInflatedNegativeBinomial, torch.zeros_like),
        (partial(likelihoods.Categorical, levels=6), torch.zeros_like),
    ],
)
def test_pit_of_the_models_own_data_is_uniform(likelihood, draw):
    torch.manual_seed(0)
    vae = small_vae(likelihood)
    x = vae_data(vae, draw(torch.zeros(1, 5)), 400)
    pit = leave_one_element_out(vae, x, num_samples=100).pit
    assert stats.kstest(pit.reshape(-1), "uniform").pvalue > 1e-4
    assert ((pit >= 0) & (pit <= 1)).all()


def small_vae(likelihood):
    """A decoder near constant, and a guide that does not look: it is then nearly exact."""
    small = partial(MLP, hidden=(8,))
    vae = VAE(
        priors.StandardNormal(2),
        likelihood((5,), partial(small, (2,))),
        posteriors.DiagonalNormal(2, partial(small, (5,))),
    )
    with torch.no_grad():
        for parameter in vae.posterior.parameters():
            parameter.zero_()
    return vae


def vae_data(vae, like, n):
    return torch.as_tensor(new_data(vae, like, n, seed=3).x.astype(np.float32))


def test_results_do_not_depend_on_blocks(monkeypatch):
    model = LinearGaussian(event_shape=(20,))
    x = model.draw(30, 2)
    whole = leave_one_element_out(model.vae(), x, num_samples=500)
    monkeypatch.setattr("analysis.model_samples.MAX_ELEMENTS", 500 * 20 * 7)
    blocks = leave_one_element_out(model.vae(), x, num_samples=500)
    assert np.abs(whole.pit - blocks.pit).mean() < 0.03


def test_what_is_undefined_says_so():
    vae = small_vae(likelihoods.Multinomial)
    with pytest.raises(UndefinedCheckError, match="no product over elements"):
        leave_one_element_out(vae, torch.ones(4, 5))
    with pytest.raises(UndefinedCheckError, match="need binary data, got a likelihood of Normal"):
        same_image_probability(LinearGaussian().vae(), LinearGaussian().draw(3, 0))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        leave_one_element_out(vae, torch.ones(4, 5), num_samples=0)
    with pytest.raises(ValueError, match="at least one example"):
        leave_one_element_out(vae, torch.ones(0, 5))


def test_reading_warns_of_a_poor_guide():
    model = LinearGaussian(latent_dim=8)
    result = leave_one_element_out(model.vae(guide_scale=0.3), model.draw(50, 0))
    assert not result.trusted
    assert "may err with the guide" in result.reading()


@pytest.mark.arviz
def test_arviz_gives_the_same_scores():
    from arviz_base import from_dict
    from arviz_stats import loo_approximate_posterior

    model = LinearGaussian(event_shape=(12,))
    vae, x = model.vae(guide_scale=1.2), model.draw(1, 4)
    result = leave_one_element_out(vae, x, num_samples=2000, seed=5)
    ((_, terms),) = guide_blocks(vae, x, 2000, seed=5)
    log_likelihood = element_distribution(terms).log_prob(x)[:, 0].double().numpy()
    log_p = (terms.log_likelihood + terms.log_prior)[:, 0].double().numpy()
    tree = from_dict(
        {
            "posterior": {"z": np.zeros((1, 2000))},
            "log_likelihood": {"x": log_likelihood[None]},
            "observed_data": {"x": x[0].numpy()},
        }
    )
    theirs = loo_approximate_posterior(
        tree, log_p[None], terms.log_posterior[:, 0].double().numpy()[None], pointwise=True
    )
    # Theirs are Pareto smoothed.
    np.testing.assert_allclose(result.log_score[0], theirs.elpd_i.values, atol=0.01)


class WithoutFloor(likelihoods.Poisson):
    """A rate of 0 for half of the codes: no count but 0 is possible then."""

    def forward(self, z):
        rate = torch.relu(z[..., :1]).expand(*z.shape[:-1], *self.event_shape)
        return torch.distributions.Independent(
            torch.distributions.Poisson(rate, validate_args=False), self.event_dim
        )


def test_a_draw_that_the_datum_rules_out_is_refused_and_not_no_number():
    vae = small_vae(WithoutFloor)
    with pytest.raises(UndefinedCheckError, match="is 0 for some draws"):
        leave_one_element_out(vae, torch.tensor([[1.0, 0, 0, 0, 0]]), num_samples=50)


def counts():
    x = torch.randint(0, 9, (7, 30), generator=torch.Generator().manual_seed(0)).float()
    # On both sides of where a sum gives way to the incomplete beta function.
    x[0, :6] = torch.tensor([63.0, 64, 65, 100, 500, 0])
    x[1] = 0
    return x


@pytest.mark.parametrize("inflated", [False, True])
def test_negative_binomial_is_scipys(inflated):
    generator = torch.Generator().manual_seed(1)
    log_mean = 2 * torch.randn(5, 7, 30, generator=generator) + 1
    log_t = 2 * torch.randn(30, generator=generator)
    gate = torch.randn(5, 7, 30, generator=generator) if inflated else None
    distribution, x = NegativeBinomial(log_mean, log_t, gate), counts()
    below, equal = distribution_function(distribution, x, distribution.log_prob(x))
    t, mean = log_t.double().exp(), log_mean.double().exp()
    expected = stats.nbinom.cdf(x.double() - 1, t, t / (t + mean))
    if gate is not None:
        zero = gate.double().sigmoid().numpy()
        expected = np.where(x > 0, zero + (1 - zero) * expected, 0)
    np.testing.assert_allclose(below, expected, atol=1e-6)
    np.testing.assert_allclose(equal, distribution.log_prob(x).exp())


def test_no_count_is_below_zero():
    distribution, x = NegativeBinomial(torch.zeros(4, 2, 3), torch.zeros(3)), torch.zeros(2, 3)
    below, _ = distribution_function(distribution, x, distribution.log_prob(x))
    assert below.abs().max() == 0


@pytest.mark.parametrize(
    "distribution",
    [
        CategoricalLevels(logits=torch.linspace(-1, 1, 24).reshape(2, 3, 4).sin() * 3),
        DiscretizedLogistic(torch.linspace(-1, 5, 6).reshape(2, 3), torch.tensor(0.7), 4),
    ],
)
def test_levels_are_sums_of_the_mass(distribution):
    x = torch.tensor([0.0, 2, 3])
    below, equal = distribution_function(distribution, x, distribution.log_prob(x))
    mass = torch.stack([distribution.log_prob(torch.full((3,), float(k))).exp() for k in range(4)])
    levels = torch.arange(4).reshape(4, 1, 1)
    np.testing.assert_allclose(below, torch.where(levels < x, mass, 0).sum(0), atol=1e-6)
    np.testing.assert_allclose(equal, torch.where(levels == x, mass, 0).sum(0), atol=1e-6)


def test_other_distributions_have_no_known_function():
    distribution, x = Bernoulli(torch.full((3,), 0.5)), torch.ones(3)
    assert distribution_function(distribution, x, distribution.log_prob(x)) is None
