"""The study of collapse: every row is a command that the program takes, and the table says what held."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.configuration.parser import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "collapse.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="collapse"))


def a_cell(row: str, seed: int, log_evidence: float, kl: float) -> dict:
    return {
        "command": f"python scripts/studies/collapse.py --only {row} --seeds {seed}",
        "log_evidence": log_evidence,
        "kl": kl,
        "active_units": 3,
        "khat_share_above": 0.5,
        "mutual_information": kl / 2,
        "mutual_information_saturated": False,
        "n": 500,
        "log_evidence_samples": 500,
        "epochs": 5,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


def test_every_row_is_a_command_that_the_program_takes(study):
    assert study.rows()[0] == "plain"
    plain = parse(study.arguments_of("plain", 0, 5))
    for row in study.rows():
        configuration = parse(study.arguments_of(row, 0, 5))
        assert configuration["likelihood"] == plain["likelihood"]
        assert configuration["epochs"] == 5
        assert (configuration == plain) == (row == "plain")


def test_schedules_end_before_training_does(study):
    for row in study.rows():
        objective = parse(study.arguments_of(row, 0, study.EPOCHS))["objective"]
        assert objective["warmup_epochs"] < study.EPOCHS
        assert objective["cycles"] * objective["cycle_epochs"] < study.EPOCHS


def test_the_table(study):
    made = {"plain": (-100.0, 0.1), "warm-up": (-101.0, 0.2), "BN-VAE": (-98.0, 9.0)}
    results = {
        f"{row}/{seed}": a_cell(row, seed, density + seed, kl)
        for row, (density, kl) in made.items()
        for seed in (0, 1)
    }
    table = study.tables(results)
    assert "| plain | 99.50 ± 0.71 | 0.10 ± 0.00 | 0.05 ± 0.00 |" in table
    assert "- plain training collapses: its KL is 0.10 ± 0.00 nats" in table
    assert "- warm-up collapses, too; log p(x) less plain's: -1.00 ± 0.00 nats" in table
    assert "- BN-VAE holds its code; log p(x) less plain's: 2.00 ± 0.00 nats" in table
    held = study.tables({"plain/0": a_cell("plain", 0, -100.0, 5.0)})
    assert "- plain training does not collapse: its KL is 5.00 nats" in held
    assert study.tables({}) == "No cell has been made yet."


def test_a_density_that_is_not_finite_is_not_defined(study):
    results = {
        "plain/0": a_cell("plain", 0, -100.0, 0.1),
        "warm-up/0": a_cell("warm-up", 0, -99.0, 3.0),
    }
    results["warm-up/0"]["log_evidence"] = None
    assert "less plain's: not defined" in study.tables(results)


def test_a_cell_says_how_it_is_made(study, tmp_path, monkeypatch):
    monkeypatch.setitem(study.fill.__globals__, "cell_of", lambda *_: a_cell("", 0, -1.0, 1.0))
    results = tmp_path / "results.json"
    assert study.main(["--only", "free bits", "--seeds", "1", "--results", str(results)]) == 0
    (cell,) = json.loads(results.read_text()).values()
    # The command that is kept with a cell is the one that makes it.
    made = a_cell("", 0, -1.0, 1.0)["command"]
    assert cell["command"] == made
    expected = "python scripts/studies/collapse.py --only 'free bits' --epochs 5 --seeds 1"
    assert study.command_of("free bits", 1, 5) == expected
