"""Modularity: hand-computed matrices of mutual information."""

import numpy as np
import pytest

from analysis.check import UndefinedCheckError
from analysis.disentanglement.modularity import mean_modularity, modularity


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
