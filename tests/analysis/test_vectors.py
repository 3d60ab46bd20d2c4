"""Long vectors are drawn by their largest elements."""

import numpy as np

from analysis.vectors import ELEMENTS, PANELS, plot_largest

RNG = np.random.default_rng(0)


def test_the_largest_elements_are_named(words):
    means = np.zeros((3, 100))
    means[:, [7, 50]] = [3.0, 5.0]
    axes, text = words(plot_largest(means, [f"word{i}" for i in range(100)]))
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[:2] == ["word50", "word7"]
    assert len(names) == ELEMENTS
    assert "New data from the model" in text


def test_reconstructions_show_the_elements_of_the_data(words):
    data = RNG.poisson(1.0, size=(40, 200))
    axes, text = words(plot_largest(RNG.random((40, 200)), (), data, "a title"))
    panels = [ax for ax in axes if ax.has_data()]
    assert len(panels) == PANELS
    assert panels[0].get_yticklabels()[0].get_text() == str(np.argsort(data[0])[::-1][0])
    assert "data" in text
    assert "a title" in text
