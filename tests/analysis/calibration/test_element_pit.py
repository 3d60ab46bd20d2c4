"""The PIT of elements: nominal for a true model, and faults found, with a good and a poor guide."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats

from analysis.calibration.element_map import plot_calibration_map
from analysis.calibration.element_pit import element_pit, plot_element_pit
from analysis.calibration.exact_models import LinearGaussian
from analysis.calibration.leave_one_out import leave_one_element_out
from analysis.model_samples import new_data


def pits(model, x, draws=100, seed=0, **faults):
    return leave_one_element_out(model.vae(**faults), x, num_samples=draws, seed=seed).pit


def generated(model, n, **faults):
    drawn = new_data(model.vae(**faults), model.draw(1, 0), n, seed=5).x
    return torch.as_tensor(drawn.astype(np.float32))


def assert_nominal(results, p_value="p_value"):
    """Whether about 5 % of each p-value are below 0.05, within 1e-4 on either side."""
    for p_values in (
        [getattr(result, p_value) for result in results],
        [result.location.p_value for result in results],
        [result.width.p_value for result in results],
    ):
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], len(p_values), 0.05)
        assert low <= np.sum(np.array(p_values) < 0.05) <= high


@pytest.mark.parametrize("elements", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_p_values_are_nominal_for_exact_forecasts(elements):
    # Few, equal elements of an example: each bin of a histogram then has three events.
    uniform = np.random.default_rng(1).random((80, 40, elements))
    uniform[..., elements // 2 :] = uniform[..., :1]
    assert_nominal(
        [element_pit(part, seed=seed, num_flips=59) for seed, part in enumerate(uniform)]
    )


@pytest.mark.slow
def test_p_values_are_nominal_under_a_true_model():
    sets, size = 100, 30
    model = LinearGaussian()
    parts = np.split(pits(model, model.draw(sets * size, 3)), sets)
    assert_nominal(
        [element_pit(part, seed=seed, num_flips=199) for seed, part in enumerate(parts)]
    )


@pytest.mark.slow
def test_against_generated_data_a_true_model_passes_with_a_poor_guide():
    sets, size = 80, 40
    model = LinearGaussian(event_shape=(8,))
    real = pits(model, model.draw(sets * size, 3), seed=1, guide_scale=0.6)
    own = pits(model, generated(model, sets * size), seed=2, guide_scale=0.6)
    pairs = zip(np.split(real, sets), np.split(own, sets), strict=True)
    results = [
        element_pit(part, simulated=beside, seed=seed, num_flips=59)
        for seed, (part, beside) in enumerate(pairs)
    ]
    assert_nominal(results, "p_value_against_model")
    # By themselves the forecasts fail, because of the guide.
    assert np.mean([result.p_value < 0.05 for result in results]) > 0.12


@pytest.mark.parametrize("noise_ratio", [0.85, 1.15])
def test_a_fault_is_found_with_a_poor_guide(noise_ratio):
    model = LinearGaussian(event_shape=(8,))
    faults = {"noise_ratio": noise_ratio, "guide_scale": 0.6}
    real = pits(model, model.draw(600, 4), seed=1, **faults)
    own = pits(model, generated(model, 600, **faults), seed=2, **faults)
    result = element_pit(real, simulated=own, trusted=False)
    assert result.p_value_against_model < 1e-3
    (verdict,) = result.verdicts()
    assert verdict.answer in ("no", "nearly")
    assert ("too wide" if noise_ratio > 1 else "too narrow") in verdict.because
    assert element_pit(real, trusted=False).verdicts()[0].answer == "not known"
    assert element_pit(real, trusted=True).verdicts()[0].answer in ("no", "nearly")


@pytest.mark.parametrize(
    ("faults", "shift", "direction"),
    [
        ({"noise_ratio": 1.15}, 0.0, "too wide"),
        ({"noise_ratio": 0.85}, 0.0, "too narrow"),
        ({}, 0.05, "too low"),
    ],
)
def test_faults_are_found_and_named(faults, shift, direction):
    model = LinearGaussian()
    result = element_pit(pits(model, model.draw(300, 4, shift=shift), **faults))
    assert result.p_value < 1e-3
    assert direction in result.verdicts()[0].because
    assert result.summary()["verdicts"][0]["answer"] in ("no", "nearly")


def test_a_fault_that_generated_data_share_is_not_on_the_map():
    real, own = np.random.default_rng(0).random((2, 200, 10))
    real[:, 3], own[:, 3] = real[:, 3] ** 2, own[:, 3] ** 2
    assert element_pit(real).location.fails.tolist() == [i == 3 for i in range(10)]
    assert not element_pit(real, simulated=own).location.fails.any()


def test_bad_arguments():
    p = np.full((4, 3), 0.5)
    # jaxtyping may find it first.
    with pytest.raises((TypeCheckError, ValueError)):
        element_pit(p, simulated=p[:, :2])
    with pytest.raises(ValueError, match="at least two"):
        element_pit(p[:1])
    with pytest.raises(ValueError, match="pit must lie"):
        element_pit(p + 1)
    with pytest.raises(ValueError, match="simulated must lie"):
        element_pit(p, simulated=p + 1)


def test_figures(words):
    one, other = np.random.default_rng(0).random((2, 50, 7))
    pit, beside = element_pit(one, trusted=False), element_pit(one, simulated=other)
    _, text = words(plot_element_pit(pit))
    assert "bootstrap over 50 data" in text
    assert "guide not trusted" in text
    _, text = words(plot_element_pit(beside))
    assert "Do forecasts come true? Yes" in text
    assert "own data, same guide" in text
    _, text = words(plot_calibration_map(beside))
    assert "fail more than the model's own" in text
    axes, text = words(plot_calibration_map(pit))
    assert len(axes) == 2
    assert "Width" in text


def test_the_map_of_a_colour_image_shows_the_furthest_channel(words):
    pit = element_pit(np.random.default_rng(0).random((50, 3, 6, 6)))
    axes, _ = words(plot_calibration_map(pit))
    shown = np.asarray(axes[0].images[0].get_array())
    np.testing.assert_allclose(np.abs(shown), np.abs(pit.location.t).max(0))
