"""Probes of codes whose labels are easy, hidden or absent."""

import json
import math

import numpy as np
import pytest

from analysis.representation import probes
from analysis.representation.clustering import clustering
from analysis.representation.codes import LabelledCodes
from analysis.representation.probes import linear_probe, nearest_neighbours
from analysis.result import UndefinedCheckError


def blobs(n, *, classes=4, dim=6, apart=8.0, seed=0):
    """Normal codes with a label each, whose classes lie on the axes, so far from the origin."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return LabelledCodes(apart * np.eye(classes, dim)[labels] + rng.normal(size=(n, dim)), labels)


@pytest.mark.parametrize("n", [4, 40, 600])
def test_separable_codes_are_perfect(n):
    probe = linear_probe(blobs(n), blobs(200, seed=1))
    assert (probe.accuracy, probe.standard_error) == (1.0, 0.0)
    assert probe.converged
    assert probe.regularisation_chosen == (n >= 500)
    assert "above chance" in probe.reading()
    nearest = nearest_neighbours(blobs(max(n, 20)), blobs(200, seed=1))
    assert nearest.accuracy == 1.0


def test_noise_is_at_chance():
    train, test = blobs(1000, apart=0.0), blobs(1000, apart=0.0, seed=1)
    for found in (linear_probe(train, test), nearest_neighbours(train, test)):
        assert found.chance == 0.25
        assert abs(found.accuracy - 0.25) < 3.5 * math.sqrt(0.25 * 0.75 / 1000)
        assert "no better than chance" in found.reading()
        summary = found.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_ring_is_for_neighbours_only():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1500, 2))
    radius = np.linalg.norm(z, axis=1)
    data = LabelledCodes(z, (radius > np.median(radius)).astype(np.int64))
    train, test = data.subset(np.arange(1000)), data.subset(np.arange(1000, 1500))
    assert linear_probe(train, test).accuracy < 0.6
    assert nearest_neighbours(train, test).accuracy > 0.93


@pytest.mark.parametrize("n", [80, 800])
def test_a_rotation_changes_nothing(n):
    """Coordinates of unlike width, so that scaling each by itself would be seen."""
    widths = np.array([0.2, 0.3, 0.5, 1.0, 2.0, 3.0])
    train, test = (
        LabelledCodes(part.codes * widths, part.labels)
        for part in (blobs(n, apart=2.0), blobs(2000, apart=2.0, seed=1))
    )
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    before = linear_probe(train, test)
    after = linear_probe(
        LabelledCodes(train.codes @ turn, train.labels),
        LabelledCodes(test.codes @ turn, test.labels),
    )
    assert before.regularisation == after.regularisation
    # The solver ends a little off the optimum, and data on the very border may change sides.
    assert (before.correct == after.correct).mean() > 0.998
    one, other = (
        part.classifier.predict_proba(codes)
        for part, codes in ((before, test.codes), (after, test.codes @ turn))
    )
    np.testing.assert_allclose(one, other, atol=5e-3)
    assert nearest_neighbours(train, test).accuracy == pytest.approx(
        nearest_neighbours(
            LabelledCodes(train.codes @ turn, train.labels),
            LabelledCodes(test.codes @ turn, test.labels),
        ).accuracy
    )


def test_scale_and_shift_change_nothing():
    train, test = blobs(80, apart=2.0), blobs(500, apart=2.0, seed=1)
    moved = [LabelledCodes(1e3 * part.codes + 77, part.labels) for part in (train, test)]
    np.testing.assert_array_equal(linear_probe(train, test).correct, linear_probe(*moved).correct)


def test_standard_error_by_hand():
    found = probes.NeighbourVote(np.array([True, True, True, False]), 0.25, 5, 100)
    assert found.accuracy == 0.75
    assert found.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_nearest_neighbours_by_hand():
    train = LabelledCodes(np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([0, 0, 1, 1]))
    test = LabelledCodes(np.array([[0.4], [1.9], [9.0]]), np.array([0, 0, 1]))
    np.testing.assert_array_equal(
        nearest_neighbours(train, test, neighbours=1).correct, [True, False, True]
    )
    np.testing.assert_array_equal(
        nearest_neighbours(train, test, neighbours=3).correct, [True, True, True]
    )


def test_constant_coordinates():
    padded = [
        LabelledCodes(np.column_stack([part.codes, np.full((len(part), 3), 7.0)]), part.labels)
        for part in (blobs(40), blobs(100, seed=1))
    ]
    assert linear_probe(*padded).accuracy == 1.0
    collapsed = [LabelledCodes(np.full_like(part.codes, 0.5), part.labels) for part in padded]
    assert linear_probe(*collapsed).accuracy == 0.25
    assert nearest_neighbours(*collapsed).accuracy == 0.25


def test_labels_that_training_lacks_are_wrong():
    few = blobs(40)
    few = few.subset(np.flatnonzero(few.labels < 3))
    probe = linear_probe(few, blobs(400, seed=1))
    assert probe.accuracy == 0.75
    assert probe.unseen == 0.25
    assert probe.num_classes == 3
    assert "missing from the training data (3)" in probe.reading()


def test_one_of_a_class_is_not_held_out():
    """A rare class does not stop the choice of C."""
    many = blobs(600)
    rare = LabelledCodes(np.full((1, 6), -30.0), np.array([9]))
    train = LabelledCodes(
        np.concatenate([many.codes, rare.codes]), np.concatenate([many.labels, rare.labels])
    )
    probe = linear_probe(train, rare)
    assert probe.regularisation_chosen
    assert probe.accuracy == 1.0


def test_a_choice_without_the_rare_class(monkeypatch):
    """Where the labels drawn for the choice are all of one class, the default stays."""
    monkeypatch.setattr(probes, "MAX_LABELS_TO_CHOOSE", 5)
    train = blobs(700)
    train = LabelledCodes(train.codes, (np.arange(700) == 5).astype(np.int64))
    assert linear_probe(train, train).regularisation == probes.DEFAULT_REGULARISATION


def test_a_choice_follows_the_data():
    """Many labels of a sharp border ask for large coefficients, noise for small ones."""
    noise = linear_probe(blobs(2000, apart=0.0), blobs(10, seed=1))
    sharp = linear_probe(blobs(2000), blobs(10, seed=1))
    assert noise.regularisation < probes.DEFAULT_REGULARISATION < sharp.regularisation


def test_what_did_not_converge_is_said(monkeypatch):
    monkeypatch.setattr(probes, "MAX_ITERATIONS", 1)
    probe = linear_probe(blobs(40, apart=1.0), blobs(40, seed=1))
    assert not probe.converged
    assert "did not converge" in probe.reading()


def test_refused():
    train, test = blobs(40), blobs(40, seed=1)
    with pytest.raises(UndefinedCheckError, match="two labels or more, got 2 alone"):
        linear_probe(train.subset(np.flatnonzero(train.labels == 2)), test)
    with pytest.raises(ValueError, match="same dimension"):
        linear_probe(train, LabelledCodes(test.codes[:, :3], test.labels))
    with pytest.raises(ValueError, match="non-empty"):
        nearest_neighbours(train, test.subset(np.arange(0)))
    with pytest.raises(ValueError, match="must be finite"):
        linear_probe(LabelledCodes(np.full((4, 6), np.nan), np.arange(4)), test)
    with pytest.raises(ValueError, match="above 0, got 0"):
        linear_probe(train, test, regularisation=0.0)
    with pytest.raises(ValueError, match="from 1 to the 40 training data, got 41"):
        nearest_neighbours(train, test, neighbours=41)


def test_many_classes_are_no_warning():
    """Warnings are errors in tests, and would print through a bar in a program."""
    labels = np.arange(150) % 100
    codes = LabelledCodes(np.random.default_rng(0).normal(size=(150, 4)), labels)
    assert linear_probe(codes, codes).num_classes == 100
    assert nearest_neighbours(codes, codes, neighbours=1).accuracy == 1
    assert clustering(codes, clusters=100, repeats=1).starts[0].nmi > 0
