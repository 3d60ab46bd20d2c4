"""The study of spheres: every cell is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_vae.configuration.parser import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "spherical.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="spherical"))


def a_cell(space: str, dimension: int, seed: int, log_evidence: float) -> dict:
    return {
        "command": f"python scripts/svi_train.py --posterior {space}{dimension} --seed {seed}",
        "log_evidence": log_evidence,
        "elbo": log_evidence - 5,
        "kl": 15.0,
        "n": 1000,
        "log_evidence_samples": 1000,
        "epochs": 20,
        "torch": "2.14",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


def test_every_cell_is_a_command_that_the_program_takes(study):
    for space, (posterior, prior, longer) in study.SPACES.items():
        for dimension in study.DIMENSIONS:
            configuration = parse(study.arguments_of(space, dimension, 3, 7))
            assert configuration["prior"]["name"] == prior
            assert configuration["posterior"]["name"] == posterior
            # A sphere of dimension d lies in R^(d+1).
            assert configuration["latent_dim"] == dimension + longer
            assert configuration["network"]["hidden"] == [256, 128]
            assert configuration["epochs"] == 7
            assert configuration["seed"] == 3


def test_the_table(study):
    gaps = {2: (1.5, 0.5), 5: (0.3, -0.5)}
    results = {}
    for dimension, of_seeds in gaps.items():
        for seed, gap in enumerate(of_seeds):
            for space, value in (("normal", -100.0), ("sphere", -100.0 + gap)):
                results[f"{space}-{dimension}/{seed}"] = a_cell(space, dimension, seed, value)
    # A sphere without its normal is no difference.
    results["sphere-10/0"] = a_cell("sphere", 10, 0, -93.0)
    table = study.tables(results)
    assert "| 2 | -100.00 ± 0.00 | -99.00 ± 0.71 | 1.00 ± 0.71 | -105.00" in table
    assert "| 10 | not made | -93.00 | not made | not made | -98.00" in table
    assert "--posterior sphere2 --seed S`, S = 0, 1" in table
    assert "- d = 2, the published sign, the sphere above the normal: reached (mean +1.00" in table
    assert "- d = 5, the published sign, the sphere above the normal: missed (mean -0.10" in table
    assert "by seed +0.30, -0.50" in table
    assert "d = 10, the published" not in table
    assert study.tables({}) == "No cell has been made yet."


@pytest.mark.slow
def test_a_cell(study, tmp_path):
    results = tmp_path / "results.json"
    arguments = ["--only", "sphere", "--dimensions", "2", "--seeds", "0", "--max-steps", "2"]
    assert study.main([*arguments, "--results", str(results)]) == 0
    assert set(json.loads(results.read_text())) == {"sphere-2/0"}
