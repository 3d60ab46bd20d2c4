"""Prior and codes: alike, where nothing may be found, and with holes planted."""

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.hypothesis_tests import two_sample_test
from analysis.representation.holes import compare_draws, holes, nearest_distance, plot_holes
from analysis.result import UndefinedCheckError
from pyro_vae import VAE, posteriors, priors
from pyro_vae.model import build

EXACT = LinearGaussian((1, 4, 4), latent_dim=3)


class WidePoint(nn.Module):
    """An autoencoder's codes, twice as wide as the prior."""

    support = "real"
    latent_dim = 3

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def forward(self, x):
        return dist.Delta(self.embed(x), event_dim=1)

    def embed(self, x):
        return 2 * self.exact.embed(x)


def plain(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


@pytest.mark.slow
def test_one_distribution_is_not_told_apart():
    """p-values are uniform, one in a hundred draws lies in a hole."""
    p_values, shares, uncovered = [], [], []
    for seed in range(15):
        first, second = np.random.default_rng(seed).standard_normal((2, 200, 3))
        found = compare_draws(first, second, seed=seed)
        p_values.append(found.p_value)
        shares.append(found.hole_share)
        uncovered.append(found.uncovered_share)
    # Of the smaller of two, doubled: 0.05 at most. 4 or more of 15 come by chance in 1 % of cases.
    assert np.mean(np.array(p_values) < 0.05) <= 3 / 15
    assert np.mean(p_values) > 0.35
    assert np.mean(shares) == pytest.approx(0.012, abs=0.008)
    assert np.mean(uncovered) == pytest.approx(0.012, abs=0.008)


@pytest.mark.parametrize("planted", ["ball", "half space"])
def test_planted_holes_are_found(words, planted):
    rng = np.random.default_rng(1)
    prior, codes = rng.standard_normal((2, 4000, 2))
    full = (codes**2).sum(1) > 1 if planted == "ball" else codes[:, 0] > 0
    codes, prior = codes[full][:1000], prior[:1000]
    found = compare_draws(codes, prior)
    empty = (prior**2).sum(1) < 0.5 if planted == "ball" else prior[:, 0] < -0.7
    assert found.p_value < 1e-6
    assert found.auroc > 0.6
    assert found.in_hole[empty].mean() > 0.6
    assert found.in_hole[~empty].mean() < 0.5 * found.in_hole[empty].mean()
    assert found.uncovered_share < 0.03
    assert found.verdicts()[0].answer == "no"
    assert "in holes" in words(plot_holes(found))[1]


def test_a_hole_has_a_price_where_the_decoder_moves_there():
    """Codes of the right half; a decoder that is flat left of 0 makes nothing strange of it."""
    rng = np.random.default_rng(2)
    prior, codes = rng.standard_normal((2, 1000, 2))
    codes[:, 0] = np.abs(codes[:, 0])
    moving = compare_draws(codes, prior, decode=lambda z: z)
    flat = compare_draws(codes, prior, decode=lambda z: z.clip(min=[0.0, -np.inf]))
    assert moving.summary()["strange_share_in_holes"] > 0.9
    assert flat.strange.mean() < 0.05
    assert flat.hole_share == moving.hole_share


def test_exact_posterior_of_own_data_has_no_holes(words):
    found = holes(EXACT.vae(), EXACT.draw(1200, 3), num_draws=1000, seed=1)
    summary = plain(found.summary())
    assert summary["p_value"] > 0.01
    assert summary["hole_share"] < 0.03
    assert summary["strange_share"] < 0.03
    assert (summary["prior_trained"], summary["normal_auroc"]) == (True, None)
    assert found.verdicts()[0].answer == "yes"
    assert "codes of data" in words(plot_holes(found, (-3.0, 3.0)))[1]


def test_a_guide_off_its_posterior_is_found():
    found = holes(EXACT.vae(guide_shift=5.0), EXACT.draw(600, 3))
    assert found.p_value < 1e-6
    assert found.auroc_by_classifier["quadratic"] > 0.7


def test_an_autoencoder_s_prior_was_not_trained():
    vae = EXACT.vae()
    point = VAE(vae.prior, vae.likelihood, WidePoint(vae.posterior))
    found = holes(point, EXACT.draw(800, 3))
    summary = plain(found.summary())
    assert summary["prior_trained"] is False
    assert summary["auroc"] > 0.65
    assert summary["uncovered_share"] > 0.2
    assert summary["normal_auroc"] < 0.6
    assert summary["normal_hole_share"] < 0.05
    assert "prior was not used" in summary["reading"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (priors.SphericalUniform, posteriors.PowerSpherical),
        (priors.Dirichlet, posteriors.LogisticNormal),
        (priors.Vamp, posteriors.DiagonalNormal),
    ],
)
def test_other_supports(prior, posterior):
    x = (torch.rand(60, 1, 3, 3) < 0.5).float()
    vae = build((1, 3, 3), 3, prior=prior, posterior=posterior, train_data=x, train_size=60)
    plain(holes(vae, x).summary())


def test_nearest_distance_by_hand():
    np.testing.assert_allclose(
        nearest_distance(np.array([[0.0], [1.0], [3.0], [3.0]])), [1, 1, 0, 0]
    )


def test_bad_input_is_refused():
    with pytest.raises(UndefinedCheckError, match="one-hot"):
        holes(BernoulliMixture().vae(), BernoulliMixture().draw(50, 0))
    with pytest.raises(ValueError, match="at least 40 data and draws are needed, got 5"):
        holes(EXACT.vae(), EXACT.draw(5, 0))
    with pytest.raises(ValueError, match=r"got shapes \(30, 2\) and \(30, 3\)"):
        two_sample_test(np.zeros((30, 2)), np.zeros((30, 3)))
