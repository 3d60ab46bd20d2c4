"""Paths between codes: by hand, in closed form, on every support, and across a gap of the prior."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import embed_data
from analysis.representation.interpolation import (
    interpolation,
    path_lengths,
    plot_interpolation,
)
from analysis.representation.latent_space import cross_fade, random_pairs
from analysis.result import UndefinedCheckError
from pyro_vae import VAE, posteriors, priors
from pyro_vae.latent_paths import latent_path
from pyro_vae.model import build

EXACT = LinearGaussian((1, 4, 4), latent_dim=3)
RNG = np.random.default_rng(0)


class Point(nn.Module):
    """An autoencoder's code: no density."""

    support = "real"

    def __init__(self, exact):
        super().__init__()
        self.exact, self.latent_dim = exact, exact.latent_dim

    def forward(self, x):
        return dist.Delta(self.embed(x), event_dim=1)

    def embed(self, x):
        return self.exact.embed(x)


class TwoLumps(nn.Module):
    """p(z) = 1/2 N(-3, 0.3^2) + 1/2 N(3, 0.3^2)."""

    support = "real"
    latent_dim = 1

    def forward(self):
        each = dist.Normal(torch.tensor([[-3.0], [3.0]]), 0.3).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), each)


def plain(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


def test_straight_lines_and_great_circles():
    start, end = RNG.standard_normal((2, 5, 4))
    path = latent_path(start, end, 5)
    np.testing.assert_allclose(path[:, 1], 0.75 * start + 0.25 * end)
    simplex = latent_path(RNG.dirichlet(np.ones(4), 5), RNG.dirichlet(np.ones(4), 5), 7, "simplex")
    np.testing.assert_allclose(simplex.sum(-1), 1)
    assert simplex.min() > 0

    start /= np.linalg.norm(start, axis=1, keepdims=True)
    end /= np.linalg.norm(end, axis=1, keepdims=True)
    end[0], end[1] = -start[0], start[1]  # Opposite, and the same.
    path = latent_path(start, end, 9, "sphere")
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 1)
    np.testing.assert_allclose(path[:, 0], start, atol=1e-12)
    np.testing.assert_allclose(path[:, -1], end, atol=1e-8)
    angles = np.arccos((path[:, 1:] * path[:, :-1]).sum(-1).clip(-1, 1))
    whole = np.arccos((start * end).sum(-1).clip(-1, 1))
    np.testing.assert_allclose(angles, np.repeat(whole[:, None] / 8, 8, 1), atol=1e-7)


def test_steps_by_hand():
    """Along the sides 3 and 4 of a right triangle, and a path that stands still, then jumps."""
    path = np.array([[[0, 0], [3, 0], [3, 4]], [[0, 0], [0, 0], [0, 2]]], dtype=float)
    found = path_lengths(path)
    np.testing.assert_allclose(found["length"], [7, 2])
    np.testing.assert_allclose(found["distance"], [5, 2])
    np.testing.assert_allclose(found["largest_step"], [4, 2])
    np.testing.assert_allclose(found["mean_step"], [3.5, 1])
    np.testing.assert_allclose(found["bend"], [5 / 7, 1])


def test_of_a_linear_model_all_is_known(words):
    """Straight and even paths; log p(x) by an exact guide; log p(z) is a parabola."""
    vae, x = EXACT.vae(), EXACT.draw(60, 1)
    codes = embed_data(vae, x)
    found = interpolation(vae, codes, x=x, pairs=30, steps=11, num_samples=3, seed=2)
    np.testing.assert_allclose(found.ratio, 1, rtol=1e-5)
    np.testing.assert_allclose(found.largest_relative_step, 1, rtol=1e-4)
    np.testing.assert_allclose(found.bend, 0, atol=1e-3)
    profiles = found.profiles
    truth = np.sort(EXACT.log_evidence(x).numpy())
    np.testing.assert_allclose(np.sort(profiles.data), truth, rtol=1e-4)
    pairs = random_pairs(60, 30, 2)
    middle = codes[pairs].mean(1)
    log_prior = -0.5 * (middle**2).sum(1) - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(profiles.log_prior[:, profiles.middle], log_prior, rtol=1e-4)
    summary = plain(found.summary())
    assert summary["density"]["middle_below"] <= 0.1
    assert "about as probable as data" in summary["reading"]
    _, text = words(plot_interpolation(found, (-3.0, 3.0)))
    assert "log p(x)" in text
    assert "t = 1" in text


