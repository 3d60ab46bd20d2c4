"""SAP and DCI: hand-computed scores, and predictors on codes with known answers."""

import numpy as np
import pytest

from analysis.disentanglement.factors import best_gaps, encode_factors
from analysis.disentanglement.prediction_metrics import (
    dci_scores,
    forest_importance,
    threshold_accuracies,
)
from analysis.result import UndefinedCheckError

RNG = np.random.default_rng(0)


def test_gaps_by_hand():
    scores = np.array([[0.9, 0.2], [0.5, 0.8], [0.6, 0.7]])
    assert best_gaps(scores) == pytest.approx([0.3, 0.1])


def test_a_perfect_code_is_predicted_and_the_rest_guessed():
    v = np.stack([RNG.integers(size, size=4000) for size in (2, 8, 40)], 1)
    codes = (v * [-1.0, 100.0, 0.1])[:, [1, 2, 0]]
    accuracies = threshold_accuracies(codes.astype(np.float32), encode_factors(v))
    own = accuracies[[2, 0, 1], [0, 1, 2]]
    assert own.tolist() == [1, 1, 1]
    # 2,000 are judged: four standard errors about 1 / values, and at the best of two.
    gaps = best_gaps(accuracies)
    errors = np.sqrt([0.25 / 2000, 0.125 * 0.875 / 2000, 0.025 * 0.975 / 2000])
    assert (np.abs(gaps - [1 / 2, 7 / 8, 39 / 40]) < 4 * errors).all()


def test_thresholds_lie_between_the_means():
    # Two Normals with means 2 apart and scale 1: Phi(1) is right.
    v = RNG.integers(2, size=(40_000, 1))
    codes = 2.0 * v + RNG.normal(size=v.shape)
    assert threshold_accuracies(codes, encode_factors(v)).item() == pytest.approx(
        0.8413, abs=0.012
    )
    # Values that are rare count as much as others.
    v = (RNG.random((40_000, 1)) < 0.1).astype(int)
    codes = 2.0 * v + RNG.normal(size=v.shape)
    assert threshold_accuracies(codes, encode_factors(v)).item() == pytest.approx(0.8413, abs=0.02)


def test_a_constant_coordinate_guesses():
    v = np.arange(12).reshape(-1, 1) % 3
    assert threshold_accuracies(np.full((12, 1), 2.5), encode_factors(v)).item() <= 0.5


def test_dci_by_hand():
    matrix = np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    # H(3/4, 1/4) = 0.8113 bits; weights 4/6 and 2/6.
    mixed = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    # The first factor needs one coordinate; the second two of three, 1/3 and 2/3; weights 1/2.
    spread = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3) / np.log(3)
    expected = 4 / 6 * (1 - mixed) + 2 / 6, 0.5 + 0.5 * (1 - spread)
    assert dci_scores(matrix) == pytest.approx(expected)


def test_perfect_equal_and_no_importances():
    assert dci_scores(np.eye(4)[:, [2, 0, 1]]) == pytest.approx((1, 1))
    for useless in (np.ones((4, 3)), np.zeros((4, 3))):
        assert dci_scores(useless) == pytest.approx((0, 0))
    # A factor held twice: each coordinate has one factor, but not each factor one coordinate.
    disentanglement, completeness = dci_scores(np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]))
    assert disentanglement == pytest.approx(1)
    assert completeness < 1


def test_importances_that_are_refused():
    with pytest.raises(ValueError, match=r"not be negative, got -1"):
        dci_scores(np.array([[-1.0, 1.0]]))
    with pytest.raises(UndefinedCheckError, match="2 factors that vary, got 1"):
        dci_scores(np.ones((3, 1)))
    with pytest.raises(UndefinedCheckError, match="2 coordinates, got 1"):
        dci_scores(np.ones((1, 3)))


def test_a_noisy_code_of_one_factor_each_is_disentangled():
    v = np.stack([RNG.integers(size, size=3000) for size in (2, 3, 8)], 1)
    codes = RNG.normal(size=(3000, 5))
    codes[:, [4, 0, 1]] = v + 0.4 * codes[:, [4, 0, 1]]
    found = forest_importance(codes.astype(np.float32), encode_factors(v), trees=10)
    # The impurity that nodes remove gives the noise a share here, as factors are hard to predict.
    assert np.allclose(found.matrix, np.eye(5)[:, [4, 0, 1]])
    assert found.matrix.sum(0) == pytest.approx([1, 1, 1])
    # Two values 1 apart under noise of 0.4: Phi(1.25) = 0.894; trees know a little less.
    assert found.accuracies[0] == pytest.approx(0.894, abs=0.03)
    assert found.guesses == pytest.approx([1 / 2, 1 / 3, 1 / 8], abs=0.05)


def test_noise_has_no_importance():
    v = np.stack([RNG.integers(size, size=2000) for size in (2, 5)], 1)
    found = forest_importance(RNG.normal(size=(2000, 4)), encode_factors(v), trees=10)
    assert dci_scores(found.matrix)[0] == 0
    assert found.accuracies == pytest.approx(found.guesses, abs=0.06)
