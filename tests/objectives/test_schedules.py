"""Schedules of a weight, at times where they are known by hand."""

import math

import jaxtyping
import pytest
import torch

from pyro_vae import build
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ELBO
from pyro_vae.objectives.kl_weighting import Schedule, ramp

CYCLES = {"schedule": "cyclical", "cycle_epochs": 4.0, "cycles": 3}


def weights(elbo, times):
    found = []
    for epochs in times:
        elbo.set_progress(epochs)
        found.append(elbo.weight.item())
    return found


def test_cycles_grow_over_their_first_half_and_end_at_beta():
    times = (0.0, 0.5, 1.0, 2.0, 3.5, 4.0, 5.0, 7.0, 8.0, 9.5, 11.9, 12.0, 12.5, 100.0)
    expected = [0.0, 0.5, 1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    assert weights(ELBO(beta=2.0, **CYCLES), times) == pytest.approx(expected)


def test_the_ramp_is_a_share_of_the_cycle():
    elbo = ELBO(**CYCLES, cycle_ramp=0.25)
    assert weights(elbo, (0.0, 0.5, 1.0, 3.0, 4.25)) == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.25])
    assert weights(ELBO(**CYCLES, cycle_ramp=1.0), (1.0, 3.0)) == pytest.approx([0.25, 0.75])


def test_constant_and_linear():
    times = (0.0, 1.0, 4.0)
    assert weights(ELBO(beta=3.0, schedule="constant"), times) == [3.0, 3.0, 3.0]
    assert weights(ELBO(beta=3.0), times) == [3.0, 3.0, 3.0]
    assert weights(ELBO(beta=3.0, warmup_epochs=4.0), times) == [0.0, 0.75, 3.0]
    assert ramp(torch.tensor(1.0), 0.0) == 1


def test_state_holds_where_in_a_cycle_training_is():
    trained, resumed = ELBO(beta=2.0, **CYCLES), ELBO(beta=2.0, **CYCLES)
    trained.set_progress(9.5)
    resumed.load_state_dict(trained.state_dict())
    assert resumed.weight == trained.weight == 1.5


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, 0.0),
        ({"warmup_epochs": 3.0}, 3.0),
        (CYCLES, 12.0),
        ({"capacity": 2.0, "capacity_epochs": 5.0}, 5.0),
    ],
)
def test_when_weights_have_settled(options, epochs):
    elbo = ELBO(**options)
    assert elbo.settled(epochs)
    assert epochs == 0 or not elbo.settled(epochs - 0.5)


def test_the_weight_of_a_schedule_weighs_the_kl_alone():
    torch.manual_seed(0)
    vae, x = build((4, 4), latent_dim=3), torch.bernoulli(torch.full((5, 4, 4), 0.3))
    terms = log_densities(vae.model, vae.guide, x)
    elbo = ELBO(beta=2.0, **CYCLES)
    elbo.set_progress(5.0)
    found, plain = elbo(terms), ELBO()(terms)
    expected = plain.values["kl"] - plain.values["reconstruction"]  # 2 times a half.
    torch.testing.assert_close(found.loss.detach(), expected)
    torch.testing.assert_close(found.values["elbo"], plain.values["elbo"], rtol=0, atol=0)
    torch.testing.assert_close(found.values["beta"], torch.ones(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosine"}, "one of linear, cyclical, constant, got 'cosine'"),
        ({"name": "cyclical"}, "needs cycle_epochs above 0"),
        ({"cycle_epochs": 2.0}, "cycle_epochs belongs to the schedule cyclical, got linear"),
        ({"cycle_epochs": math.nan}, "cycle_epochs must be at least 0 and finite, got nan"),
        ({"warmup_epochs": math.inf}, "warmup_epochs must be at least 0 and finite, got inf"),
        ({"name": "constant", "warmup_epochs": 2.0}, "belongs to the schedule linear"),
        (
            {"name": "cyclical", "cycle_epochs": 2.0, "cycles": 0},
            "cycles must be at least 1, got 0",
        ),
        ({"cycle_ramp": 0.0}, "cycle_ramp must be above 0 and at most 1, got 0.0"),
        ({"cycle_ramp": 1.5}, "cycle_ramp must be above 0 and at most 1, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            Schedule(**options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
