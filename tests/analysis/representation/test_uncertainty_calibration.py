"""Calibration under corruption: the exact posterior passes, a constant or timid scale fails.

The corruption is part of the model: elements are missing at random, and marked. Then p(z | x~) is
normal with precision I + W_o^T W_o / s^2 over the observed elements.
"""

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import new_data
from analysis.representation.latent_space import guide_moments
from analysis.representation.uncertainty_calibration import (
    UncertaintyCalibration,
    plot_uncertainty_calibration,
    uncertainty_calibration,
)
from analysis.result import UndefinedCheckError

MODEL = LinearGaussian((24,), latent_dim=3, noise=1.0)
MARK = 1e4
STRENGTHS = (0.0, 0.3, 0.6, 0.9)


def missing(x, strength, seed, **_):
    uniform = torch.as_tensor(np.random.default_rng(seed).random(x.shape))
    return x.masked_fill(uniform < strength, MARK)


class MissingAware(nn.Module):
    """p(z | observed elements); log scales interpolate between clean (0) and exact (growth 1)."""

    support = "real"
    latent_dim = 3

    def __init__(self, growth):
        super().__init__()
        self.growth = growth

    def moments(self, x):
        seen = (x != MARK).float()
        weight = seen[..., None] * MODEL.weight
        precision = torch.eye(3) + weight.mT @ weight / MODEL.noise**2
        residual = torch.where(seen.bool(), x - MODEL.bias, 0.0)
        projected = (residual[..., None] * MODEL.weight).sum(-2) / MODEL.noise**2
        return torch.linalg.solve(precision, projected), precision.inverse()

    def forward(self, x):
        mean, covariance = self.moments(x)
        clean = self.moments(torch.zeros_like(x))[1]
        scales = [c.diagonal(dim1=-2, dim2=-1).sqrt() for c in (clean, covariance)]
        ratio = (scales[0] / scales[1]) ** (1 - self.growth)
        tril = torch.linalg.cholesky(covariance) * ratio[..., None]
        return dist.MultivariateNormal(mean, scale_tril=tril)

    def embed(self, x):
        return self.moments(x)[0]


def told(growth):
    vae = MODEL.vae()
    vae.posterior = MissingAware(growth)
    return vae


def checked(growth, n=300, seed=0, known=True):
    vae = told(growth)
    made = new_data(vae, MODEL.draw(1, 0), n, seed=seed)
    return uncertainty_calibration(
        vae,
        torch.as_tensor(made.x),
        z=made.z if known else None,
        corruptions={"missing": missing},
        strengths=STRENGTHS,
        seed=seed,
    )


@pytest.mark.parametrize("known", [True, False])
def test_the_exact_posterior_is_honest_and_its_scale_grows(known):
    found = checked(1.0, known=known)
    assert found.honest
    np.testing.assert_allclose(found.standardised_error, 1, atol=0.1)
    assert found.scale_growth[0, -1] > 1.3
    assert (np.diff(found.scale_growth[0]) > 0).all()
    assert (found.rank_correlations[0] or 0) > 0.1
    assert found.verdicts()[0].answer == "yes"
    assert found.units == 3


@pytest.mark.parametrize(
    ("growth", "said"),
    [(0.0, "the scale 1.00-fold"), (0.5, "the scale 1."), (2.0, "the scale ")],
)
def test_a_scale_that_does_not_follow_the_error_is_found(growth, said):
    found = checked(growth)
    assert not found.honest
    assert np.nanmin(found.p_values) < 1e-3
    assert said in found.reading()
    assert (found.rank_correlations[0] is None) == (growth == 0)
    # The clean guide is exact in each: what is wrong comes from the damage.
    assert found.p_values[0, 0] > 0.05


def test_an_exact_guide_of_clean_data_alone_is_not_honest_about_noise():
    """Its covariance does not depend on x: with noise only the error of the mean grows."""
    vae, x = MODEL.vae(), MODEL.draw(1000, 1)
    found = uncertainty_calibration(vae, x, corruptions=["gaussian"], strengths=(0.5,))
    assert not found.honest
    gain, variance = vae.posterior.gain, guide_moments(vae, x[:1])[1][0]
    extra = gain.square().numpy() @ (0.5 * x.numpy().std(0)) ** 2
    expected = np.sqrt(1 + (extra / variance).mean())
    assert found.standardised_error[0, 1] == pytest.approx(expected, rel=0.02)
    assert found.scale_growth[0, 1] == pytest.approx(1, abs=1e-6)
    assert found.standardised_error[0, 0] == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
