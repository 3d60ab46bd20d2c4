"""The study of checks: each case has a p-value from each check, and the table says what is off."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "checks.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="checks"))


def a_cell(study, **rejected):
    return {
        "command": "python scripts/studies/checks.py --only normal --repeats 200",
        "repeats": 200,
        "rejected": dict.fromkeys(study.CHECKS, 10) | rejected,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }


@pytest.mark.parametrize("name", ["normal_diagonal", "binary_collapsed"])
def test_a_case_has_every_check(study, name, monkeypatch):
    for size, value in {"DATA": 30, "GENERATED": 40, "TRAIN": 30, "DRAWS": 29}.items():
        monkeypatch.setitem(study.p_values.__globals__, size, value)
    found = study.p_values(study.CASES[name], 0)
    assert list(found) == list(study.CHECKS)
    assert all(0 <= p <= 1 for p in found.values())
    assert found == study.p_values(study.CASES[name], 0)


def test_the_table_marks_what_is_off(study):
    table = study.tables({"normal": a_cell(study, left_out=200), "binary": a_cell(study, pit=25)})
    assert (
        "| linear-Gaussian | none | 5% | 5% | 5% | 5% | 5% | **100%** | 5% | 5% | 200 |" in table
    )
    assert "**12%**" in table
    assert study.tables({}) == "No cell has been made yet."


def test_wrong_words(study, capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(["--repeats", "0"])
    assert stopped.value.code == 2
    assert "--repeats must be at least 1, got 0" in capsys.readouterr().err
