"""The critic's total correlation, against one that is known, and what trains whom."""

import math

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.data import Dataset, PreparedData
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO, Factor
from pyro_vae.objectives.total_correlation import cross_entropy, permute
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS
from pyro_vae.training import Training


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def a_factor(**options):
    """The objective with a small critic."""
    return Factor(3, critic_hidden=(16, 16), **options)


def a_pair(objective, posterior="diagonal_normal"):
    """A VAE at binary pictures, and its terms."""
    posterior = POSTERIORS[posterior]
    prior = next(prior for prior in PRIORS.values() if prior.support == posterior.support)
    vae = build((4, 4), latent_dim=3, prior=prior, posterior=posterior)
    x = torch.bernoulli(torch.full((6, 4, 4), 0.3))
    terms = log_densities(vae.model, vae.guide, x, num_particles=objective.num_particles)
    return vae, terms


def test_a_permutation_keeps_each_coordinate_and_not_the_pairs():
    z = torch.randn(2, 500, 3)
    mixed = permute(z)
    assert (mixed.sort(1).values == z.sort(1).values).all()
    rows = (mixed[0][:, None] == z[0]).all(-1).any(-1)
    assert rows.sum() < 10
    assert (mixed[0] != mixed[1]).any()
    # Coordinates that were equal are independent: correlations of order 500^(-1/2).
    mixed = permute(z[:, :, :1].expand(2, 500, 3).clone())
    for particle in mixed:
        correlation = torch.corrcoef(particle.T) - torch.eye(3)
        assert correlation.abs().max() < 5 / math.sqrt(500)


