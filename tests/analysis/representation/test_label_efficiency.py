"""Accuracy by the number of labels: draws that are balanced and common, and the figure."""

import json

import numpy as np
import pytest

from analysis.representation.codes import LabelledCodes, balanced_rows
from analysis.representation.label_efficiency import (
    label_efficiency,
    plot_label_efficiency,
)


def blobs(n, *, apart=8.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 5
    return LabelledCodes(apart * np.eye(5)[labels] + rng.normal(size=(n, 5)), labels)


def test_draws_are_balanced():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [10, 50, 50, 100, 3]))
    for size, expected in ((5, [1] * 5), (15, [3] * 5), (35, [8, 8, 8, 8, 3])):
        rows = balanced_rows(labels, size, seed=0)
        assert len(set(rows)) == size
        np.testing.assert_array_equal(np.bincount(labels[rows], minlength=5), expected)
    np.testing.assert_array_equal(np.sort(balanced_rows(labels, 213, seed=0)), np.arange(213))
    # What does not divide goes to classes at random.
    odd = [np.bincount(labels[balanced_rows(labels, 7, seed=s)], minlength=5) for s in range(40)]
    assert all(sorted(counts) == [1, 1, 1, 2, 2] for counts in odd)
    assert (np.sum(odd, axis=0) > 40).all()


def test_draws_are_common_and_apart():
    labels = np.arange(100) % 5
    one = balanced_rows(labels, 10, seed=3, repeat=1)
    np.testing.assert_array_equal(one, balanced_rows(labels, 10, seed=3, repeat=1))
    for seed, repeat in ((3, 2), (4, 1)):
        assert set(one) != set(balanced_rows(labels, 10, seed=seed, repeat=repeat))
    # All data come up: none is left out by where it stands.
    seen = np.concatenate([balanced_rows(labels, 10, seed=0, repeat=r) for r in range(100)])
    assert len(set(seen)) == 100


def test_more_labels_do_not_hurt():
    found = label_efficiency(
        blobs(600, apart=3.0), blobs(500, apart=3.0, seed=1), sizes=(5, 50, None), repeats=4
    )
    means = [point.mean for point in found.points]
    assert means == sorted(means)
    assert [point.n for point in found.points] == [5, 50, 600]
    assert [len(point.accuracies) for point in found.points] == [4, 4, 1]
    assert found.points[0].spread == pytest.approx(found.points[0].accuracies.std(ddof=1))
    assert found.points[-1].spread is None
    assert found.chance == 0.2
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["points"][-1]["all_labels"]


def test_representations_are_fitted_to_the_same_draws():
    """A rotated code is as good in each draw, not on average alone."""
    train, test = blobs(100, apart=2.0), blobs(400, apart=2.0, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    turned = [LabelledCodes(part.codes @ turn, part.labels) for part in (train, test)]
    one, other = (
        label_efficiency(*parts, sizes=(10, 30), repeats=3, seed=7)
        for parts in ((train, test), turned)
    )
    for before, after in zip(one.points, other.points, strict=True):
        np.testing.assert_allclose(before.accuracies, after.accuracies, atol=0.006)
    assert len(set(one.points[0].accuracies)) > 1


def test_what_cannot_be_is_said():
    few = blobs(40)
    found = label_efficiency(few, blobs(50, seed=1), sizes=(3, 10, 1000), repeats=2)
    assert found.left_out == (1000,)
    assert found.points[0].mean <= 0.6
    reading = found.reading()
    assert "leave out some of 5 classes" in reading
    assert "Left out for lack of labels: 1,000" in reading
    none = label_efficiency(few, blobs(50, seed=1), sizes=(1000,))
    assert [point.n for point in none.points] == [40]
    noise = label_efficiency(blobs(200, apart=0.0), blobs(200, apart=0.0, seed=1), sizes=(10, 100))
    assert "no better than chance" in noise.reading()
    for sizes in ((), (1, 10)):
        with pytest.raises(ValueError, match="each 2 or more or None"):
            label_efficiency(few, few, sizes=sizes)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        label_efficiency(few, few, repeats=0)
    with pytest.raises(ValueError, match="from 1 to the 40 data, got 41"):
        balanced_rows(few.labels, 41, seed=0)


def test_figure(words):
    good, bad = (
        label_efficiency(
            blobs(300, apart=apart), blobs(300, apart=apart, seed=1), sizes=(10, 100, None)
        )
        for apart in (6.0, 1.0)
    )
    axes, text = words(plot_label_efficiency({"poor codes": bad, "good codes": good}))
    assert "Best with most labels, good codes" in text
    assert axes[0].get_xscale() == "log"
    names = [label.get_text() for label in axes[0].get_legend().get_texts()]
    # In the order of the lines' ends, from above.
    assert [name for name in names if "codes" in name] == ["good codes", "poor codes"]
    assert "300" in text
    _, text = words(plot_label_efficiency({"alone": good}))
    assert "alone:" in text
    with pytest.raises(ValueError, match="got none"):
        plot_label_efficiency({})
