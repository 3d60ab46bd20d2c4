"""SAP: hand-computed score matrices, thresholds and correlations."""

import numpy as np
import pytest

from analysis.disentanglement.factors import varying
from analysis.disentanglement.sap import (
    separated_predictability,
    squared_correlations,
    threshold_accuracies,
)

RNG = np.random.default_rng(0)


def test_gaps_by_hand():
    scores = np.array([[0.9, 0.2], [0.5, 0.8], [0.6, 0.7]])
    assert separated_predictability(scores) == pytest.approx([0.3, 0.1])


def test_a_perfect_code_is_predicted_and_the_rest_guessed():
    v = np.stack([RNG.integers(size, size=4000) for size in (2, 8, 40)], 1)
    codes = (v * [-1.0, 100.0, 0.1])[:, [1, 2, 0]]
    accuracies = threshold_accuracies(codes.astype(np.float32), varying(v))
    own = accuracies[[2, 0, 1], [0, 1, 2]]
    assert own.tolist() == [1, 1, 1]
    # 2,000 are judged: four standard errors about 1 / values, and at the best of two.
    gaps = separated_predictability(accuracies)
    errors = np.sqrt([0.25 / 2000, 0.125 * 0.875 / 2000, 0.025 * 0.975 / 2000])
    assert (np.abs(gaps - [1 / 2, 7 / 8, 39 / 40]) < 4 * errors).all()


def test_thresholds_lie_between_the_means():
    # Two Normals with means 2 apart and scale 1: Phi(1) is right.
    v = RNG.integers(2, size=(40_000, 1))
    codes = 2.0 * v + RNG.normal(size=v.shape)
    assert threshold_accuracies(codes, varying(v)).item() == pytest.approx(0.8413, abs=0.012)
    # Values that are rare count as much as others.
    v = (RNG.random((40_000, 1)) < 0.1).astype(int)
    codes = 2.0 * v + RNG.normal(size=v.shape)
    assert threshold_accuracies(codes, varying(v)).item() == pytest.approx(0.8413, abs=0.02)


def test_a_constant_coordinate_guesses():
    v = np.arange(12).reshape(-1, 1) % 3
    assert threshold_accuracies(np.full((12, 1), 2.5), varying(v)).item() <= 0.5
    assert squared_correlations(np.full((12, 1), 0.1), varying(v)).item() == 0


def test_squared_correlations_by_hand():
    v = np.array([[0], [1], [2], [3]])
    codes = np.array([[0.0, -6.0], [0.0, -4.0], [0.0, -2.0], [1.0, 0.0]])
    # Cov = 3/8, Var z = 3/16, Var v = 5/4.
    assert squared_correlations(codes, varying(v)).ravel() == pytest.approx([0.6, 1])
