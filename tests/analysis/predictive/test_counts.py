"""How often counts occur: known frequencies, and what is named as wrong."""

import json

import numpy as np
import pytest

from analysis.predictive.counts import count_frequencies, plot_rootogram


def test_frequencies_are_counted_by_hand():
    real = np.array([[0, 0, 1], [2, 0, 1]])
    generated = np.array([[[0, 0, 0], [0, 0, 7]], [[1, 1, 1], [1, 1, 1]]])
    found = count_frequencies(real, generated)
    assert found.labels == ["0", "1", "2", "3+"]
    assert found.observed.tolist() == [3, 2, 1, 0]
    assert found.expected.tolist() == [2.5, 3.0, 0.0, 0.5]
    assert found.zeros == (0.5, 5 / 12)
    assert found.bin_index(np.array([[0, 2, 3, 99]])).tolist() == [[0, 2, 3, 3]]


def test_large_counts_share_bins():
    rng = np.random.default_rng(0)
    real = rng.negative_binomial(1, 0.002, (50, 20))
    found = count_frequencies(real, rng.negative_binomial(1, 0.002, (20, 50, 20)))
    assert len(found.labels) <= 31
    assert found.labels[:3] == ["0", "1", "2"]
    assert found.labels[-1] == f"{real.max() + 1}+"
    assert found.observed.sum() == real.size
    assert found.expected.sum() == pytest.approx(real.size)


def test_a_true_model_s_counts_keep_within_and_missing_zeros_are_named():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (41, 200, 10))
    real = counts[0]
    right = count_frequencies(real, counts[1:])
    assert right.outside < 0.3
    assert abs(right.summary()["largest_relative_departure"]) < 1
    inflated = np.where(rng.random(real.shape) < 0.3, 0, real)
    wrong = count_frequencies(inflated, counts[1:])
    summary = wrong.summary()
    assert summary["largest_at"] == "0"
    assert summary["largest_relative_departure"] > 3
    assert "counts of 0 occur" in summary["reading"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match="one or more data sets of shape"):
        count_frequencies(np.ones((2, 3), int), np.ones((0, 2, 3), int))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        count_frequencies(-np.ones((2, 3), int), np.ones((4, 2, 3), int))


@pytest.mark.arviz
@pytest.mark.parametrize("rate", [2, 300])
def test_a_rootogram_marks_the_frequencies_of_counts(words, rate):
    from matplotlib import pyplot

    rng = np.random.default_rng(0)
    real, generated = rng.poisson(rate, (30, 8)), rng.poisson(rate, (12, 30, 8))
    axes, text = words(plot_rootogram(count_frequencies(real, generated), real, generated))
    assert "zeros: data" in text
    offsets = np.concatenate([np.asarray(c.get_offsets()) for c in axes[0].collections])
    if rate == 2:
        for count in range(4):
            frequency = (real == count).sum()
            assert ((offsets[:, 0] == count) & (offsets[:, 1] == frequency)).any()
    assert len(axes[0].get_xticklabels()) <= 32
    assert not pyplot.get_fignums()
