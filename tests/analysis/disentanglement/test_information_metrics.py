"""MIG and modularity: hand-computed tables, perfect, rotated and constant codes, the estimate's bias."""

import numpy as np
import pytest

from analysis.disentanglement.factors import encode_factors
from analysis.disentanglement.information_metrics import (
    bootstrap_information,
    discretize,
    factor_information,
    maximum_gap,
    mean_modularity,
    modularity,
    mutual_information_gap,
)
from analysis.result import UndefinedCheckError

LOG2 = np.log(2)


def grid(*sizes, times=1):
    """All combinations of values, each as often."""
    axes = np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")
    return np.tile(np.stack([axis.ravel() for axis in axes], 1), (times, 1))


def test_bins_have_equal_width():
    codes = np.array([[0.0], [0.049], [0.051], [0.5], [0.949], [0.951], [1.0]])
    assert discretize(codes).ravel().tolist() == [0, 0, 1, 10, 18, 19, 19]
    assert discretize(np.full((3, 1), 7.0)).ravel().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="at least 2, got 1"):
        discretize(codes, bins=1)


def test_an_outlier_widens_the_bins():
    codes = np.linspace(0, 1, 100)[:, None]
    codes[-1] = 1000
    assert len(np.unique(discretize(codes))) == 2


def test_a_table_by_hand():
    # p(z, v) = [[3, 1], [1, 3]] / 8 for the first factor and first coordinate.
    table = [(0, 0)] * 3 + [(0, 1)] + [(1, 0)] + [(1, 1)] * 3
    z, v = np.array(table).T
    # The second coordinate is constant. The second factor is the first coordinate.
    codes = np.stack([5.0 - 2 * z, np.full(8, 4.0)], 1)
    known = factor_information(codes, encode_factors(np.stack([v, z], 1)))
    by_hand = 2 * 3 / 8 * np.log(3 / 8 / 0.25) + 2 * 1 / 8 * np.log(1 / 8 / 0.25)
    assert np.allclose(known.nats, [[by_hand, LOG2], [0, 0]])
    assert np.allclose(known.entropies, LOG2)
    gaps = mutual_information_gap(known.nats, known.entropies)
    assert np.allclose(gaps, [by_hand / LOG2, 1])


def test_coordinates_are_not_mixed_with_rows():
    # A matrix viewed in another shape, rather than transposed, gives 0.0008 here.
    v = grid(2, 2, times=500)
    codes = np.stack([v[:, 0], 1 - v[:, 0], v[:, 1], 0 * v[:, 0]], 1).astype(float)
    known = factor_information(codes, encode_factors(v))
    # The first factor is held twice, gap 0, the second once, gap 1.
    assert mutual_information_gap(known.nats, known.entropies) == pytest.approx([0, 1])
    assert known.informative.tolist() == [True, True, True, False]


def test_a_perfect_code_in_any_order_scale_and_sign():
    v = grid(2, 3, 5, 20, times=2)
    codes = (v * [-2.0, 1.0, 0.01, 300.0])[:, [2, 0, 3, 1]]
    factors = encode_factors(v)
    known = factor_information(codes.astype(np.float32), factors)
    assert np.allclose(mutual_information_gap(known.nats, known.entropies), 1)
    assert maximum_gap(factors) == pytest.approx(1)


def test_more_values_than_bins_lower_what_can_be_reached():
    v = grid(40, 4)
    # Two of 40 values in each of 20 bins.
    assert maximum_gap(encode_factors(v)) == pytest.approx((np.log(20) / np.log(40) + 1) / 2)


def test_two_binary_factors_rotated_by_45_degrees():
    v = grid(2, 2, times=10)
    codes = v @ np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    known = factor_information(codes, encode_factors(v))
    # The sum, or the difference, tells a factor half of the time.
    assert np.allclose(known.nats, LOG2 / 2)
    assert np.allclose(mutual_information_gap(known.nats, known.entropies), 0, atol=1e-9)


def test_noise_knows_nothing_and_its_bias_is_known():
    rng = np.random.default_rng(0)
    v = rng.integers(8, size=(4000, 1))
    known = factor_information(rng.uniform(size=(4000, 30)), encode_factors(v))
    expected = (20 - 1) * (8 - 1) / (2 * 4000)
    assert known.nats.mean() == pytest.approx(expected, rel=0.1)
    assert known.bias.mean() == pytest.approx(expected, rel=0.1)
    assert not known.informative.any()


def test_bootstrap_samples_spread_about_the_estimate():
    rng = np.random.default_rng(1)
    v = rng.integers(2, size=(2000, 2))
    flipped = rng.random(v.shape) < 0.1
    factors, codes = encode_factors(v), (v ^ flipped).astype(float)
    drawn = bootstrap_information(codes, factors, repeats=20)
    nats = factor_information(codes, factors).nats
    assert np.allclose(drawn.mean(0), nats, atol=0.02)
    # I has standard error |log 9| sqrt(p (1 - p) / n) = 0.0147 for flips of probability 0.1.
    assert np.diagonal(drawn.std(0)) == pytest.approx(0.0147, rel=0.4)


def test_what_is_not_defined():
    with pytest.raises(UndefinedCheckError, match="at least 2 coordinates"):
        mutual_information_gap(np.ones((1, 3)), np.ones(3))
    factors = encode_factors(grid(2, 2))
    with pytest.raises(ValueError, match="got 3 codes and 4 rows"):
        factor_information(np.ones((3, 2)), factors)
    with pytest.raises(ValueError, match="must be finite, got 1 rows"):
        factor_information(np.array([[0.0], [1.0], [np.nan], [1.0]]), factors)


def test_factors_are_numbered_anew_and_those_with_one_value_named():
    factors = encode_factors(
        np.array([[3, 1, -7], [9, 1, 5], [9, 1, 40]]), ("shape", "colour", "x")
    )
    assert factors.values.tolist() == [[0, 0], [1, 1], [1, 2]]
    assert factors.sizes == (2, 3)
    assert (factors.names, factors.left_out) == (("shape", "x"), ("colour",))
    with pytest.raises(ValueError, match="each of 2 factors, got 1"):
        encode_factors(grid(2, 2), ("one",))
    with pytest.raises(UndefinedCheckError, match="no factor has two values"):
        encode_factors(np.zeros((3, 2), dtype=int))


def test_by_hand():
    nats = np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    # The third: 1 - (1 / 4) / 2.
    assert modularity(nats) == pytest.approx([1, 0, 0.875, 0])
    # A unit is of no matter.
    assert modularity(3 * nats) == pytest.approx([1, 0, 0.875, 0])


def test_coordinates_of_noise_do_not_count():
    nats = np.array([[2.0, 0.0], [0.001, 0.0], [0.0, 1.0]])
    assert mean_modularity(nats, np.array([True, False, True])) == 1
    assert mean_modularity(nats, np.zeros(3, dtype=bool)) == 0


def test_one_factor_is_not_enough():
    with pytest.raises(UndefinedCheckError, match="at least 2 factors"):
        modularity(np.ones((3, 1)))
