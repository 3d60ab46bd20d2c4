"""The study of particles: each objective has as many draws as it says, and what is kept is read back."""

import json
import runpy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from analysis.particles import GradientNoise, ParticleNoise, elbo_of, iwae_of
from pyro_vae.objectives import OBJECTIVES

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "particles.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="particles"))


def a_cell(study) -> dict:
    points = [
        ParticleNoise(
            k,
            -100.0 + k / 64,
            0.01,
            {"encoder": GradientNoise(4.0 / k, 1.0), "decoder": GradientNoise(64.0 / k, 16.0)},
        )
        for k in study.PARTICLES
    ]
    return {
        "command": "python scripts/studies/particles.py --only elbo --seeds 0",
        "points": [asdict(point) for point in points],
        "repeats": 100,
        "batch": 50,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


def test_every_row_has_as_many_draws_as_it_says(study):
    assert {"elbo"} <= set(study.rows()) <= set(OBJECTIVES)
    for row in study.rows():
        for particles in study.PARTICLES:
            assert study.objective_of(row, particles).num_particles == particles


def test_the_bounds_of_groups_and_of_shares(study):
    log_weight = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halves = torch.stack([iwae_of(log_weight[:4]), iwae_of(log_weight[4:])]).mean(0)
    assert torch.allclose(study.COMPARED["miwae"][0](log_weight), halves)
    share = study.CIWAE_ELBO_SHARE * elbo_of(log_weight)
    share = share + (1 - study.CIWAE_ELBO_SHARE) * iwae_of(log_weight)
    assert torch.allclose(study.COMPARED["ciwae"][0](log_weight), share)
    one = log_weight[:1]
    assert all(torch.allclose(bound(one), one[0]) for bound, _ in study.COMPARED.values())


def test_the_table_and_the_figure(study, tmp_path):
    results = {"elbo/0": a_cell(study)}
    table = study.tables(results)
    assert "| elbo | -99.98 | -99.00 | 64.0 | 0.50 to 4.00 | 64.0 | 0.50 to 4.00 |" in table
    assert study.tables({}) == "No cell has been made yet."
    study.draw(results, tmp_path / "particles.png")
    assert (tmp_path / "particles.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_kept_is_read_back(study):
    cell = a_cell(study)
    again = [asdict(point) for point in study.points_of(json.loads(json.dumps(cell)))]
    assert again == cell["points"]


def test_what_is_there_is_not_trained_for_again(study, tmp_path, monkeypatch):
    monkeypatch.setitem(study.fill.__globals__, "measured", lambda *_: a_cell(study))
    monkeypatch.setitem(
        study.fill.__globals__, "with_test_data", lambda *_: (None, None, torch.zeros(2, 1))
    )
    results = tmp_path / "particles.json"
    arguments = ["--only", "elbo", "--run", str(tmp_path), "--results", str(results)]
    assert study.main(arguments) == 0
    assert results.with_suffix(".png").exists()
    stored = json.loads(results.read_text())
    assert set(stored) == {"elbo/0"}
