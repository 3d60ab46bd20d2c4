"""The study of objectives: every row is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.configuration.parser import parse
from pyro_vae.objectives import OBJECTIVES

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "objectives.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="objectives"))


def a_cell(row: str, seed: int, log_evidence: float, *, saturated: bool = False) -> dict:
    return {
        "command": f"python scripts/svi_train.py --objective {row} --seed {seed}",
        "log_evidence": log_evidence,
        "elbo": log_evidence - 5,
        "kl": 25.0,
        "active_units": 40,
        "khat_share_above": 0.5,
        "mutual_information": 6.0,
        "mutual_information_saturated": saturated,
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
    assert set(study.rows()) == OBJECTIVES.keys() - {"reconstruction"}
    for row in study.rows():
        configuration = parse(study.arguments_of(row, 0, 7))
        assert configuration["objective"]["name"] == row
        assert configuration["max_steps"] == 7
    assert parse(study.arguments_of("beta", 0, 7))["objective"]["beta"] == 4


def test_the_table(study):
    values = {"elbo": -97.0, "beta": -99.0}
    results = {
        f"{row}/{seed}": a_cell(row, seed, value + seed, saturated=row == "beta" and seed == 1)
        for row, value in values.items()
        for seed in (0, 1)
    }
    table = study.tables(results)
    assert (
        "| beta | -98.50 ± 0.71 | -103.50 ± 0.71 | 25.00 ± 0.00 | at least 6.00 ± 0.00 |" in table
    )
    assert "| elbo | -96.50 ± 0.71 | -101.50 ± 0.71 | 25.00 ± 0.00 | 6.00 ± 0.00 |" in table
    assert "--objective beta --seed S`, S = 0, 1" in table
    gain = "log p(x) -2.00 nats (by seed -2.00, -2.00), ELBO -2.00 nats"
    assert f"- beta less elbo: {gain}" in table
    assert study.tables({}) == "No cell has been made yet."


def test_differences_are_over_the_seeds_of_both(study):
    results = {"beta/0": a_cell("beta", 0, -95.0), "beta/1": a_cell("beta", 1, -94.0)}
    results["elbo/1"] = a_cell("elbo", 1, -97.0)
    assert study.differences(results, "beta", "elbo", "log_evidence") == [3.0]


def test_a_density_that_is_not_finite_has_no_difference(study):
    results = {f"{row}/0": a_cell(row, 0, -95.0) for row in ("elbo", "beta")}
    results["beta/0"] |= {"log_evidence": None, "elbo": None}
    assert study.differences(results, "beta", "elbo", "log_evidence") == []
    assert "beta less elbo" not in study.tables(results)


@pytest.mark.slow
def test_a_cell(study, tmp_path):
    results = tmp_path / "results.json"
    arguments = ["--only", "elbo", "--seeds", "0", "--steps", "2"]
    assert study.main([*arguments, "--results", str(results)]) == 0
    (cell,) = json.loads(results.read_text()).values()
    assert cell["mutual_information_data"] == cell["n"] == 1000
    assert study.main(["--table", "--results", str(results)]) == 0
