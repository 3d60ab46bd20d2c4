"""The study of priors: every row is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.configuration.parser import parse
from pyro_vae.priors import PRIORS, StandardNormal

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


class AFlow(StandardNormal):
    """Stands in for a flow prior: it has its support from another class."""

    __module__ = "pyro_vae.priors.flow"


def test_a_prior_may_have_its_support_from_another_class(study, monkeypatch):
    monkeypatch.setitem(PRIORS, "a_flow", AFlow)
    assert "a_flow" in study.rows()


@pytest.mark.parametrize(("better", "word"), [(1.5, "reached"), (0.5, "missed")])
def test_the_table(study, monkeypatch, better, word):
    monkeypatch.setitem(PRIORS, "a_flow", AFlow)
    values = {"standard_normal": -97.0, "vamp": -95.0, "a_flow": -95 + better}
    # The best prior beside Vamp, and no flow.
    values["gaussian_mixture"] = -90.0
    results = {
        f"{row}/{seed}": a_cell(row, seed, value + seed)
        for row, value in values.items()
        for seed in (0, 1)
    }
    table = study.tables(results)
    assert "| vamp | -94.50 ± 0.71 |" in table
    assert "--prior vamp --seed S`, S = 0, 1" in table
    assert "- vamp above standard_normal: +2.00 nats (by seed +2.00, +2.00)" in table
    assert "- gaussian_mixture above standard_normal: +7.00 nats" in table
    verdict = f"network: {word}, {better:+.2f} nats (by seed {better:+.2f}, {better:+.2f})"
    assert [line for line in table.splitlines() if "a flow prior" in line] == [
        f"- a flow prior, a_flow, above vamp by at least 1 nat on the same {verdict}"
    ]
    assert study.tables({}) == "No cell has been made yet."


def test_differences_are_over_the_seeds_of_both(study):
    results = {"vamp/0": a_cell("vamp", 0, -95.0), "vamp/1": a_cell("vamp", 1, -94.0)}
    results["standard_normal/1"] = a_cell("standard_normal", 1, -97.0)
    assert study.differences(results, "vamp", "standard_normal") == [3.0]


@pytest.mark.slow
def test_a_cell(study, tmp_path):
    results = tmp_path / "results.json"
    arguments = ["--only", "standard_normal", "--seeds", "0", "--steps", "2"]
    assert study.main([*arguments, "--results", str(results)]) == 0
    assert set(json.loads(results.read_text())) == {"standard_normal/0"}
