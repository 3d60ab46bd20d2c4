"""PITs of all statistics: the figure, and the number of those that differ."""

import json

import numpy as np
import pytest

from analysis.predictive.pit import PitComparisons, plot_pit
from analysis.predictive.two_sample import compare_scores

REAL, NEW = np.random.default_rng(0).normal(size=(2, 400))
COMPARISONS = (
    compare_scores("a", REAL, NEW, label="ink"),
    compare_scores("b", 1.5 * REAL, NEW, label="total variation"),
)


@pytest.mark.arviz
def test_the_figure_has_the_curve_of_each_statistic_with_its_p_value(words):
    from matplotlib import pyplot

    axes, text = words(plot_pit(COMPARISONS))
    first, second = COMPARISONS
    assert "1 of 2 statistics" in text
    p = f"p = {second.p_value:.2g}" if second.p_value > 1e-4 else "p < 0.0002"
    assert f"total variation\n{p}\ntoo narrow" in text
    assert f"ink\np = {first.p_value:.2g}" in text
    for ax, c in zip(axes, COMPARISONS, strict=True):
        x, y = ax.lines[0].get_data()
        # ArviZ's lines differ in where they evaluate the curve, by up to a step of 1 / 200.
        share = (c.pit <= np.asarray(x)[:, None]).mean(1)
        assert np.abs(np.asarray(y) - (share - x)).max() < 0.02
    assert not pyplot.get_fignums()


def test_a_figure_needs_samples_of_one_size():
    different = [compare_scores(str(n), np.arange(n), np.arange(9)) for n in (3, 4)]
    with pytest.raises(ValueError, match="the same number of data"):
        plot_pit(different)


def test_the_summary_has_every_statistic_and_the_worst_is_named():
    summary = PitComparisons(COMPARISONS).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {"a", "b", "reading"} == summary.keys()
    assert summary["reading"].startswith("1 of 2 statistics")
    assert "total variation varies too little" in summary["reading"]
