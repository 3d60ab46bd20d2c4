"""Accuracy, calibration and figures of a semi-supervised program."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.programs.semi_supervised import expected_calibration_error, figures, scores
from pyro_vae.programs.semi_supervised import build

NAMES = ("a", "b", "c", "d")


def held_out(program, n=400):
    """Data whose labels are drawn from the program's own q(y | x), so that it is calibrated."""
    x = torch.bernoulli(torch.full((n, 4, 4), 0.3))
    y = torch.multinomial(program.class_probabilities(x), 1, replacement=True)[:, 0]
    return SimpleNamespace(x=x, y=y, label_names=NAMES, event_names=(), contract=None)


@pytest.fixture
def program():
    made = build((4, 4), classes=4, latent_dim=2, features=8).eval()
    # Far from uniform, so that confidences differ.
    with torch.no_grad():
        made.classifier.head.weight *= 40
    return made


def test_a_true_class_posterior_is_calibrated(program):
    found = scores(program, held_out(program, 4000))
    assert found["calibration_error"] < 0.03
    assert found["accuracy"] == pytest.approx(found["mean_confidence"], abs=0.03)


def test_an_overconfident_class_posterior_is_not(program):
    data = held_out(program, 4000)
    with torch.no_grad():
        program.classifier.head.weight *= 5
    found = scores(program, data)
    assert found["calibration_error"] > 0.05
    assert found["mean_confidence"] > found["accuracy"] + 0.05
    assert np.isfinite(found["class_log_density"])


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False, True, True])
    expected = (4 * abs(0.75 - 0.95) + 2 * abs(1 - 0.55)) / 6
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0


def test_rows_without_a_label_do_not_count(program):
    data = held_out(program)
    known = data.y.clone()
    data.y = torch.where(torch.arange(400) < 200, known, -1)
    first = SimpleNamespace(**vars(data) | {"x": data.x[:200], "y": known[:200]})
    assert scores(program, data) == pytest.approx(scores(program, first))
    data.y = None
    assert set(scores(program, data).values()) == {None}


def test_figures_are_drawn(program):
    data = held_out(program)
    drawn = figures(program, data)
    assert set(drawn) == {"samples_by_class", "class_reliability"}
    for plot in drawn.values():
        plot().canvas.draw()
    data.y = None
    assert set(figures(program, data)) == {"samples_by_class"}