@pytest.mark.slow
def test_the_critic_finds_the_total_correlation_of_a_normal():
    """TC = -1/2 log(1 - rho^2), and log D - log(1 - D) is log q(z) - sum_j log q(z_j) point by point."""
    rho = 0.9
    root = torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]]))
    factor = Factor(2, critic_hidden=(64, 64))
    optimizer = torch.optim.Adam(factor.critic.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        z = torch.randn(1, 1000, 2) @ root.mT
        loss = cross_entropy(factor.log_ratio(z), factor.log_ratio(permute(z))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    z = torch.randn(20_000, 2) @ root.mT
    with torch.no_grad():
        found = factor.log_ratio(z)
    q = dist.MultivariateNormal(torch.zeros(2), scale_tril=root)
    expected = q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert float(found.mean()) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)
    inner = z.abs().max(-1).values < 1.5
    assert (found - expected)[inner].abs().mean() < 0.1


def test_a_critic_that_sees_no_difference_has_log_2():
    nothing = torch.zeros(3, 5)
    torch.testing.assert_close(cross_entropy(nothing, nothing), torch.full((5,), math.log(2)))
    sure = torch.full((3, 5), 50.0)
    assert cross_entropy(sure, -sure).max() < 1e-6
    torch.testing.assert_close(cross_entropy(-sure, sure), torch.full((5,), 50.0))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_loss_is_the_elbos_plus_the_weighted_log_ratio(num_particles):
    factor = a_factor(gamma=7.0, num_particles=num_particles)
    _, terms = a_pair(factor)
    value = factor(terms)
    elbo = ELBO()(terms)
    log_ratio = factor.log_ratio(terms.draws[0]).mean(0)
    torch.testing.assert_close(value.loss, elbo.loss + 7 * log_ratio)
    torch.testing.assert_close(value.values["total_correlation"], log_ratio.detach())
    for name in ("elbo", "reconstruction", "kl"):
        assert (value.values[name] == elbo.values[name]).all()
    assert value.own_loss is not None
    assert value.own_loss.shape == value.loss.shape == (6,)
    assert not any(logged.requires_grad for logged in value.values.values())
    torch.testing.assert_close(a_factor(gamma=0.0)(terms).loss, elbo.loss)


@pytest.mark.parametrize(
    "posterior",
    ["diagonal_normal", "full_normal", "student_t", "gamma", "beta", "coupling_flow"],
)
def test_the_penalty_reaches_the_guide(posterior):
    factor = a_factor()
    vae, terms = a_pair(factor, posterior)
    penalty = factor(terms).loss - ELBO()(terms).loss
    gradients = torch.autograd.grad(penalty.sum(), [*vae.posterior.encoder.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def a_training(objective):
    """Two steps of 20 data."""
    pyro.set_rng_seed(0)
    pictures = np.random.default_rng(0).integers(0, 17, (60, 1, 4, 4)).astype(np.uint8)
    data = PreparedData(Dataset.from_array(torch.from_numpy(pictures), levels=17), "binary")
    vae = build((1, 4, 4), 3)
    return Training(vae, data, objective, batch_size=20, max_steps=2, compile="off")


def critic_of(training):
    return {name: p.detach().clone() for name, p in training.objective.critic.named_parameters()}


def test_a_step_trains_both():
    training = a_training(a_factor())
    critic = critic_of(training)
    vae = {name: p.detach().clone() for name, p in training.program.named_parameters()}
    training.run()
    for name, before in vae.items():
        assert (training.program.get_parameter(name) != before).any(), name
    for name, before in critic.items():
        assert (training.objective.critic.get_parameter(name) != before).any(), name
    assert math.isfinite(training.history[0]["critic_loss"])


def test_each_has_the_gradient_of_its_own_loss():
    """From one state and one noise, gamma changes the VAE's step alone, and only through the penalty."""
    after = {}
    for gamma in (0.0, 50.0):
        torch.manual_seed(1)
        factor = a_factor(gamma=gamma, critic_lr=1e-2)
        training = a_training(factor)
        training.take_step()
        after[gamma] = critic_of(training), dict(training.program.named_parameters())
    # Adam's first step, of the learning rates' lengths.
    before = dict(a_factor().critic.named_parameters())
    assert before.keys() == after[0.0][0].keys()
    for name, parameter in after[0.0][0].items():
        torch.testing.assert_close(parameter, after[50.0][0][name], rtol=0, atol=0)
    assert any((p != after[50.0][1][name]).any() for name, p in after[0.0][1].items())

    # With gamma = 0 the VAE's step is the ELBO's: nothing of the critic's loss reaches it.
    torch.manual_seed(1)
    a_factor()
    alone = a_training(ELBO())
    alone.take_step()
    for name, parameter in alone.program.named_parameters():
        torch.testing.assert_close(parameter, after[0.0][1][name], rtol=0, atol=0)


def test_the_critic_is_trained_as_its_options_say():
    training = a_training(a_factor(critic_lr=3e-3))
    before = critic_of(training)
    training.take_step()
    group = training.optimizer_step.optimizer.param_groups[1]
    assert (group["lr"], group["betas"]) == (3e-3, (0.5, 0.9))
    moved = [float((p - before[name]).abs().max()) for name, p in critic_of(training).items()]
    assert max(moved) == pytest.approx(3e-3, rel=0.01)


def test_the_critic_is_the_papers():
    widths = [
        layer.out_features for layer in Factor(8).critic if isinstance(layer, torch.nn.Linear)
    ]
    assert widths == [1000] * 6 + [1]
    assert Factor(8, critic_hidden=()).critic[0].in_features == 8


@pytest.mark.parametrize(
    ("posterior", "name"),
    [
        ("dirichlet", "InteriorDirichlet"),
        ("logistic_normal", "LogisticNormal"),
        ("power_spherical", "PowerSpherical"),
        ("von_mises_fisher", "VonMisesFisher"),
        ("one_hot", "OneHots"),
    ],
)
def test_what_cannot_be_permuted_is_refused(posterior, name):
    factor = a_factor()
    with pytest.raises(ValueError, match=f"may vary freely, but site 'z' is a {name} on"):
        factor(a_pair(factor, posterior)[1])


def test_another_dimension_is_refused():
    factor = Factor(4, critic_hidden=(8,))
    with pytest.raises(ValueError, match="critic reads 4 dimensions, but site 'z' has 3"):
        factor(a_pair(factor)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"gamma": -1.0}, "gamma must be at least 0 and finite, got -1.0"),
        ({"critic_lr": 0.0}, "critic_lr must be above 0 and finite, got 0.0"),
        ({"critic_hidden": (8, 0)}, r"critic_hidden must be at least 1 each, got \[8, 0\]"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"kl": "exact"}, "kl must be one of auto, monte_carlo, got 'exact'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        Factor(**{"latent_dim": 3, **options})
