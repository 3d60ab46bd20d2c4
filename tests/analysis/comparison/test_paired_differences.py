"""Which data prefer which model, the figure of it, and the table for a terminal."""

import numpy as np

from analysis.comparison.model_comparison import HeldOut, ModelComparison
from analysis.comparison.paired_differences import (
    paired_report,
    plot_paired_differences,
)

RNG = np.random.default_rng(0)
COMMON = RNG.normal(-90, 10, 200)


def comparison(*differences, khat=0.1):
    """The best, and models so far below it for each datum."""
    khats = np.full(200, khat)
    models = [HeldOut("best", COMMON, khats, 1000)]
    models += [HeldOut(f"m{i}", COMMON - d, khats, 1000) for i, d in enumerate(differences)]
    return ModelComparison(tuple(models), np.full(len(models), 1 / len(models)))


def test_data_with_a_high_khat_are_not_trusted(words):
    _, text = words(plot_paired_differences(comparison(np.ones(200))))
    assert "k-hat above it" not in text
    poor = comparison(RNG.normal(1, 1, 200), khat=0.9)
    axes, text = words(plot_paired_differences(poor))
    assert "k-hat above it: 200 data" in text
    assert sum(bar.get_height() for bar in axes[0].patches) == 200


def test_figure(words):
    count = 3
    both = comparison(*[RNG.normal(i + 1, 2, 200) for i in range(count)])
    axes, text = words(plot_paired_differences(both))
    assert sum(bar.get_height() for bar in axes[0].patches) == 200
    assert "of 200 data have a higher log p(x) under best than under m0" in text
    assert all(f"m{i}:" in text for i in range(count))
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)


def test_the_share_that_prefers_the_best():
    difference = np.zeros(200)
    difference[[5, 9, 30]], difference[[2, 4]] = 7.0, -1.0
    title = plot_paired_differences(comparison(difference)).get_suptitle()
    assert "2% of 200 data have a higher log p(x) under best than under m0" in title


def test_figure_of_identical_models():
    figure = plot_paired_differences(comparison(np.zeros(200)))
    assert "0% of 200 data" in figure.get_suptitle()
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 200


def test_report():
    lines = paired_report(
        comparison(np.r_[np.ones(100), 2 * np.ones(100)], np.tile([-99.0, 100.0], 100)),
        data="test data of digits",
    ).splitlines()
    assert "200 test data of digits, nats per datum" in lines[0]
    heads = [word for word in lines[1].split("  ") if word]
    assert [word.strip() for word in heads] == [
        "model",
        "log p(x)",
        "below the best",
        "k-hat above",
        "weight",
        "told apart",
    ]
    assert lines[2].startswith("  best")
    assert "1.500 +- 0.035" in lines[3]
    assert lines[3].endswith("yes")
    assert lines[4].endswith("no")
    assert len({len(line) for line in lines[1:]}) == 1
