"""Neighbours of one label, by hand, separated and shuffled; and those of data and codes."""

import json

import numpy as np
import pytest

from analysis.representation.clustering import local_label_agreement, neighbourhood_overlap
from analysis.representation.codes import LabelledCodes

RNG = np.random.default_rng(0)


def plain(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


def test_by_hand():
    """On a line 0, 1, 3 and 7 have the nearest others 1, 0, 1 and 3."""
    data = LabelledCodes(np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1]))
    found = local_label_agreement(data, neighbours=1)
    np.testing.assert_array_equal(found.shares, [1, 1, 0, 1])
    assert found.by_class == (1.0, 0.5)
    assert found.chance == pytest.approx(4 / 12)


def test_separated_clusters_agree_and_shuffled_labels_are_chance():
    labels = np.repeat([0, 1, 2], [200, 100, 100])
    codes = 50.0 * np.eye(3)[labels] + RNG.standard_normal((400, 3))
    apart = local_label_agreement(LabelledCodes(codes, labels))
    assert plain(apart.summary())["agreement"] == 1
    assert "nearby codes share labels" in apart.reading()
    shuffled = local_label_agreement(LabelledCodes(codes, RNG.permutation(labels)))
    assert shuffled.mean == pytest.approx(shuffled.chance, abs=0.03)
    assert shuffled.chance == pytest.approx(0.375, abs=0.003)
    assert "no better than chance" in shuffled.reading()


def test_doubles_are_neighbours_and_a_datum_is_not_its_own():
    """Two of each place, of two labels: the nearest other is the double, of the other label."""
    codes = np.repeat(RNG.standard_normal((20, 2)), 2, axis=0)
    found = local_label_agreement(LabelledCodes(codes, np.tile([0, 1], 20)), neighbours=1)
    assert found.mean == 0


def test_few_of_a_label_are_not_its_lowest():
    data = LabelledCodes(RNG.standard_normal((30, 2)), np.r_[np.zeros(29, int), 2])
    assert local_label_agreement(data, neighbours=5).by_class[1:] == (None, None)


def test_the_same_points_overlap_and_others_are_chance():
    x = RNG.standard_normal((300, 1, 2, 3))
    same = neighbourhood_overlap(x, 2.0 * x.reshape(300, 6))
    summary = plain(same.summary())
    assert (summary["overlap"], summary["trustworthiness"]) == (1, 1)
    other = neighbourhood_overlap(x, RNG.standard_normal((300, 6)))
    assert other.summary()["overlap"] == pytest.approx(other.chance, abs=0.015)
    assert other.trustworthiness == pytest.approx(0.5, abs=0.05)


def test_bad_numbers_are_refused():
    data = LabelledCodes(np.zeros((4, 1)), np.zeros(4, int))
    with pytest.raises(ValueError, match="from 1 to 3, got 4"):
        local_label_agreement(data, neighbours=4)
    with pytest.raises(ValueError, match="labels must be from 0 on, got -1"):
        local_label_agreement(
            LabelledCodes(np.zeros((4, 1)), np.array([0, 1, -1, 0])), neighbours=2
        )
    with pytest.raises(ValueError, match="got 4 data and 3 codes"):
        neighbourhood_overlap(np.zeros((4, 2)), np.zeros((3, 2)))
