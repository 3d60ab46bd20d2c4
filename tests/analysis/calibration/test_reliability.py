"""Forecasts of binary elements: nominal for a true model, and each fault found."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats

from analysis.calibration.element_map import plot_calibration_map
from analysis.calibration.exact_models import BernoulliMixture
from analysis.calibration.leave_one_out import (
    leave_one_element_out,
    plot_isotonic,
    same_image_probability,
)
from analysis.calibration.reliability import calibration, plot_reliability
from analysis.model_samples import new_data

MODEL = BernoulliMixture()


def forecasts(x, draws=60, **faults):
    result = leave_one_element_out(MODEL.vae(**faults), x, num_samples=draws)
    return result.probability, result.outcome


def nominal(p_values, level=0.05):
    """Whether so many are below the level as there should be, within 1e-4 on either side."""
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], len(p_values), level)
    return low <= np.sum(np.array(p_values) < level) <= high


def test_p_values_are_nominal_under_a_true_model():
    sets, size = 80, 60
    p, x = forecasts(MODEL.draw(sets * size, 11), draws=25)
    results = [
        calibration(part, outcome, seed=seed, num_flips=59)
        for seed, (part, outcome) in enumerate(
            zip(p.reshape(sets, size, 1, 8, 8), x.reshape(sets, size, 1, 8, 8), strict=True)
        )
    ]
    assert nominal([result.p_value for result in results])
    assert nominal([result.elements.p_value for result in results])
    covered = np.concatenate([(r.low <= r.forecast) & (r.forecast <= r.high) for r in results])
    assert 0.9 < covered.mean() < 0.98
    assert np.mean([r.error for r in results]) == pytest.approx(
        np.mean([r.error_by_chance for r in results]), rel=0.1
    )


def generated(model, n, **faults):
    like = model.draw(1, 0)
    drawn = new_data(model.vae(**faults), like, n, seed=5).x
    return torch.as_tensor(drawn.astype(np.float32))


@pytest.mark.slow
def test_mixtures_against_their_own_data_with_a_guide_too_sure():
    sets, size = 100, 40
    p, x = forecasts(MODEL.draw(sets * size, 11), draws=25, guide_sharpness=2.0)
    own = forecasts(generated(MODEL, sets * size), draws=25, guide_sharpness=2.0)
    results = [
        calibration(*real, simulated=beside, seed=seed, num_flips=59)
        for seed, (real, beside) in enumerate(
            zip(
                zip(np.split(p, sets), np.split(x, sets), strict=True),
                zip(*(np.split(values, sets) for values in own), strict=True),
                strict=True,
            )
        )
    ]
    assert nominal([result.p_value_against_model for result in results])
    assert nominal([result.elements.p_value for result in results])


@pytest.mark.parametrize(("sharpness", "direction"), [(1.5, "too sure"), (0.7, "too unsure")])
def test_a_mixtures_fault_is_found_with_a_guide_too_sure(sharpness, direction):
    faults = {"sharpness": sharpness, "guide_sharpness": 2.0}
    real = forecasts(MODEL.draw(400, 2), **faults)
    result = calibration(*real, simulated=forecasts(generated(MODEL, 600, **faults), **faults))
    assert result.p_value_against_model is not None
    assert result.p_value_against_model < 1e-3
    assert result.verdicts()[0].answer == "no"
    assert f"the forecasts are {direction}" in result.reading()
    assert calibration(*real, trusted=False).verdicts()[0].answer == "not known"


@pytest.mark.parametrize(
    ("faults", "flipped", "direction"),
    [
        ({"sharpness": 1.5}, 0.0, -1),
        ({"sharpness": 0.7}, 0.0, 1),
        ({}, 0.1, -1),
        ({"missing": 2}, 0.0, -1),
    ],
)
def test_faults_of_the_model_are_found(faults, flipped, direction):
    result = calibration(*forecasts(MODEL.draw(400, 2, flipped=flipped), **faults))
    assert result.p_value is not None
    assert result.p_value < 1e-3
    assert np.sign(result.sharpness_t) == direction
    assert result.verdicts()[0].answer in ("no", "nearly")
    assert ("too sure" if direction < 0 else "too unsure") in result.reading()


def test_a_collapsed_latent_is_calibrated_and_resolves_nothing():
    # Each pixel has its true marginal: forecasts come true. What it costs is in the score.
    x = MODEL.draw(400, 2)
    collapsed = calibration(*forecasts(x, collapsed=True))
    healthy = calibration(*forecasts(x))
    assert collapsed.p_value is not None
    assert collapsed.p_value > 0.01
    assert collapsed.brier_se is not None
    assert collapsed.brier > healthy.brier + 3 * collapsed.brier_se
    assert collapsed.resolution < healthy.resolution


def test_same_image_forecasts_fail_even_for_a_true_model():
    x = MODEL.draw(400, 2)
    result = calibration(same_image_probability(MODEL.vae(), x), x.numpy())
    assert result.p_value is not None
    assert result.p_value < 1e-3
    assert result.sharpness_t > 5


def test_the_models_own_data_tell_the_guides_fault_from_the_models():
    rng = np.random.default_rng(0)
    truth = rng.random((2, 500, 30))
    x = (rng.random(truth.shape) < truth).astype(float)
    # A guide that makes every forecast too unsure, of any data.
    blurred = 0.5 + 0.6 * (truth - 0.5)
    alone = calibration(blurred[0], x[0])
    beside = calibration(blurred[0], x[0], simulated=(blurred[1], x[1]))
    assert alone.p_value is not None
    assert alone.p_value < 1e-3
    assert alone.p_value_against_model is None
    assert beside.p_value_against_model is not None
    assert beside.p_value_against_model > 1e-3
    # The forecasts err by much, and not more than those of the model's own data.
    assert beside.doubtful_error > 0.02
    assert beside.verdicts()[0].answer == "not known"
    wrong = calibration(truth[0], x[0], simulated=(blurred[1], x[1]))
    assert wrong.p_value_against_model is not None
    assert wrong.p_value_against_model < 1e-3
    assert "the forecasts are too sure" in wrong.reading()
    # These are right: what the comparison finds is an effect of no size.
    assert wrong.doubtful_error < 0.02
    assert wrong.verdicts()[0].answer == "nearly"


def test_numbers_by_hand():
    p = np.full((4, 50), 0.25)
    x = np.zeros((4, 50))
    x[:, :20] = 1
    result = calibration(p, x)
    assert result.forecast.tolist() == [0.25]
    assert result.observed == pytest.approx([0.4])
    assert result.bias == pytest.approx(0.15)
    assert result.error == pytest.approx(0.15)
    assert result.doubtful_error == pytest.approx(0.15)
    assert result.brier == pytest.approx(0.4 * 0.75**2 + 0.6 * 0.25**2)
    assert result.brier == pytest.approx(
        result.uncertainty - result.resolution + result.reliability
    )
    # Sixteen choices of signs: the sum is as large in two of them.
    assert result.p_value == pytest.approx(1 / 8, abs=0.03)
    # Elements with an expected variance of 4 x 0.19 are too few events to judge.
    assert result.elements.left_out == 50
    assert result.summary()["elements"]["p_value"] is None


def test_the_map_finds_the_place():
    x = MODEL.draw(400, 2)
    p, _ = forecasts(x)
    turned = x.numpy().copy()
    turned[:180, 0, 3, 5] = 1
    shown = calibration(p, turned).elements
    assert shown.fails[0, 3, 5]
    assert shown.fails.sum() <= 2
    assert shown.summary()["worst_element"] == [0, 3, 5]


def test_a_fault_that_generated_data_share_is_not_on_the_map():
    rng = np.random.default_rng(0)
    p = np.full((2, 300, 10), 0.5)
    x = (rng.random(p.shape) < p).astype(float)
    p[..., 3] = 0.2
    alone = calibration(p[0], x[0])
    assert alone.elements.fails.tolist() == [i == 3 for i in range(10)]
    assert not calibration(p[0], x[0], simulated=(p[1], x[1])).elements.fails.any()


def test_bad_arguments():
    p = np.full((4, 3), 0.5)
    # Where shapes are not checked by jaxtyping, it is a ValueError.
    with pytest.raises((TypeCheckError, ValueError)):
        calibration(p, np.zeros((4, 2)))
    with pytest.raises((TypeCheckError, ValueError)):
        calibration(p, np.zeros((4, 3)), simulated=(p[:, :2], np.zeros((4, 2))))
    with pytest.raises(ValueError, match="from 0 to 1"):
        calibration(2 * p + 0.5, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="outcome must be 0 or 1"):
        calibration(p, p)
    with pytest.raises(ValueError, match="at least two"):
        calibration(p[:1], np.zeros((1, 3)))


def test_figures(words):
    x = MODEL.draw(200, 2)
    p, outcome = forecasts(x)
    result = calibration(p, outcome)
    same = calibration(same_image_probability(MODEL.vae(), x), outcome)
    axes, text = words(plot_reliability(result, same, result))
    assert len(axes) == 4
    assert "no test" in text
    assert "bootstrap over 200 data" in text
    _, text = words(plot_calibration_map(result))
    assert "64 elements fail" in text


def test_certain_elements_are_not_judged(words):
    certain = calibration(np.zeros((4, 5, 5)), np.zeros((4, 5, 5)))
    assert certain.p_value is None
    assert certain.summary()["verdicts"] == []
    assert "Nothing to judge" in certain.reading()
    _, text = words(plot_calibration_map(certain))
    assert "0 of 0 elements fail" in text


@pytest.mark.arviz
def test_isotonic_forecasts_are_ours(words):
    rng = np.random.default_rng(0)
    p = rng.random((50, 20))
    figure = plot_isotonic(p, (rng.random(p.shape) < p).astype(float))
    (ax,), text = words(figure)
    assert "1,000 of 1,000 elements" in text
    line = next(line for line in ax.lines if len(line.get_xdata()) == p.size)
    np.testing.assert_allclose(line.get_xdata(), np.sort(p.ravel()), atol=0.011)


def test_certain_forecasts_that_are_wrong_are_not_off_by_little():
    rng = np.random.default_rng(0)
    # A tenth of the elements is in doubt and right; of the others, all but certain, 30 % are wrong.
    probability = np.full((1500, 20), 0.999)
    probability[:, :2] = 0.5
    truth = np.where(probability == 0.5, 0.5, 0.7)
    result = calibration(probability, (rng.random((1500, 20)) < truth).astype(float), num_flips=99)
    assert result.doubtful_error < 0.02
    assert result.verdicts()[0].answer == "no"
    assert f"{result.error:.3f}" in result.reading()
    assert result.error > 0.25
    # The map shows them, too: that many events are no rare ones.
    assert result.elements.left_out == 0
    assert result.elements.fails.sum() == 18
