"""Arrays from a VAE: their shapes and types, their seeds, and nothing left behind."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from analysis import model_samples as draws
from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import (
    element_distribution,
    guide_blocks,
    latent_site,
    mean_data,
    narrow_dtype,
    new_data,
)
from analysis.result import UndefinedCheckError
from pyro_vae import build, likelihoods

BINARY, NORMAL = BernoulliMixture(), LinearGaussian()


@pytest.fixture
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(draws, "block_size", lambda *_: 7)


@pytest.mark.usefixtures("few_at_a_time")
def test_new_data_are_the_models():
    new = new_data(NORMAL.vae(), NORMAL.draw(2, 0), 4000, seed=0)
    assert new.z.shape == (4000, 3)
    assert new.x.shape == (4000, 1, 8, 8)
    flat, weight = new.x.reshape(4000, -1), NORMAL.weight.numpy()
    expected = weight @ weight.T + NORMAL.noise**2 * np.eye(64)
    assert np.abs(np.cov(flat.T) - expected).max() < 6 * np.sqrt(2 / 4000) * expected.max()
    # The codes are those that the data were made from.
    fitted, *_ = np.linalg.lstsq(new.z, flat - NORMAL.bias.numpy(), rcond=None)
    assert np.abs(fitted.T - weight).max() < 6 * NORMAL.noise / np.sqrt(4000)


def test_seeds_streams_and_modes():
    vae, x = BINARY.vae(), BINARY.draw(3, 0)
    vae.train()
    state = torch.get_rng_state()
    first = new_data(vae, x.byte(), 20, seed=1)
    assert first.x.dtype == np.uint8
    np.testing.assert_array_equal(first.x, new_data(vae, x, 20, seed=1).x)
    assert (first.x != new_data(vae, x, 20, seed=2).x).any()
    validated = Distribution._validate_args
    for _ in guide_blocks(vae, x, 5, seed=1):
        assert Distribution._validate_args == validated
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training


@pytest.mark.usefixtures("few_at_a_time")
def test_blocks_cover_the_data():
    vae, x = NORMAL.vae(), NORMAL.draw(20, 0)
    blocks = list(guide_blocks(vae, x, 5, seed=0))
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [(0, 7), (7, 14), (14, 20)]
    exact = NORMAL.log_evidence(x)
    for rows, terms in blocks:
        # The guide is the posterior: each weight is log p(x).
        assert torch.allclose(terms.log_weight.double(), exact[rows].expand(5, -1), atol=1e-4)
        assert element_distribution(terms).batch_shape == (5, rows.stop - rows.start, 1, 8, 8)


def test_means_are_decoded():
    z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = z @ NORMAL.weight.numpy().T + NORMAL.bias.numpy()
    np.testing.assert_allclose(mean_data(NORMAL.vae(), z).reshape(5, -1), expected, atol=1e-5)


def test_what_is_no_product_over_elements_is_refused():
    vae = build((4,), 2, likelihood=likelihoods.LowRankNormal)
    ((_, terms),) = guide_blocks(vae, torch.randn(3, 4), 2, seed=0)
    with pytest.raises(UndefinedCheckError, match="no product over elements"):
        element_distribution(terms)
    with pytest.raises(UndefinedCheckError, match="one latent site can be checked, got a, b"):
        latent_site(SimpleNamespace(latent_sites=("a", "b")))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.0, 1.0], np.uint8),
        ([0.0, 300.0], np.uint16),
        ([0.0, 0.5], np.float32),
        ([-1.0, 1.0], np.float32),
        ([0.0, 70_000.0], np.float32),
    ],
)
def test_whole_numbers_are_narrowed(values, kind):
    array = np.array(values, np.float32)
    assert narrow_dtype(array).dtype == kind
    np.testing.assert_array_equal(narrow_dtype(array), array)


def test_one_seed_for_data_and_for_the_guide_gives_independent_draws():
    vae = NORMAL.vae()
    new = new_data(vae, NORMAL.draw(1, 0), 400, seed=5)
    ((_, terms),) = guide_blocks(vae, torch.as_tensor(new.x), 1, seed=5)
    with torch.no_grad():
        error = terms.draws[0] - vae.embed(torch.as_tensor(new.x))
    # The guide is the posterior: what it adds to its mean knows nothing of the code.
    assert abs(np.corrcoef(error.numpy().ravel(), new.z.ravel())[0, 1]) < 5 / np.sqrt(1200)
