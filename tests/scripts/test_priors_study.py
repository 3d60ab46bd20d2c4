"""The study of priors: every row is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.priors import PRIORS
from pyro_vae.training.command_line import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "priors.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="priors"))


def a_cell(row: str, seed: int, log_evidence: float) -> dict:
    return {
        "command": f"python scripts/svi_train.py --prior {row} --seed {seed}",
        "log_evidence": log_evidence,
        "elbo": log_evidence - 5,
        "kl": 25.0,
        "active_units": 40,
        "parameters": 1_000_000,
        "seconds_per_epoch": 3.0,
        "n": 1000,
        "log_evidence_samples": 1000,
        "steps": 5000,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


def test_every_row_is_a_command_that_the_program_takes(study):
    assert {"standard_normal", "vamp", "gaussian_mixture"} <= set(study.rows())
    for row in study.rows():
        configuration = parse(study.arguments_of(row, 0, 7))
        assert configuration["prior"]["name"] == row
        assert configuration["max_steps"] == 7
        assert PRIORS[row].support == "real"


@pytest.mark.parametrize(("better", "word"), [(1.5, "reached"), (0.5, "missed")])
def test_the_table(study, better, word):
    results = {
        f"{row}/{seed}": a_cell(row, seed, value + seed)
        for row, value in (("vamp", -95.0), ("gaussian_mixture", -95 + better))
        for seed in (0, 1)
    }
    table = study.tables(results)
    assert "| vamp | -94.50 ± 0.71 |" in table
    assert "--prior vamp --seed S`, S = 0, 1" in table
    assert f"gaussian_mixture: {better:+.2f} nats" in table
    assert table.endswith(word)
    assert study.tables({}) == "No cell has been made yet."


@pytest.mark.slow
def test_a_cell(study, tmp_path):
    results = tmp_path / "results.json"
    arguments = ["--only", "standard_normal", "--seeds", "0", "--steps", "2"]
    assert study.main([*arguments, "--results", str(results)]) == 0
    assert set(json.loads(results.read_text())) == {"standard_normal/0"}
