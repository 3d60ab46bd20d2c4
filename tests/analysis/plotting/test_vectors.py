"""Figures of vectors show the names of their elements."""

import numpy as np

from analysis.calibration.element_map import plot_calibration_map
from analysis.calibration.element_pit import element_pit
from analysis.data_statistics import nearest_training
from analysis.elbo.terms import ElboTerms, plot_extremes
from analysis.guide.psis_diagnostics import GuideQuality, plot_worst_images
from analysis.plotting.style import new_figure, to_png
from analysis.plotting.vectors import (
    ELEMENTS,
    MOST_ELEMENTS,
    PANELS,
    Elements,
    plot_largest,
    plot_vectors,
)
from analysis.predictive.checks import predictive_checks
from analysis.predictive.examples import plot_prior_predictive, plot_same_image
from analysis.predictive.figures import plot_nearest, plot_profiles
from pyro_vae.data.nouns import use_noun

RNG = np.random.default_rng(0)


def test_the_largest_elements_are_named(words):
    means = np.zeros((3, 100))
    means[:, [7, 50]] = [3.0, 5.0]
    axes, text = words(plot_largest(means, [f"word{i}" for i in range(100)]))
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[:2] == ["word50", "word7"]
    assert len(names) == ELEMENTS
    assert "New data from the model" in text


def test_reconstructions_show_the_elements_of_the_data():
    data = RNG.poisson(1.0, size=(40, 200))
    figure = plot_largest(RNG.random((40, 200)), (), data, "a title")
    panels = [ax for ax in figure.axes if ax.has_data()]
    assert len(panels) == PANELS
    assert panels[0].get_yticklabels()[0].get_text() == str(np.argsort(data[0])[::-1][0])
    assert figure.get_suptitle() == "a title"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["data", "model"]


def test_names_with_dollar_signs_and_tabs_are_drawn_as_they_are():
    """A log axis keeps its formulas."""
    names = ("a$_{b$", "($) and ($)", "tab\tname")
    data = RNG.normal(0.0, 2.0, size=(5, 3))
    elements = Elements.from_data(data, names)
    assert elements.names[2] == "tab name"
    assert to_png(plot_vectors({names[0]: data}, elements, names[0]))
    figure = new_figure(3.0, 2.0)
    axes = figure.subplots()
    axes.plot([1.0, 1000.0], [0.0, 1.0], label=names[1])
    axes.set(xscale="log", title=names[0])
    assert to_png(figure)
    assert all(label.get_parse_math() for label in axes.get_xticklabels())


TABLE = RNG.normal([0.0, 1000.0, -3.0], [1.0, 300.0, 0.1], size=(40, 3))
COLUMNS = ["age", "income", "change"]


def shown(ax):
    """The names beside a heat map, and its values."""
    return [label.get_text() for label in ax.get_yticklabels()], ax.images[0].get_array()


def test_columns_of_a_table_have_names_and_one_scale(words):
    elements = Elements.from_data(TABLE, COLUMNS)
    with use_noun("row"):
        panels = {"data": TABLE[:10], "model": TABLE[10:15]}
        axes, text = words(plot_vectors(panels, elements, "a title"))
    names, values = shown(axes[0])
    assert names == COLUMNS
    assert [ax.get_title() for ax in axes[:2]] == ["data", "model"]
    assert [ax.images[0].get_array().shape for ax in axes[:2]] == [(3, 10), (3, 5)]
    # The income does not hide the other columns.
    np.testing.assert_allclose(values, ((TABLE[:10] - TABLE.mean(0)) / TABLE.std(0)).T)
    assert "rows, in order" in text
    assert "standard deviations" in text


def test_of_many_elements_those_that_vary_or_differ_most_are_drawn(words):
    wide = RNG.normal(size=(50, 1000))
    elements = Elements.from_data(wide)
    made = wide[:10].copy()
    made[:, 437] += 5
    wide[:, 3] += 50
    made[:, 3] += 50
    axes, text = words(plot_vectors({"data": wide[:10], "model": made}, elements, "", paired=True))
    names, values = shown(axes[0])
    assert len(names) == len(values) == MOST_ELEMENTS
    assert names[0] == "437"
    assert axes[0].get_ylabel() == "element"
    assert "30 of 1,000 elements in which they differ most" in text


def test_kinds_of_vectors():
    assert Elements.from_data(RNG.random((9, 1, 8, 8))) is None
    # Spectra are lines, and a table of as many columns is not.
    spectra = np.sin(np.linspace(0, 3, 100) * RNG.random((30, 1)))
    assert Elements.from_data(spectra) is None
    assert Elements.from_data(spectra, [f"gene {i}" for i in range(100)]) is not None
    assert not Elements.from_data(RNG.normal(size=(30, 100))).largest
    assert Elements.from_data(RNG.poisson(2, size=(30, 100))).largest
    assert not Elements.from_data(RNG.poisson(2, size=(30, 10))).largest


def test_every_figure_of_a_table_names_its_columns(words):
    elements = Elements.from_data(TABLE, COLUMNS)
    new = TABLE[::-1]
    rank = np.arange(40.0)
    nearest = nearest_training(new, TABLE)
    checks = predictive_checks(TABLE, new, TABLE, support="real")
    figures = [
        plot_prior_predictive(TABLE, new, new, elements=elements),
        plot_same_image(TABLE[:5], np.stack([new[:5]] * 3), elements=elements),
        plot_nearest(new, TABLE, nearest, None, elements),
        plot_profiles(checks.profiles, elements),
        plot_extremes(TABLE, ElboTerms(-rank, rank, TABLE), new, elements=elements),
        plot_calibration_map(element_pit(RNG.random(TABLE.shape)), elements),
        plot_worst_images(TABLE, new, GuideQuality(None, 1 + rank, 100), elements=elements),
    ]
    for figure in figures:
        _, text = words(figure)
        assert all(name in text for name in COLUMNS), text


def test_a_map_of_many_elements_names_those_that_fail_most(words):
    pit = RNG.random((200, 50))
    pit[:, 17] = 0.99
    elements = Elements.from_data(RNG.normal(size=(200, 50)), [f"gene{i}" for i in range(50)])
    _, text = words(plot_calibration_map(element_pit(pit), elements))
    assert "furthest: gene17" in text
    assert "gene3 |" not in text
