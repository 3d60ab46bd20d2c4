"""The page of a comparison of runs: its tables, and names that are HTML."""

import json
from itertools import pairwise

import pytest

from analysis.html_report.comparison_page import write_comparison

ATTACK = "<b>x</b>"


@pytest.fixture
def folder(tmp_path):
    """A comparison of two runs, one of which differs most in row 7."""
    path = tmp_path / "comparison"
    path.mkdir()
    models = [
        {
            "name": name,
            "log_evidence": -20.0 - rank,
            "log_evidence_se": 0.2,
            "difference": float(rank),
            "difference_se": 0.05,
            "told_apart_from_best": bool(rank),
            "weight": 1.0 - rank,
            "khat_share_above": None if rank else 0.125,
        }
        for rank, name in enumerate(("good", ATTACK))
    ]
    plane = {"rate": 3.0, "distortion": 17.0, "elbo": -20.0, "collapsed": False}
    plane |= {"rate_se": 0.1, "distortion_se": 0.2, "elbo_se": 0.25}
    header = {"n": 2, "split": "test", "data": "digits", "seed": 0, "checkpoint_sha256": "0"}
    record = {
        "runs": dict.fromkeys(("good", ATTACK), header),
        "differences": {"seed": {"good": 0}},
        "comparison": {"models": models, "reading": "See `evaluate.py RUN` <1>."},
        "rate_distortion": {
            "models": [{"name": name, **plane} for name in ("good", ATTACK)],
            "reading": "Both are equal.",
        },
        "by_datum": {
            "row": [3, 7],
            "log_evidence": {"good": [-20.0, -20.0], ATTACK: [-20.5, -22.5]},
        },
        "torch": "2.0",
        "git_commit": "abc",
    }
    (path / "comparison.json").write_text(json.dumps(record))
    return path


def test_runs_are_compared_datum_by_datum(folder, run, read):
    runs = {"good": run, ATTACK: run}
    left_out = {"representation": "values are missing."}
    (run / "report.html").write_text("an earlier page")
    path = write_comparison(folder, runs, left_out, command=["python", "compare.py"])
    page = read(path.read_text())
    assert "good has the highest log p(x)" in page.by_id("verdict").text
    assert "See evaluate.py RUN <1>." in page.by_id("verdict").text
    assert "representation: values are missing." in page.by_id("verdict").text
    rows = [each.text for each in page.all("tr") if each.text.startswith("row ")]
    # The largest difference first.
    assert [each[:5] for each in rows] == ["row 7", "row 3"]
    assert "+2.50" in page.by_id("by-datum").text
    assert "1.000 ± 0.050" in page.by_id("by-datum").text
    assert "3.00 ± 0.10" in page.by_id("plane").text
    assert ATTACK in page.by_id("runs").text
    assert not page.all("b")
    assert "../run/report.html" in {each.attributes["href"] for each in page.all("a")}
    levels = [int(each.tag[1]) for each in page.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.ids) == len(set(page.ids))
    assert json.loads(page.by_id("record").text)["evidence"]["by_datum"]["row"] == [3, 7]


def test_a_run_without_a_page_gets_the_command(folder, run, read):
    page = read(write_comparison(folder, {"good": run, ATTACK: run}, {}, command=[]).read_text())
    assert f"python scripts/diagnose.py {run}" in page.by_id("runs").text
