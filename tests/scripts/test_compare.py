"""`scripts/compare.py`: one page of several runs, and bad input."""

import json
import re

import pytest

from analysis.run_comparison import check_output_dir, run_names

EVIDENCE = ["--only", "evidence"]
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


def test_bad_input(trained, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "needs at least two runs" in refused("compare", trained)
    assert "no run at nowhere" in refused("compare", trained, "nowhere")
    assert "is given twice" in refused("compare", trained, trained)
    line = refused("compare", trained, trained, "--only", "evidence", "--against", "mnist")
    assert "--against needs the part representation" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.arviz
@pytest.mark.usefixtures("no_pictures")
def test_runs_are_compared(script, refused, trained, train, tmp_path, capsys, monkeypatch):
    other = train(tmp_path / "other", "--latent-dim", "3", "--seed", "1")
    monkeypatch.chdir(tmp_path)
    for name in ("comparison", "comparison-2"):
        assert script("compare", trained, other, *TINY, *EVIDENCE) == 0
        screen = capsys.readouterr().out
        assert f"runs/{name}/report.html compares the runs" in screen
        assert not {"\0", "\1"} & {*screen}
        assert re.search(r"latent_dim +\d +3\n", screen)
        found = json.loads((tmp_path / "runs" / name / "comparison.json").read_text())
        assert found["runs"].keys() == {"digits", "other"}
        assert found["differences"].keys() == {"seed", "latent_dim", "parameters"}
        assert found["differences"]["seed"] == {"digits": 0, "other": 1}
        assert found["comparison"]["n"] == 30
        assert {model["name"] for model in found["comparison"]["models"]} == {"digits", "other"}
        assert found["comparison"]["models"][0]["difference"] == 0
        names = {path.name for path in (tmp_path / "runs" / name).iterdir()}
        assert names == {*found["figures"], "comparison.json", "report.html"}
        assert {"comparison.png", "rate_distortion.png"} <= names
    line = refused("compare", trained, other, *TINY, "--only", "elbo")
    assert "--only must be one of evidence, representation, got 'elbo'" in line
    assert "is given twice" in refused("compare", trained, trained / ".." / "digits", *TINY)


def test_the_folder_of_a_comparison(tmp_path):
    old, mine = tmp_path / "old", tmp_path / "mine"
    for folder, name in ((old, "comparison.json"), (mine, "a.txt")):
        folder.mkdir()
        (folder / name).touch()
    assert check_output_dir(old) == old
    assert check_output_dir(tmp_path / "new") == tmp_path / "new"
    with pytest.raises(ValueError, match=r"contains a\.txt"):
        check_output_dir(mine)
    with pytest.raises(ValueError, match="must be a directory"):
        check_output_dir(mine / "a.txt")


def test_runs_that_do_not_compare(refused, trained, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = train(tmp_path / "other", "--binarisation", "threshold")
    line = refused("compare", trained, other, *TINY)
    assert "log p(x) of digits and other do not compare: binarisation dynamic against" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small", "no_paths", "no_pictures")
def test_codes_of_several_runs(script, refused, trained, train, tmp_path, capsys, monkeypatch):
    """An autoencoder has no log p(x), and still a place in the table."""
    monkeypatch.chdir(tmp_path)
    plain = train(tmp_path / "plain", "--posterior", "point", "--objective", "reconstruction")
    line = refused("compare", trained, plain, *TINY, *EVIDENCE)
    assert "log p(x) of plain is not defined" in line
    assert "--only representation" in line
    assert not (tmp_path / "runs").exists()
    assert script("compare", trained, plain, *TINY, "--only", "representation") == 0
    assert all(len(line) <= 100 for line in capsys.readouterr().out.splitlines())
    out = tmp_path / "runs" / "comparison"
    found = json.loads((out / "representation.json").read_text())
    names = {"label_efficiency.png", "robustness.png", "representation.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert found["runs"].keys() == found["representation"].keys() == {"digits", "plain"}
    assert found["differences"]["posterior"] == {"digits": "diagonal_normal", "plain": "point"}
    (evidence,) = (
        row
        for label, row in found["measures"].items()
        if label.startswith("log p(x),") and "clean" in label
    )
    assert evidence["plain"] == "not defined"
    assert float(evidence["digits"].partition(" ± ")[0]) < 0
    probe = found["measures"]["linear probe, all labels"]
    accuracy = found["representation"]["plain"]["probe"]["accuracy"]
    assert probe["plain"].startswith(f"{accuracy:.3f} ± ")


def test_runs_of_one_name_are_called_by_what_differs(tmp_path):
    one, two = tmp_path / "vae" / "0", tmp_path / "plain" / "0"
    assert run_names([one, two]) == ["vae/0", "plain/0"]
    assert run_names([one, tmp_path / "other"]) == ["0", "other"]