def test_the_verdict_has_its_nominal_rate_of_false_alarms():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        variance = np.exp(0.3 * rng.standard_normal((2, 3, 150)))
        error = variance * chi2.rvs(3, size=variance.shape, random_state=rng) / 3
        error[1, 0], variance[1, 0] = error[0, 0], variance[0, 0]
        alarms += not UncertaintyCalibration(
            ("a", "b"), (0.0, 0.2, 0.4), error, variance, True, 3
        ).honest
    assert 0.02 <= alarms / 300 <= 0.1


@pytest.mark.slow
def test_exact_guides_are_seldom_accused():
    alarms = sum(not checked(1.0, n=150, seed=seed).honest for seed in range(20))
    assert alarms <= 4  # More has a probability below 1 % at a rate of 5 %.


def test_a_faulty_clean_guide_is_told_apart():
    vae = MODEL.vae(guide_scale=0.5)
    made = new_data(vae, MODEL.draw(1, 0), 400, seed=3)
    found = uncertainty_calibration(vae, torch.as_tensor(made.x), z=made.z, strengths=(0.01,))
    assert found.standardised_error[0, 0] == pytest.approx(2, rel=0.1)
    assert not found.honest


def test_one_hot_codes_have_a_scale_and_points_have_none():
    exact = BernoulliMixture()
    found = uncertainty_calibration(
        exact.vae(), exact.draw(300, 0), corruptions=["salt", "occlusion"]
    )
    assert found.units == 5
    assert np.isfinite(found.standardised_error).all()
    np.testing.assert_allclose(found.standardised_error[:, 0], 1, rtol=1e-5)
    vae = MODEL.vae()
    vae.posterior.forward = lambda x: dist.Delta(vae.posterior.embed(x)).to_event(1)
    with pytest.raises(UndefinedCheckError, match="a point"):
        uncertainty_calibration(vae, MODEL.draw(10, 0))


class _Sampled(dist.Normal):
    @property
    def mean(self):
        raise NotImplementedError


def test_a_guide_without_formulas_is_drawn_from():
    vae, x = told(1.0), MODEL.draw(200, 0)
    mean, variance = guide_moments(vae, x)
    vae.posterior.forward = lambda x: _Sampled(
        torch.as_tensor(mean).float()[: len(x)], torch.as_tensor(variance).float()[: len(x)].sqrt()
    ).to_event(1)
    drawn_mean, drawn_variance = guide_moments(vae, x)
    assert np.abs(drawn_mean - mean).max() < 6 * np.sqrt(variance.max() / 200)
    assert drawn_variance.mean() == pytest.approx(variance.mean(), rel=0.03)


def test_summaries_and_figures(words):
    found = checked(0.0)
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["damages"]["missing"]["rank_correlation"] is None
    axes, text = words(plot_uncertainty_calibration({"run": found}))
    assert "for missing at strength 0.9" in text
    assert len(axes) == 2
    _, text = words(plot_uncertainty_calibration({"exact": checked(1.0), "constant": found}))
    assert "scales of 1 of 2 guides do not follow" in text
    other = uncertainty_calibration(told(1.0), MODEL.draw(9, 0), strengths=(0.1,))
    with pytest.raises(ValueError, match="same corruptions and strengths, got 2 kinds"):
        plot_uncertainty_calibration({"a": found, "b": other})


def test_bad_arguments():
    vae, x = told(1.0), MODEL.draw(5, 0)
    with pytest.raises(ValueError, match="at least two data, got 1"):
        uncertainty_calibration(vae, x[:1])
    with pytest.raises(ValueError, match="z must be of shape"):
        uncertainty_calibration(vae, x, z=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="rise from 0 to at most 1"):
        uncertainty_calibration(vae, x, strengths=(0.2, 0.1))
    with pytest.raises(ValueError, match="corruptions must be some of gaussian, salt, got blur"):
        uncertainty_calibration(vae, x, corruptions=["blur"])
