"""The study of evidence: models are trained once, and all images are evaluated chunk by chunk."""

import argparse
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_vae.configuration.parser import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "evidence.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="evidence"))


def a_curve(annealed: float) -> dict:
    return {
        "command": "python scripts/studies/evidence.py --seed 0",
        "n": 100,
        "samples": [1, 50, 5000],
        "bounds": [-100.0, -97.5, -96.0],
        "log_evidence": -96.0,
        "khat_share_above": 0.9,
        "annealed": annealed,
        "chains": 16,
        "temperatures": 500,
        "gap": annealed + 96,
        "gap_se": 0.25,
        **VERSIONS,
    }


VERSIONS = {"torch": "2.11", "pyro": "1.9.2", "git_commit": "0123456789abcdef"}


def test_every_model_is_a_command_that_the_program_takes(study):
    for model in study.MODELS:
        assert parse(study.arguments_of(model, 0, 7))["max_steps"] == 7
    assert study.OF_ALL in study.MODELS
    assert study.rows() == [*study.MODELS, study.ALL]


def test_the_table_and_the_figure(study, tmp_path):
    results = {"elbo/0": a_curve(-95.5)}
    results["all/0"] = {
        "command": "python scripts/studies/evidence.py --only all --seed 0",
        "n": 10_000,
        "log_evidence": -95.25,
        "log_evidence_se": 0.3,
        "log_evidence_samples": 5000,
        "elbo": -101.0,
        "kl": 25.0,
        "median_ess": 12.0,
        "khat_share_above": None,
        **VERSIONS,
    }
    table = study.tables(results)
    assert "| elbo | -100.00 | -97.50 | -96.00 | -95.50 | +0.50 ± 0.25 | 90% |" in table
    assert (
        "log p(x) of 10,000 test images with 5,000 draws for each is -95.25 ± 0.30 nats" in table
    )
    assert study.tables({}) == "No cell has been made yet."
    study.draw(results, tmp_path / "evidence.png")
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")
    study.draw({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_model_is_trained_once(study, tmp_path, monkeypatch):
    trainings = []

    class Trained:
        def __init__(self, arguments):
            trainings.append(arguments)

        def __enter__(self):
            made = tmp_path / f"made{len(trainings)}"
            made.mkdir()
            (made / "checkpoint.pt").write_bytes(b"")
            return made

        def __exit__(self, *_):
            pass

    monkeypatch.setitem(study.kept_run.__globals__, "trained", Trained)
    options = argparse.Namespace(runs=tmp_path / "runs", steps=7, seed=0)
    first, second = (study.kept_run("elbo", options) for _ in range(2))
    assert first == second
    assert (first / "checkpoint.pt").exists()
    assert len(trainings) == 1


def test_a_chunk_that_is_there_is_read(study, tmp_path, monkeypatch):
    calls = []

    def importance_weighting(model, guide, x, *, num_samples, compile):
        calls.append(num_samples)
        values = torch.rand(len(x)).double().numpy()
        return SimpleNamespace(log_evidence=values, elbo=values, kl=values, ess=values, khat=None)

    monkeypatch.setitem(study._chunk.__globals__, "importance_weighting", importance_weighting)
    vae = torch.nn.Identity()
    vae.model = vae.guide = None
    x = torch.zeros(3, 4)
    first, again = (study._chunk(vae, x, 100, 5, tmp_path) for _ in range(2))
    assert calls == [5]
    assert np.array_equal(first["log_evidence"], again["log_evidence"])
    # Each chunk has draws of its own, the same at each run.
    other = study._chunk(vae, x, 200, 5, tmp_path)
    assert not np.array_equal(first["log_evidence"], other["log_evidence"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000100.npz", "000200.npz"]
    assert study._khat_share_above(first["khat"], 5) is None
    assert study._khat_share_above(np.array([0.1, 5.0]), 1000) == 0.5
