"""Statistics of importance weights, with ArviZ as the oracle."""

import math
import warnings

import numpy as np
import pytest
from arviz_stats.base import array_stats

from pyro_vae.statistics import (
    active_units,
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    pareto_khat,
    unit_activity,
)

pytestmark = pytest.mark.arviz


def arviz_khat(log_weights):
    """One datum at a time. ArviZ takes MINUS the log weights."""
    return np.array([array_stats.psislw(-column)[1] for column in log_weights.T])


@pytest.mark.parametrize("num_samples", [30, 31, 100, 225, 226, 1000, 3333])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_khat_is_arviz(num_samples, scale):
    rng = np.random.default_rng(num_samples)
    log_weights = scale * rng.standard_normal((num_samples, 20)) - 100
    np.testing.assert_allclose(
        pareto_khat(log_weights), arviz_khat(log_weights), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("num_samples", [100, 1000])
@pytest.mark.parametrize("k", [0.3, 0.8, 1.5, 3.0])
def test_khat_is_arviz_with_heavy_tails(num_samples, k):
    log_weights = -k * np.log(np.random.default_rng(1).uniform(size=(num_samples, 20)))
    np.testing.assert_allclose(
        pareto_khat(log_weights), arviz_khat(log_weights), rtol=1e-12, atol=1e-12
    )


def test_khat_is_arviz_with_ties():
    """Each weight twice over or more, as of draws that repeat."""
    log_weights = np.repeat(np.random.default_rng(0).standard_normal((500, 20)), 2, axis=0)
    rounded = np.round(2 * np.random.default_rng(1).standard_normal((1000, 20)), 1)
    for tied in (log_weights, rounded):
        np.testing.assert_allclose(pareto_khat(tied), arviz_khat(tied), rtol=1e-12, atol=1e-12)


def drawn_codes(p, q, num_samples, rng):
    """Log weights of draws from each of the guides q over a few codes."""
    codes = np.array([rng.choice(len(guide), num_samples, p=guide) for guide in q])
    return np.log(np.take_along_axis(p / q, codes, 1)).T - 90


def test_a_tail_tied_at_its_foot_by_hand():
    """ArviZ divides by 0: 1.3 returns NaN, and 0.8 what its last step makes of k = 0."""
    weights = (1.0 + np.arange(1000) % 3)[:, None] * np.ones(2)
    weights[0] = 8
    log_weights = np.log(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the division.
        said = arviz_khat(log_weights)[0]
    assert np.isnan(said) or said == pytest.approx(5 / (94 + 10))
    expected = 1 + np.log(8 / weights[:, 0].sum()) / np.log(1000)
    np.testing.assert_allclose(pareto_khat(log_weights), expected)
    zeros = np.full((1000, 1), -np.inf)
    for equal, share in ((50, 1 / 50), (2, 1 / 2), (1, 1)):
        zeros[:equal] = -70
        zeros[equal:] = -np.inf
        np.testing.assert_allclose(pareto_khat(zeros), 1 + np.log(share) / np.log(1000))


@pytest.mark.parametrize("codes", [5, 10, 64])
@pytest.mark.parametrize("rounding", [0.0, 1e-5])
def test_a_guide_of_few_codes_that_is_next_to_exact_is_not_called_bad(codes, rounding):
    """Float32 parts equal weights; a fit would find a tail in the rounding."""
    rng = np.random.default_rng(codes)
    p = rng.dirichlet(np.ones(codes), 100)
    q = p * np.exp(0.1 * rng.standard_normal(p.shape))
    log_weights = drawn_codes(p, q / q.sum(1, keepdims=True), 1000, rng)
    log_weights += rounding * rng.uniform(-1, 1, log_weights.shape)
    assert effective_sample_size(log_weights).min() > 900
    assert pareto_khat(log_weights).max() < 0.3


def test_a_rare_code_that_outweighs_all_is_called_bad():
    """p = 0.5 for a code that the guide gives 0.002: if it is drawn, few draws carry half the sum."""
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.002, 0.499, 0.499])
    log_weights = drawn_codes(p, np.tile(q, (100, 1)), 1000, np.random.default_rng(0))
    drawn = log_weights.max(0) > -89
    assert drawn.mean() > 0.7
    khat = pareto_khat(log_weights)
    assert (khat[drawn] > khat_threshold(1000)).mean() > 0.95
    # What is never drawn is not seen.
    assert khat[~drawn].max() == -np.inf


