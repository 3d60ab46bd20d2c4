"""Sign flips and the bootstrap, by hand."""

import numpy as np
import pytest

from analysis.hypothesis_tests import bootstrap_interval, sign_flips


def test_a_known_variance_bounds_rare_events():
    # One column never had its five expected events: its own variance is next to nothing.
    scores = np.full((1000, 1), -0.005)
    assert abs(sign_flips(scores, seed=0).t[0]) > 30
    known = sign_flips(scores, seed=0, least_variance=np.array([5.0]))
    assert known.t == pytest.approx([-5 / np.sqrt(5)])
    left_out = sign_flips(scores, seed=0, keep=np.array([False]))
    assert left_out.p_value is None
    with pytest.raises(ValueError, match="at least two data, got 1"):
        sign_flips(scores[:1], seed=0)


def test_the_bootstrap_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=(400, 1))
    low, high = bootstrap_interval(values, np.ones((400, 1)), seed=0)
    error = values.std() / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_observed_signs_are_among_the_flips():
    # All 30 scores have one sign: no random choice of signs reaches their sum.
    assert sign_flips(np.ones((30, 1)), seed=0, num_flips=99).p_value == 1 / 100
    # Of two scores, half of the choices do.
    assert sign_flips(np.ones((2, 1)), seed=0).p_value == pytest.approx(0.5, abs=0.05)
