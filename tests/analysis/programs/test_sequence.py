"""Scores and figures of forecasts."""

import pickle
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import Normal

from analysis.programs.sequence import DRAWS, Forecast, figures, persistence_rmse, scores
from pyro_vae import fit
from pyro_vae.data import Dataset, pendulum
from pyro_vae.programs.sequence import build


def held_out(program, data):
    return SimpleNamespace(
        x=data.test, y=None, label_names=(), event_names=(), contract=program.contract
    )


@pytest.fixture(scope="module")
def trained():
    pyro.set_rng_seed(0)
    data = pendulum(30, 6, "position")
    program = build(data.event_shape, 2, likelihood="normal", hidden=8)
    fit(program, data, epochs=1, compile="off")
    return program, data


def test_intervals_of_the_true_density_cover_as_they_say():
    pyro.set_rng_seed(0)
    truth = np.random.default_rng(0).standard_normal((300, 2, 30))
    loc = torch.zeros(DRAWS, 300, 2, 30, dtype=torch.float64)
    found = Forecast.from_likelihood(Normal(loc, 1.0).to_event(1))
    np.testing.assert_allclose(found.coverage(truth), 0.9, atol=0.01)
    np.testing.assert_allclose(found.rmse(truth), np.sqrt((truth**2).mean((0, 2))))
    np.testing.assert_allclose(found.width(), 2 * 1.645, rtol=0.03)
    # Intervals too narrow, and about another mean.
    assert (Forecast.from_likelihood(Normal(loc, 0.5).to_event(1)).coverage(truth) < 0.65).all()
    other = Forecast.from_likelihood(Normal(loc + 2, 1.0).to_event(1))
    assert (other.coverage(truth) < 0.5).all()
    np.testing.assert_allclose(other.rmse(truth), 5**0.5, atol=0.05)


def test_persistence_is_the_last_observed_frame():
    x = np.arange(5.0)[None, :, None] * np.array([1.0, -1.0])
    np.testing.assert_allclose(persistence_rmse(x, 2), [1, 2, 3])


def test_scores_are_in_the_units_of_the_data(trained):
    program, data = trained
    found = scores(program, held_out(program, data))
    assert (found["forecast_observed"], found["forecast_steps"]) == (3, 3)
    x = data.test.double().numpy()
    expected = persistence_rmse(x, 3)
    assert found["persistence_rmse_first"] == pytest.approx(expected[0])
    assert found["persistence_rmse_last"] == pytest.approx(expected[-1])
    assert found["persistence_rmse_all"] == pytest.approx(np.sqrt((expected**2).mean()))
    assert 0.1 < found["forecast_rmse_first"] < 2
    assert 0 <= found["forecast_coverage_90_all"] <= 1
    # The same again: nothing depends on the global random stream.
    assert scores(program, held_out(program, data)) == found


@pytest.mark.parametrize("images", [False, True])
def test_figures_are_drawn_from_arrays(trained, images):
    program, data = trained
    if images:
        levels = (torch.rand(30, 4, 1, 5, 5) * 17).floor().to(torch.uint8)
        data = Dataset.from_array(levels, levels=17, layout="sequence")
        program = build(data.event_shape, 2, likelihood="discretized_logistic", levels=17)
        fit(program, data, epochs=1, compile="off")
    plots = figures(program, held_out(program, data))
    assert list(plots) == ["sequences", "forecasts", "forecast_errors"]
    for plot in plots.values():
        assert pickle.loads(pickle.dumps(plot))().axes
