"""DCI: hand-computed importances, and a forest's on codes with known answers."""

import numpy as np
import pytest

from analysis.check import UndefinedCheckError
from analysis.disentanglement.dci import completeness_of, disentanglement_of, importance
from analysis.disentanglement.factors import varying

RNG = np.random.default_rng(0)


def test_by_hand():
    matrix = np.array([[3.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    # H(3/4, 1/4) = 0.8113 bits; weights 4/6 and 2/6.
    mixed = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert disentanglement_of(matrix) == pytest.approx(4 / 6 * (1 - mixed) + 2 / 6)
    # The first factor needs one coordinate; the second two of three, 1/3 and 2/3; weights 1/2.
    spread = -(np.log(1 / 3) / 3 + 2 * np.log(2 / 3) / 3) / np.log(3)
    assert completeness_of(matrix) == pytest.approx(0.5 + 0.5 * (1 - spread))


def test_perfect_equal_and_none():
    perfect = np.eye(4)[:, [2, 0, 1]]
    assert disentanglement_of(perfect) == pytest.approx(1)
    assert completeness_of(perfect) == pytest.approx(1)
    for useless in (np.ones((4, 3)), np.zeros((4, 3))):
        assert disentanglement_of(useless) == pytest.approx(0)
        assert completeness_of(useless) == pytest.approx(0)
    # A factor held twice: each coordinate has one factor, but not each factor one coordinate.
    twice = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert disentanglement_of(twice) == pytest.approx(1)
    assert completeness_of(twice) < 1


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"not be negative, got -1"):
        disentanglement_of(np.array([[-1.0, 1.0]]))
    with pytest.raises(UndefinedCheckError, match="2 factors that vary, got 1"):
        disentanglement_of(np.ones((3, 1)))
    with pytest.raises(UndefinedCheckError, match="2 coordinates, got 1"):
        completeness_of(np.ones((1, 3)))


def test_a_noisy_code_of_one_factor_each_is_disentangled():
    v = np.stack([RNG.integers(size, size=3000) for size in (2, 3, 8)], 1)
    codes = RNG.normal(size=(3000, 5))
    codes[:, [4, 0, 1]] = v + 0.4 * codes[:, [4, 0, 1]]
    found = importance(codes.astype(np.float32), varying(v), trees=10)
    # The impurity that nodes remove gives the noise a share here, as factors are hard to predict.
    assert np.allclose(found.matrix, np.eye(5)[:, [4, 0, 1]])
    assert found.matrix.sum(0) == pytest.approx([1, 1, 1])
    # Two values 1 apart under noise of 0.4: Phi(1.25) = 0.894; trees know a little less.
    assert found.accuracies[0] == pytest.approx(0.894, abs=0.03)
    assert found.guesses == pytest.approx([1 / 2, 1 / 3, 1 / 8], abs=0.05)


def test_noise_has_no_importance():
    v = np.stack([RNG.integers(size, size=2000) for size in (2, 5)], 1)
    found = importance(RNG.normal(size=(2000, 4)), varying(v), trees=10)
    assert disentanglement_of(found.matrix) == 0
    assert found.accuracies == pytest.approx(found.guesses, abs=0.06)
