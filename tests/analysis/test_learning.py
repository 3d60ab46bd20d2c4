"""Learning curves."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_vae.data.nouns import use_noun
from pyro_vae.training.history import plot_learning_curves


def history(epochs, validation=True, beta=1.0):
    rows = []
    for epoch in range(1, epochs + 1):
        terms = {"reconstruction": -20 - 9 / epoch, "kl": 5 - 3 / epoch}
        terms["elbo"] = terms["reconstruction"] - terms["kl"]
        row = {"epoch": epoch, "beta": beta * min(1, epoch / 5)} | terms
        rows.append(
            row | {f"validation_{k}": v - 0.5 for k, v in terms.items()} if validation else row
        )
    return rows


def test_three_panels_with_units(words):
    figure = plot_learning_curves(history(30))
    axes, text = words(figure)
    assert isinstance(figure, Figure)
    assert len(axes) == 3
    assert all(ax.get_xlabel() == "epoch" and ax.get_ylabel() == "nats/datum" for ax in axes)
    assert all(len(ax.lines) == 2 for ax in axes)
    assert all(word in text for word in ("ELBO", "reconstruction", "KL", "training", "validation"))
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), np.arange(1, 31))


@pytest.mark.parametrize("epochs", [1, 2])
def test_few_epochs_without_validation(words, epochs):
    axes, text = words(plot_learning_curves(history(epochs, validation=False)))
    assert all(len(ax.lines) == 1 and ax.lines[0].get_marker() == "o" for ax in axes)
    assert "validation" not in text


def test_what_was_not_measured_is_left_out(words):
    rows = [row | {"validation_elbo": None, "validation_kl": float("nan")} for row in history(20)]
    axes, _ = words(plot_learning_curves(rows))
    assert [len(ax.lines) for ax in axes] == [1, 2, 1]


def test_a_weight_other_than_one_is_said(words):
    _, text = words(plot_learning_curves(history(20, beta=4.0)))
    assert "beta 0.8 to 4" in text
    _, text = words(plot_learning_curves([row | {"beta": 1.0} for row in history(20)]))
    assert "beta" not in text


def test_no_history():
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_learning_curves([])


def test_epochs_outside_the_axis_are_counted(words):
    axes, text = words(plot_learning_curves(history(40)))
    low = axes[0].get_ylim()[0]
    outside = sum(row["validation_elbo"] < low for row in history(40))
    assert outside > 1
    assert f"epochs 1 to {outside} outside the axis" in text
    assert "outside" not in words(plot_learning_curves(history(3)))[1]


def test_the_unit_is_of_the_data(words):
    with use_noun("cell"):
        axes, _ = words(plot_learning_curves(history(3)))
    assert axes[0].get_ylabel() == "nats/cell"
