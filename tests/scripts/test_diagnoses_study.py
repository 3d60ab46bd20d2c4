"""The study of diagnoses: what it keeps of a diagnosis, and how the table says it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "diagnoses.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="diagnoses"))


def a_diagnosis(saturated):
    levels = [{"level": level, "joint": level - 0.1} for level in (0.5, 0.9)]
    return {
        "n": 1000,
        "predictive": {
            "checks": {
                "furthest": "total_variation",
                "furthest_ks_distance": 0.25,
                "num_p_values_below_0.05": 3,
                "num_p_values": 16,
                "nearest_training": {"generated_median": 0.3, "real_median": 0.2},
            }
        },
        "calibration": {"elements": {"doubtful_error": 0.018, "doubtful_error_by_chance": 0.003}},
        "elbo": {
            "terms": {"elbo": -100.0},
            "decomposition": {
                "rate": 28.6,
                "mutual_information": 10.7,
                "total_correlation": 17.7,
                "dimension_wise_kl": 0.2,
                "saturated": saturated,
            },
        },
        "guide": {
            "quality": {"khat_share_above": 0.99, "ess_median": 7.0},
            "sbc": {"coverage": levels, "told_apart": 0.998},
            "generalisation": {
                "terms": {"amortisation": {"test": 4.2}, "log_evidence": {"difference": -0.2}}
            },
        },
        "seconds": {"total": 90.0},
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


def a_cell(study, seed, saturated=True):
    command = f"python scripts/studies/diagnoses.py --only mnist --seeds {seed}"
    return {"command": command, **study.numbers(a_diagnosis(saturated))}


def test_what_is_kept(study):
    cell = a_cell(study, 0)
    assert cell["nearest_ratio"] == pytest.approx(1.5)
    assert cell["region_coverage"] == pytest.approx(0.8)
    assert cell["amortisation"] == 4.2


def test_the_table_says_where_it_saturates(study):
    table = study.tables({"mnist/0": a_cell(study, 0), "mnist/1": a_cell(study, 1)})
    row = next(line for line in table.splitlines() if line.startswith("| mnist"))
    assert row.startswith("| mnist | total variation 0.25 ± 0.00 | 1.50 ± 0.00 | 0.018 ± 0.000 (")
    assert "| ≥ 10.70 ± 0.00 | ≤ 17.70 ± 0.00 |" in row
    assert row.endswith("--seeds S`, S = 0, 1 |")
    assert "≥" not in study.tables({"mnist/0": a_cell(study, 0, False)}).split("\n\n")[0]
    assert study.tables({}) == "No cell has been made yet."
