"""Scores and figures of two levels of latents."""

from functools import partial

import numpy as np
import pyro
import pytest
import torch

from analysis.model_samples import new_data
from analysis.programs import HeldOut, program_figures, program_scores
from analysis.programs.hierarchical import codes_by_level, kl_by_level, level_samples
from pyro_vae import networks
from pyro_vae.data import digits
from pyro_vae.evidence import evaluate
from pyro_vae.programs.hierarchical import build

MLP = partial(networks.MLP, hidden=(8,))


@pytest.fixture(params=["bottom_up", "top_down"])
def program(request):
    pyro.set_rng_seed(0)
    program = build((1, 8, 8), 6, top_dim=3, network=MLP, inference=request.param)
    # Levels that differ: z1 | z2 heeds z2.
    with torch.no_grad():
        program.conditional.encoder.head.weight.mul_(4)
        program.posterior.bottom.encoder.head.weight.mul_(4)
    return program


def held_out(n=200):
    return HeldOut(x=(digits().test[:n] > 8).float(), y=None)


def test_the_kls_of_the_levels_add_up_to_that_of_the_elbo(program):
    x = held_out().x
    kl = kl_by_level(program, x)
    whole = evaluate(program, x, num_samples=200).importance_weighting.kl
    assert sum(kl.values()) == pytest.approx(whole.mean(), rel=0.06)
    found = program_scores("hierarchical", program, held_out())
    levels = {"kl_z1", "kl_z2", "active_units_z1", "active_units_z2"}
    assert levels | {"latent_units", "scores"} == found.keys()
    assert found["latent_units"] == 9
    assert found["kl_z1"] == kl["z1"]


def test_a_level_that_ignores_the_data_has_no_active_unit(program):
    codes = codes_by_level(program, held_out().x)
    assert [codes[name].shape[1] for name in ("z1", "z2")] == [6, 3]
    with torch.no_grad():
        program.posterior.top.encoder.head.weight.zero_()
    found = program_scores("hierarchical", program, held_out())
    assert found["active_units_z2"] == 0
    assert found["active_units_z1"] > 0


def test_samples_hold_one_level(program):
    samples = level_samples(program, rows=3, columns=4)
    assert samples["z1"].shape == samples["z2"].shape == (3, 4, 1, 8, 8)
    for held in samples.values():
        # Both vary along a row, as the other level does, and between rows.
        assert held.std(0).max() > 0
        assert held.std(1).max() > 0
    with torch.no_grad():
        program.conditional.encoder.head.weight.zero_()
    # If z1 does not heed z2, nothing varies along a row of fixed z1.
    assert level_samples(program, rows=3, columns=4)["z1"].std(1).max() < 1e-6


def test_figures_are_drawn_and_state_is_kept(program):
    drawn = program_figures("hierarchical", program, held_out(30))
    assert drawn.keys() == {"kl_by_level", "samples_z1_fixed", "samples_z2_fixed"}
    before = torch.random.get_rng_state()
    for draw in drawn.values():
        assert draw().axes
    assert torch.random.get_rng_state().equal(before)


def test_new_data_have_the_codes_of_both_levels(program):
    new = new_data(program, held_out().x, 20, seed=0)
    assert new.z.shape == (20, 9)
    assert np.isfinite(new.x).all()
