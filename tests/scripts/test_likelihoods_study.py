"""The study of likelihoods: every row is a command that the program takes, and the table says so."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pyro_vae.configuration.parser import parse
from pyro_vae.data import digits
from pyro_vae.likelihoods import LIKELIHOODS

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "likelihoods.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="likelihoods"))


def a_cell(study, row: str, seed: int, **values) -> dict:
    return {
        "command": study.command_of(row, seed, 5000),
        "log_evidence": -400.0,
        "bits_per_dim": 5.0,
        "kl": 12.0,
        "active_units": 7,
        "khat_share_above": 0.25,
        "epochs": 60,
        "n": 200,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
        **values,
    }


def a_baseline(study, row: str, **values) -> dict:
    kept = ("command", "log_evidence", "bits_per_dim", "n", "torch", "pyro", "git_commit")
    cell = a_cell(study, row, 0, **values)
    return {name: cell[name] for name in kept}


def test_every_row_is_a_command_that_the_programs_take(study):
    rows = study.rows()
    assert len(set(rows)) == len(rows)
    assert {"freyface:histogram", "freyface:continuous_bernoulli", "freyface:normal"} <= set(rows)
    assert {"mouse_bladder:poisson", "mouse_bladder:negative_binomial:library"} <= set(rows)
    # Given its total, a count's density is of another kind.
    assert not any("multinomial" in row for row in rows)
    for row in rows:
        if study.is_baseline(row):
            continue
        configuration = parse(study.arguments_of(row, 0, 7))
        assert row.startswith(
            f"{configuration['data']['name']}:{configuration['likelihood']['name']}"
        )
        assert configuration["max_steps"] == 7
    fitting = {name for name, part in LIKELIHOODS.items() if part.support in ("unit", "integers")}
    assert {row.partition(":")[2] for row in rows if row.startswith("digits:")} >= fitting


def test_the_tables(study):
    rows = {
        "freyface:histogram": a_baseline(study, "freyface:histogram", bits_per_dim=6.5),
        "freyface:continuous_bernoulli": a_cell(study, "freyface:continuous_bernoulli", 0),
        "freyface:normal": a_cell(study, "freyface:normal", 0, bits_per_dim=None),
        "mouse_bladder:fitted_with_sizes": a_baseline(study, "mouse_bladder:fitted_with_sizes"),
        "mouse_bladder:negative_binomial:library": a_cell(
            study, "mouse_bladder:negative_binomial:library", 0, log_evidence=-390.0
        ),
    }
    results = {f"{row}/0": cell for row, cell in rows.items()}
    results["freyface:continuous_bernoulli/1"] = a_cell(
        study, "freyface:continuous_bernoulli", 1, bits_per_dim=5.2
    )
    table = study.tables(results)
    assert "| freyface | continuous_bernoulli | unit | 5.100 ± 0.141 | 12.0 ± 0.0 |" in table
    assert "--only freyface:continuous_bernoulli --steps 5000 --seeds S`, S = 0, 1 |" in table
    assert "| freyface | histogram | baseline | 6.500 |  |  |  |  |" in table
    assert "| freyface | normal | real | -400.0 |" in table
    assert "| mouse_bladder | negative_binomial, library | counts | -390.0 |" in table
    assert (
        "- freyface: best is continuous_bernoulli; bits per dimension gained on histogram +1.40"
        in table
    )
    assert "nats a cell gained on fitted_with_sizes +10.00" in table
    assert "200 of freyface, 200 of mouse_bladder" in table
    assert study.tables({}) == "No cell has been made yet."


def test_a_baseline_is_measured_on_the_data_that_the_networks_are(study):
    cell = study.baseline(digits(), "histogram", 360)
    assert cell["n"] == 360
    train, test = digits().train.flatten(1).numpy(), digits().test.flatten(1).numpy()
    mean = np.mean(
        [
            sum(
                np.log((1 + (train[:, i] == v).sum()) / (len(train) + 17)) for i, v in enumerate(x)
            )
            for x in test
        ]
    )
    assert cell["log_evidence"] == pytest.approx(mean)
    assert cell["bits_per_dim"] == pytest.approx(-mean / (64 * np.log(2)))


def test_missing_data_are_an_error_in_one_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "nowhere"))
    arguments = ["--only", "freyface:histogram", "--results", str(tmp_path / "results.json")]
    assert study.main(arguments) == 2
    assert capsys.readouterr().err.startswith("likelihoods.py: error: ")
    with pytest.raises(SystemExit):
        study.main(["--only", "freyface:nonesuch"])


@pytest.mark.slow
def test_cells(study, tmp_path):
    results = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "2", "--results", str(results)]
    rows = ["digits:histogram", "digits:continuous_bernoulli"]
    assert study.main(["--only", *rows, *arguments]) == 0
    cells = json.loads(results.read_text())
    assert set(cells) == {f"{row}/0" for row in rows}
    assert cells["digits:continuous_bernoulli/0"]["n"] == 360
    assert cells["digits:continuous_bernoulli/0"]["epochs"] == 1
