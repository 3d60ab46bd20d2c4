"""The exact models are exact, and each fault is the one that it is called."""

import numpy as np
import pytest
import torch

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import new_data
from pyro_vae.log_densities import log_densities
from pyro_vae.rng import evaluation_mode

MODELS = [LinearGaussian(), LinearGaussian((4,), noise=0.3, seed=2), BernoulliMixture()]


def log_weights(vae, x, draws=20):
    with evaluation_mode(vae, seed=0):
        return log_densities(vae.model, vae.guide, x, num_particles=draws).log_weight.double()


@pytest.mark.parametrize("model", MODELS)
def test_every_weight_is_the_evidence(model):
    x = model.draw(30, 0)
    error = (log_weights(model.vae(), x) - model.log_evidence(x)).abs().max()
    assert error < 1e-4


def test_data_have_the_models_moments():
    model = LinearGaussian()
    x = model.draw(5000, 0).flatten(1).double().numpy()
    weight = model.weight.double().numpy()
    covariance = weight @ weight.T + model.noise**2 * np.eye(64)
    assert np.abs(np.cov(x.T) - covariance).max() < 6 * np.sqrt(2 / 5000) * covariance.max()
    mixture = BernoulliMixture()
    share = mixture.draw(5000, 0).flatten(1).mean(0)
    assert (share - mixture.logits.sigmoid().mean(0)).abs().max() < 5 * 0.5 / np.sqrt(5000)


@pytest.mark.parametrize(
    "faults",
    [{"guide_scale": 0.7}, {"guide_scale": 1.4}, {"guide_shift": 0.5}, {"diagonal": True}],
)
def test_a_fault_of_the_guide_leaves_the_model(faults):
    model = MODELS[1]
    x = model.draw(30, 0)
    weights = log_weights(model.vae(**faults), x, 2000)
    assert weights.std(0).min() > 0.05
    bound = weights.logsumexp(0) - np.log(2000)
    assert (bound - model.log_evidence(x)).abs().mean() < 0.15


def test_a_fault_of_the_model_costs_evidence():
    for model, faults in [
        (MODELS[0], {"noise_ratio": 1.2}),
        (MODELS[0], {"collapsed": True}),
        (MODELS[2], {"sharpness": 1.5}),
        (MODELS[2], {"collapsed": True}),
        (MODELS[2], {"missing": 2}),
    ]:
        x = model.draw(300, 0)
        weights = log_weights(model.vae(**faults), x)
        # Its guide is its own posterior, but for the pixels' faults.
        assert weights.std(0).max() < 1e-3
        assert (model.log_evidence(x) - weights.mean(0)).mean() > 0.3


def test_faults_of_the_data():
    shifted = MODELS[0].draw(100, 0, shift=0.2) - MODELS[0].draw(100, 0)
    assert torch.allclose(shifted, torch.full_like(shifted, 0.2), atol=1e-5)
    turned = MODELS[2].draw(500, 0, flipped=0.1) != MODELS[2].draw(500, 0)
    assert 0.09 < turned.float().mean() < 0.11


@pytest.mark.parametrize("model", [LinearGaussian(), BernoulliMixture()])
def test_one_seed_gives_real_and_new_data_that_are_independent(model):
    real = model.draw(200, 3)
    new = new_data(model.vae(), real, 200, seed=3).x
    deviations = [(x - x.mean(0)).ravel() for x in (real.numpy(), new.astype(np.float64))]
    # An image's pixels move together: not all of the 200 x 64 are independent.
    assert abs(np.corrcoef(*deviations)[0, 1]) < 5 / np.sqrt(200)
