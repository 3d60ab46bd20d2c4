"""The study of all data sets: every row is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.configuration.parser import parse
from pyro_vae.data import DATASETS

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "data_sets.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="data_sets"))


def test_every_row_is_a_command_that_the_program_takes(study):
    for row in study.ROWS:
        configuration = parse(study.arguments_of(row, 0, 7))
        assert configuration["data"]["name"] == row
        assert configuration["max_steps"] == 7
        assert row in DATASETS


def test_the_table(study):
    cell = {
        "command": "python scripts/svi_train.py --data newsgroups --seed 0",
        "likelihood": "poisson",
        "binarisation": None,
        "log_evidence": -400.0,
        "bits_per_dim": None,
        "n": 1000,
        "log_evidence_samples": 1000,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }
    table = study.tables({"newsgroups/0": cell})
    assert "| newsgroups | poisson | -400.00 | not defined | 1,000 x 1,000 |" in table
    assert "--data newsgroups --seed S`, S = 0" in table
    assert "commit 0123456789." in table


@pytest.mark.slow
def test_a_cell_and_its_picture(study, tmp_path):
    results, pictures = tmp_path / "results.json", tmp_path / "samples"
    arguments = ["--only", "digits", "--seeds", "0", "--steps", "2", "--results", str(results)]
    assert study.main([*arguments, "--samples", str(pictures)]) == 0
    assert set(json.loads(results.read_text())) == {"digits/0"}
    assert [picture.name for picture in pictures.iterdir()] == ["digits.png"]
