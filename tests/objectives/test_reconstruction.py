"""The objective of autoencoders, and the refusal of their guides by every other one."""

import inspect
import logging
from functools import partial

import pyro
import pytest
import torch

from pyro_vae import networks, priors
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.log_densities import NoDensityError, log_densities
from pyro_vae.model import build
from pyro_vae.objectives import OBJECTIVES, Reconstruction
from pyro_vae.posteriors import DiagonalNormal, Point
from pyro_vae.training import Training


def a_vae(posterior=Point, **parts):
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=(8,))
    return build((1, 4, 4), 3, posterior=posterior, network=network, **parts)


def data(n=60):
    values = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return PreparedData(Dataset.from_array((values < 0.5).to(torch.uint8), levels=2), "binary")


def a_training(vae, **options):
    options = {"epochs": 2, "batch_size": 10, "compile": "off", **options}
    return Training(vae, data(), options.pop("objective", Reconstruction()), **options)


@pytest.mark.parametrize("posterior", [Point, DiagonalNormal])
def test_it_is_the_negative_log_likelihood_and_nothing_else(posterior):
    vae, x = a_vae(posterior), torch.ones(5, 1, 4, 4)
    terms = log_densities(vae.model, vae.guide, x, num_particles=3)
    value = Reconstruction(3)(terms)
    expected = -vae.likelihood(terms.draws[0]).log_prob(x).mean(0)
    torch.testing.assert_close(value.loss, expected)
    assert set(value.values) == {"reconstruction"}
    torch.testing.assert_close(value.values["reconstruction"], -expected.detach())


@pytest.mark.parametrize("name", [n for n, part in OBJECTIVES.items() if part.needs_density])
def test_every_other_objective_refuses_a_guide_without_a_density(name):
    asked = inspect.signature(OBJECTIVES[name]).parameters
    given = {"train_size": 42, "latent_dim": 3, "critic_hidden": (8,)}
    objective = OBJECTIVES[name](**{key: v for key, v in given.items() if key in asked})
    said = f"{type(objective).__name__} needs a guide with a density, but site 'z' is a Delta, .*"
    with pytest.raises(NoDensityError, match=f"{said}: use --objective reconstruction"):
        a_training(a_vae(), objective=objective)


def test_a_priors_parameters_stay_as_they_were_and_all_others_move():
    vae = a_vae(prior=partial(priors.GaussianMixture, components=4))
    before = {name: value.clone() for name, value in vae.named_parameters()}
    a_training(vae).run()
    for name, value in vae.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("prior."), name


def test_the_record_has_no_elbo_and_epochs_are_judged_by_the_reconstruction(caplog):
    caplog.set_level(logging.INFO)
    # At such a rate it is soon no better than it was.
    training = a_training(a_vae(), epochs=30, lr=0.5, early_stopping=2)
    history = training.run()
    assert all(r["validation_elbo"] is r["validation_kl"] is None for r in history)
    assert all(r["units_above_rate"] is None for r in history)
    assert "elbo" not in history[0]
    scores = [r["validation_reconstruction"] for r in history]
    assert training.stopping.stopped
    assert training.stopping.best_epoch == 1 + max(
        range(len(scores)), key=lambda i: (scores[i], i)
    )
    assert "no better validation reconstruction since" in caplog.text
    assert not any("KL" in message for message in caplog.messages)


def test_a_guide_with_a_density_keeps_its_elbo_in_the_record():
    history = a_training(a_vae(DiagonalNormal)).run()
    assert all(r["validation_elbo"] is not None for r in history)


def test_aggressive_training_needs_a_density():
    with pytest.raises(
        NoDensityError, match="the mutual information needs a guide with a density"
    ):
        a_training(a_vae(), aggressive_steps=10)