def test_one_draw_of_a_tenth_is_at_the_threshold():
    log_weights = np.zeros((1000, 1))
    for share, above in ((0.11, True), (0.09, False)):
        log_weights[0] = np.log(999 * share / (1 - share))
        assert (pareto_khat(log_weights) > khat_threshold(1000)) == above


def test_a_wide_guide_is_seen_by_khat_only_with_few_draws():
    """N(0, 16 I) for N(0, I) in three dimensions: bounded weights, of which k-hat tends to -2 / 3."""
    z = 4 * np.random.default_rng(0).standard_normal((30_000, 20, 3))
    log_weights = (-(z**2) / 2 + z**2 / 32).sum(-1)
    few, many = pareto_khat(log_weights[:100]), pareto_khat(log_weights)
    assert (few > khat_threshold(100)).mean() > 0.9
    assert many.max() < 0
    # E_q[w]^2 / E_q[w^2] of each dimension is sqrt(2 - 1 / 16) / 4.
    share = (math.sqrt(2 - 1 / 16) / 4) ** 3
    np.testing.assert_allclose(effective_sample_size(log_weights), 30_000 * share, rtol=0.1)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.0])
def test_khat_is_the_shape_of_pareto_weights(k):
    """w = u^-k with u uniform is Pareto with shape k: the mean of k-hat over many sets is near it.

    Near, not at: PSIS pulls towards 1/2 with the weight of ten draws among the tail's.
    """
    rng = np.random.default_rng(0)
    num_samples = 10_000
    log_weights = -k * np.log(rng.uniform(size=(num_samples, 200)))
    khat = pareto_khat(log_weights)
    tail = 3 * math.sqrt(num_samples)
    expected = (tail * k + 10 * 0.5) / (tail + 10)
    assert khat.mean() == pytest.approx(expected, abs=4 * khat.std() / math.sqrt(200) + 0.01)
    assert khat.mean() == pytest.approx(k, abs=0.05)


def test_khat_does_not_take_the_negative():
    """With the wrong sign heavy tails look perfect."""
    rng = np.random.default_rng(0)
    heavy = -1.2 * np.log(rng.uniform(size=(1000, 50)))
    assert pareto_khat(heavy).mean() > 1
    assert pareto_khat(-heavy).mean() < 0.5


def test_khat_ignores_a_constant_and_the_order():
    rng = np.random.default_rng(0)
    log_weights = rng.standard_normal((400, 5))
    khat = pareto_khat(log_weights)
    np.testing.assert_allclose(pareto_khat(log_weights - 750), khat, rtol=1e-10)
    np.testing.assert_array_equal(pareto_khat(rng.permuted(log_weights, axis=0)), khat)


@pytest.mark.parametrize("value", [0.0, -93.7, -12_345.6, 400.0])
def test_constant_weights_are_nothing_to_worry_about(value):
    """Of an exact posterior or a collapsed latent; ArviZ raises."""
    constant = np.full((100, 2), value)
    with pytest.raises(ValueError, match="same"):
        arviz_khat(constant)
    rng = np.random.default_rng(0)
    rounded = (constant * (1 + 3e-7 * rng.uniform(-1, 1, constant.shape))).astype(np.float32)
    for log_weights in (constant, rounded):
        np.testing.assert_array_equal(pareto_khat(log_weights), -np.inf)
        np.testing.assert_allclose(effective_sample_size(log_weights), 100, rtol=1e-3)


def test_small_but_true_spread_is_fitted():
    log_weights = 0.01 * np.random.default_rng(0).standard_normal((1000, 3)) - 90
    np.testing.assert_allclose(pareto_khat(log_weights), arviz_khat(log_weights), rtol=1e-12)


def test_zero_weights_are_fine():
    rng = np.random.default_rng(0)
    log_weights = rng.standard_normal((1000, 4))
    log_weights[rng.permutation(1000)[:700]] = -np.inf
    np.testing.assert_allclose(pareto_khat(log_weights), arviz_khat(log_weights), rtol=1e-12)
    kept = log_weights[np.isfinite(log_weights[:, 0])]
    np.testing.assert_allclose(effective_sample_size(log_weights), effective_sample_size(kept))
    np.testing.assert_allclose(log_mean_exp(log_weights), log_mean_exp(kept) + np.log(0.3))


