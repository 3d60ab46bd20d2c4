"""FactorVAE and beta-VAE metrics: votes by hand, perfect codes, noise, rotations."""

import numpy as np
import pytest

from analysis.disentanglement.factors import SharedValueSampler, encode_factors
from analysis.disentanglement.prediction_metrics import (
    beta_vae_score,
    factor_vae_score,
    majority_vote_accuracy,
)
from analysis.result import UndefinedCheckError

SIZES = (3, 4, 6, 6)


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(size, size=6000) for size in SIZES], 1)


def rotated(v, degrees):
    """Pairs of standardised factors, turned."""
    z = (v - v.mean(0)) / v.std(0)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.concatenate([z[:, i : i + 2] @ np.array([[c, -s], [s, c]]) for i in (0, 2)], 1)


def test_votes_by_hand():
    training = np.array([[5, 1], [2, 3], [0, 0]])
    evaluation = np.array([[2, 4], [1, 2], [1, 0]])
    # Coordinate 0 says factor 0, coordinate 1 says 1, coordinate 2 has not learned anything.
    assert majority_vote_accuracy(training, evaluation) == pytest.approx((2 + 2) / 10)


def test_groups_share_one_value_and_pairs_differ():
    values = np.array([0, 1, 0, 1, 0, 2, 0, 1])
    rows = np.array([0, 1, 2, 4, 5, 6, 7])
    shared = SharedValueSampler(values, rows, least=2)
    # Value 2 has one row only, row 3 is not among those to draw from.
    assert sorted(shared.rows) == [0, 1, 2, 4, 6, 7]
    rng = np.random.default_rng(0)
    for _ in range(20):
        group = shared.group(2, rng)
        assert len(set(group)) == 2
        assert len(set(values[group])) == 1
    first, second = shared.pairs(3000, rng)
    assert (values[first] == values[second]).all()
    assert (first != second).all()
    # Each row comes as often, and each other row of its value.
    assert np.bincount(first, minlength=8)[shared.rows] == pytest.approx(500, abs=100)
    assert np.bincount(second[first == 0], minlength=8)[[2, 4, 6]] == pytest.approx(166, abs=50)


@pytest.mark.parametrize("metric", [factor_vae_score, beta_vae_score])
def test_a_perfect_code_with_idle_coordinates(metric, factors):
    rng = np.random.default_rng(1)
    codes = np.concatenate(
        [(factors * [-1.0, 3.0, 1.0, 0.5])[:, [3, 1, 0, 2]], rng.normal(size=(6000, 3))], 1
    )
    score = metric(codes.astype(np.float32), encode_factors(factors), training_groups=300)
    assert score.accuracy == 1


@pytest.mark.parametrize("metric", [factor_vae_score, beta_vae_score])
def test_noise_is_told_by_chance(metric, factors):
    codes = np.random.default_rng(2).normal(size=(6000, 10))
    score = metric(codes, encode_factors(factors))
    assert score.chance == 1 / 4
    # Judged on other data than learned from, so no luck of the majority is left; groups share data,
    # which widens the binomial spread somewhat.
    assert abs(score.accuracy - 1 / 4) < 5 * np.sqrt(3 / 16 / score.groups)
    assert score.standard_error == pytest.approx(np.sqrt(3 / 16 / score.groups), rel=0.1)


def test_rotations(factors):
    # A turn by 30 degrees leaves a coordinate that each factor moves most: both are content.
    for metric in (factor_vae_score, beta_vae_score):
        assert metric(rotated(factors, 30), encode_factors(factors)).accuracy > 0.97
    # At 45 degrees two factors of one size move both coordinates alike: half is luck.
    last = encode_factors(factors[:, 2:])
    assert factor_vae_score(rotated(factors, 45)[:, 2:], last).accuracy == pytest.approx(
        0.5, abs=0.12
    )


def test_coordinates_that_hardly_move_have_no_vote(factors):
    # It follows a factor that another coordinate holds under noise.
    v = factors[:, :2]
    noise = np.random.default_rng(3).normal(size=(6000, 1))
    codes = np.concatenate([v + noise, 1e-3 * v[:, :1], np.full((6000, 1), 0.1)], 1)
    factors = encode_factors(v)
    assert factor_vae_score(codes, factors, least_scale=0.0).accuracy > 0.9
    constant = np.full((6000, 2), 0.1)
    assert factor_vae_score(constant, factors).accuracy == 0
    assert beta_vae_score(constant, factors).accuracy == pytest.approx(0.5, abs=0.08)
    alone = np.concatenate([codes[:, 2:], noise], 1)
    # The one that follows a factor is asked, or not: only noise, that tells nothing, is left.
    assert factor_vae_score(alone, factors, least_scale=0.0).accuracy > 0.65
    assert factor_vae_score(alone, factors).accuracy == pytest.approx(0.5, abs=0.12)


def test_too_few_data_for_a_group(factors):
    with pytest.raises(UndefinedCheckError, match=r"factor 0 has no value with 64 data"):
        factor_vae_score(np.eye(100)[:, :2], encode_factors(factors[:100]))
    unique = np.stack([np.arange(100), np.arange(100) % 2], 1)
    with pytest.raises(UndefinedCheckError, match=r"factor 0 has no value with 2 data"):
        beta_vae_score(np.ones((100, 2)), encode_factors(unique))
