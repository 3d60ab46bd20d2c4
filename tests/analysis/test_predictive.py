"""The predictive check: its statistics by hand, its calibration, its figure."""

import numpy as np
import pytest

from analysis.predictive import (
    compare,
    plot_predictive_check,
    statistics,
    symmetry,
    total_variation,
)


def test_statistics_by_hand():
    image = np.array([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert total_variation(image) == pytest.approx([0.5])
    assert symmetry(image) == pytest.approx([-1])
    assert symmetry(image.swapaxes(-1, -2)) == pytest.approx([1])
    assert symmetry(np.ones((1, 1, 4, 4))) == pytest.approx([0])
    ink, *_ = statistics(image).values()
    assert ink == pytest.approx([0.5])
    counts = np.array([[0, 0, 3, 1]])
    assert [float(v[0]) for v in statistics(counts).values()] == pytest.approx([1, 1.5, 0.5])


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 6), (20,)])
def test_a_true_model_passes_and_a_wrong_one_fails(shape):
    """Under a true model the p-values are about uniform, and the differences about N(0, 1)."""
    rng = np.random.default_rng(0)
    p_values, differences = [], []
    for _ in range(200):
        real, new = rng.normal(size=(2, 80, *shape))
        for comparison in compare(real, new)[:2]:
            p_values.append(comparison.p_value)
            differences.append(comparison.standard_errors)
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.85 < np.std(differences) < 1.15
    wrong = compare(rng.normal(size=(80, *shape)), rng.normal(0.5, 1, size=(80, *shape)))
    assert wrong[0].p_value < 1e-3
    assert wrong[0].standard_errors > 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (12,)])
def test_figure(words, shape):
    rng = np.random.default_rng(0)
    comparisons = compare(rng.integers(0, 2, (50, *shape)), rng.random((70, *shape)))
    axes, text = words(plot_predictive_check(comparisons))
    assert len(axes) == 3
    assert all(ax.get_xlabel() for ax in axes)
    assert axes[0].get_ylabel() == "share of the data"
    assert all(
        word in text
        for word in ("50 test data", "70 new, z ~ p(z)", "standard errors", "p < 0.001")
    )
    # Both distributions are whole: nothing falls outside the bins.
    for ax in axes:
        heights = [p.get_path().vertices[:, 1].max() for p in ax.patches]
        assert min(heights) > 0


def test_data_that_do_not_vary(words):
    zeros = np.zeros((20, 1, 8, 8))
    comparisons = compare(zeros, zeros)
    assert all(np.isnan(c.standard_errors) and c.p_value == 1 for c in comparisons)
    _, text = words(plot_predictive_check(comparisons))
    assert "nan" not in text