def test_a_path_across_a_gap_of_the_prior_is_found():
    """Codes at -3 and 3, nothing between: pairs of either side are half of all."""
    exact = LinearGaussian((1, 4, 4), latent_dim=1, noise=0.3)
    vae = exact.vae()
    gap = VAE(TwoLumps(), vae.likelihood, vae.posterior)
    codes = np.repeat([[-3.0], [3.0]], 50, 0) + 0.3 * RNG.standard_normal((100, 1))
    mean = torch.as_tensor(codes, dtype=torch.float) @ exact.weight.mT + exact.bias
    x = (mean + 0.3 * torch.randn(mean.shape)).reshape(-1, 1, 4, 4)
    found = interpolation(gap, codes, x=x, pairs=60, steps=5, num_samples=30)
    pairs = random_pairs(100, 60, 0)
    across = (pairs < 50).sum(1) == 1
    middle = found.profiles.log_evidence[:, found.profiles.middle]
    assert (middle[across] < np.quantile(found.profiles.data, 0.05)).all()
    assert found.profiles.middle_below == pytest.approx(across.mean(), abs=0.15)
    assert found.profiles.end_below < 0.2
    assert "paths cross regions" in found.reading()
    assert found.profiles.prior_deviations < 0


def test_cross_fades_keep_whole_numbers_whole():
    start, end = torch.zeros(2000, 3), torch.tensor([0.0, 1.0, 4.0]).expand(2000, 3)
    shares = np.array([0.0, 0.25, 1.0])
    faded = cross_fade(start, end, shares, seed=0)
    assert (faded == faded.floor()).all()
    assert (faded[:, 0] == start).all()
    assert (faded[:, 2] == end).all()
    np.testing.assert_allclose(faded[:, 1].mean(0), [0, 0.25, 1], atol=0.03)
    halves = cross_fade(start + 0.5, end + 0.5, shares, seed=0)
    np.testing.assert_allclose(halves[:, 1], 0.5 + 0.25 * end)


def test_without_a_density_lengths_remain(words):
    vae = EXACT.vae()
    point = VAE(vae.prior, vae.likelihood, Point(vae.posterior))
    found = interpolation(point, RNG.standard_normal((9, 3)), pairs=4, steps=5)
    assert found.profiles is None
    assert plain(found.summary())["density"] is None
    assert found.summary()["length_ratio"] == pytest.approx(1)
    assert "has no density" in found.reading()
    assert "path length" in words(plot_interpolation(found))[1]


def test_a_decoder_that_ignores_the_code():
    found = interpolation(EXACT.vae(collapsed=True), RNG.standard_normal((9, 3)), pairs=4, steps=5)
    assert plain(found.summary())["length_ratio"] is None
    assert "ignores the code" in found.reading()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (priors.Flow, posteriors.DiagonalNormal),
        (priors.Vamp, posteriors.DiagonalNormal),
        (priors.SphericalUniform, posteriors.PowerSpherical),
        (priors.Dirichlet, posteriors.LogisticNormal),
        *(
            (next(p for p in priors.PRIORS.values() if p.support == s), q)
            for s, q in ((q.support, q) for q in posteriors.POSTERIORS.values())
            if s in ("positive", "unit", "sparse")
        ),
    ],
)
def test_every_support(prior, posterior):
    x = (torch.rand(30, 1, 4, 4) < 0.5).float()
    vae = build((1, 4, 4), 3, prior=prior, posterior=posterior, train_data=x, train_size=30)
    codes = embed_data(vae, x)
    found = interpolation(vae, codes, x=x, pairs=4, steps=5, num_samples=3)
    plain(found.summary())
    assert (found.ratio > 1 - 1e-5).all()
    assert np.isfinite(found.profiles.log_evidence).all()
    assert (found.profiles.log_prior is None) == (prior.support == "sparse")


def test_what_has_no_paths_is_refused():
    with pytest.raises(UndefinedCheckError, match="nothing lies between"):
        interpolation(BernoulliMixture().vae(), np.eye(5))
    with pytest.raises(UndefinedCheckError, match="one latent site"):
        interpolation(SimpleNamespace(latent_sites=("z", "w")), np.eye(5))
    for options, message in (
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"steps": 2}, "steps must be at least 3, got 2"),
        ({"x": torch.zeros(4, 1, 4, 4)}, "got 4 data and 3 codes"),
    ):
        with pytest.raises(ValueError, match=message):
            interpolation(EXACT.vae(), np.eye(3), **options)
    with pytest.raises(ValueError, match="must be finite, got 1 of 3"):
        interpolation(EXACT.vae(), np.diag([1.0, np.nan, 1.0]))
