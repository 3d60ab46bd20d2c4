"""`scripts/compare.py`: one page of several runs, and bad input."""

import json

import pytest

TINY = ["--images", "30", "--samples", "30", "--device", "cpu"]


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("analysis.run_comparison.to_png", lambda figure: b"no picture")


@pytest.mark.usefixtures("no_pictures")
def test_log_p_x_datum_by_datum(script, trained, train, tmp_path, capsys):
    other = train(tmp_path / "other", "--seed", "1", "--latent-dim", "3")
    out = tmp_path / "out"
    arguments = (trained, other, *TINY, "--only", "evidence", "--out", out)
    assert script("compare", *arguments) == 0
    assert f"{out}/report.html compares the runs" in capsys.readouterr().out
    record = json.loads((out / "comparison.json").read_text())
    found = record["by_datum"]
    assert len(found["row"]) == 30
    best, second = (each["name"] for each in record["comparison"]["models"])
    one, two = (found["log_evidence"][name] for name in (best, second))
    mean = sum(a - b for a, b in zip(one, two, strict=True)) / 30
    assert mean == pytest.approx(record["comparison"]["models"][1]["difference"])
    page = (out / "report.html").read_text()
    widest = max(range(30), key=lambda i: abs(one[i] - two[i]))
    assert f"row {found['row'][widest]}<" in page
    assert f"{one[widest] - two[widest]:+,.2f}" in page
    assert "Rate and distortion" in page
    assert f"python scripts/compare.py {trained} {other} --images 30" in page
    assert f"python scripts/diagnose.py {other}" in page


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_what_is_not_defined_is_left_out(script, trained, train, refused, tmp_path, capsys):
    plain = train(tmp_path / "plain", "--posterior", "point", "--objective", "reconstruction")
    out = tmp_path / "out"
    assert script("compare", trained, plain, *TINY, "--out", out) == 0
    assert "evidence: left out. log p(x) of plain is not defined" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "log p(x) of plain is not defined" in page
    assert "linear probe, all labels" in page
    line = refused("compare", trained, plain, *TINY, "--only", "evidence")
    assert "log p(x) of plain is not defined" in line


def test_bad_input(trained, train, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "needs at least two runs" in refused("compare", trained)
    assert "no run at nowhere" in refused("compare", trained, "nowhere")
    assert "is given twice" in refused("compare", trained, trained)
    line = refused("compare", trained, trained, "--only", "evidence", "--against", "mnist")
    assert "--against needs the part representation" in line
    other = train(tmp_path / "other", "--binarisation", "threshold")
    assert "do not compare: binarisation dynamic" in refused("compare", trained, other, *TINY)
    assert not (tmp_path / "runs").exists()