@pytest.mark.parametrize("height", [20.0, 100.0, 700.0])
def test_one_huge_weight_is_seen(height):
    log_weights = np.random.default_rng(0).standard_normal((1000, 3))
    log_weights[17] = height
    np.testing.assert_allclose(pareto_khat(log_weights), arviz_khat(log_weights), rtol=1e-12)
    assert np.all(pareto_khat(log_weights) > 0.9)
    np.testing.assert_allclose(effective_sample_size(log_weights), 1, rtol=1e-4)


@pytest.mark.parametrize("height", [710.0, 725.0, 745.0, 800.0, 1e6])
def test_one_weight_beyond_float64_is_infinitely_bad(height):
    log_weights = np.random.default_rng(0).standard_normal((1000, 3))
    log_weights[17] = height
    np.testing.assert_array_equal(pareto_khat(log_weights), np.inf)
    np.testing.assert_allclose(effective_sample_size(log_weights), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_weight_is_infinitely_bad(value):
    log_weights = np.random.default_rng(0).standard_normal((100, 2))
    alone = pareto_khat(log_weights[:, 1:])
    log_weights[3, 0] = value
    khat = pareto_khat(log_weights)
    assert khat[0] == np.inf
    assert khat[1] == alone
    assert effective_sample_size(log_weights)[0] == 0


def test_all_weights_zero_are_infinitely_bad():
    log_weights = np.full((100, 1), -np.inf)
    np.testing.assert_array_equal(pareto_khat(log_weights), np.inf)
    np.testing.assert_array_equal(effective_sample_size(log_weights), 0)
    np.testing.assert_array_equal(log_mean_exp(log_weights), -np.inf)


def test_fewest_draws_have_a_khat():
    """Of a tail of five, which ArviZ 1.3 calls NaN and 0.8 fits as we do."""
    log_weights = np.random.default_rng(0).standard_normal((25, 20))
    assert np.all(np.isfinite(pareto_khat(log_weights)))


def test_too_few_draws_for_khat_are_refused():
    with pytest.raises(ValueError, match="at least 25 draws, got 24"):
        pareto_khat(np.zeros((24, 3)))


def test_khat_threshold():
    assert khat_threshold(100) == 0.5
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(10**6) == 0.7
    with pytest.raises(ValueError, match="at least 25, got 10"):
        khat_threshold(10)


def test_effective_sample_size_is_the_formula():
    log_weights = np.random.default_rng(0).standard_normal((50, 4))
    weights = np.exp(log_weights)
    expected = weights.sum(0) ** 2 / (weights**2).sum(0)
    np.testing.assert_allclose(effective_sample_size(log_weights), expected)
    np.testing.assert_allclose(effective_sample_size(log_weights - 5000), expected)


def test_effective_sample_size_of_two_equal_draws_is_two():
    log_weights = np.full((30, 1), -np.inf)
    log_weights[:2] = -1000
    np.testing.assert_allclose(effective_sample_size(log_weights), 2)


def test_log_mean_exp_is_stable_and_in_float64():
    log_weights = np.log(np.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(log_mean_exp(log_weights), np.log([2.0, 3.0]))
    np.testing.assert_allclose(log_mean_exp(log_weights - 5000), np.log([2.0, 3.0]) - 5000)
    assert log_mean_exp(log_weights.astype(np.float32)).dtype == np.float64


def test_active_units_from_both_sides():
    rng = np.random.default_rng(0)
    healthy = rng.standard_normal((1000, 4))
    collapsed = 1e-3 * healthy
    np.testing.assert_allclose(unit_activity(healthy), healthy.var(0))
    assert active_units(healthy) == 4
    assert active_units(collapsed) == 0
    assert active_units(np.hstack([healthy, collapsed])) == 4


def test_a_unit_is_active_above_a_variance_of_a_hundredth():
    signs = np.array([[-1.0], [1.0]])
    assert active_units(np.sqrt([0.0099, 0.0101]) * signs) == 1
