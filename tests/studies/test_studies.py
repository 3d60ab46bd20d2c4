"""Studies: every row is a command that runs, pages show the stored results, and the runner stores what it makes."""

import argparse
import json
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.particles import elbo_of, iwae_of
from analysis.study import SVI_TRAIN, Row, Study, shared_command
from analysis.study_results import mean, read_results
from pyro_vae import build, likelihoods
from pyro_vae.configuration.parser import parse
from pyro_vae.data import digits
from pyro_vae.objectives import ELBO, objective_value

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "scripts" / "studies").glob("*.json"))
PAGES = {name: f"results/{name.replace('_', '-')}.md" for name in STUDIES} | {
    "tables": "your-data.md"
}
VERSIONS = {"torch": "2.11", "pyro": "1.9.2", "git_commit": None}


def program(name: str) -> SimpleNamespace:
    """The names of a study's program."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "studies" / f"{name}.py")))


@pytest.mark.parametrize("name", STUDIES)
def test_stored_results_are_those_of_rows_and_of_the_page(name):
    study = program(name).STUDY
    results = read_results(study.stored)
    assert {cell.rpartition("/")[0] for cell in results} <= set(study.rows)
    assert study.text(results) in (ROOT / "docs" / PAGES[name]).read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_command_that_runs(name):
    study = program(name).STUDY
    options = study.parser().parse_args([])
    for row, entry in study.rows.items():
        assert shlex.split(study.command_of(row, 3, options))[0] == "python"
        if entry.make is None:
            template = study.train or str(entry.command or study.command).removeprefix(SVI_TRAIN)
            assert parse(study.words_of(template, row, 3, options))["seed"] == 3


def test_stored_cells_are_those_of_today_s_commands():
    """Otherwise a study would train them again."""
    for name in ("priors", "objectives", "collapse", "spherical", "first_numbers", "diagnoses"):
        study = program(name).STUDY
        options = study.parser().parse_args([])
        for cell, stored in read_results(study.stored).items():
            row, _, seed = cell.rpartition("/")
            assert study.command_of(row, int(seed), options) == stored["command"]


# ---- the runner ----------------------------------------------------------------------------------


@pytest.fixture
def small() -> Study:
    words = "--network.hidden [8] --latent-dim 2"
    return Study(
        name="small",
        about="A small study.",
        rows={"vamp": Row("--prior vamp --prior.components 3"), "wrong": Row("--lr -1")},
        command=f"{SVI_TRAIN} {{words}} {words} --max-steps {{steps}} --seed {{seed}}",
        options={"steps": 2},
        seeds=(1,),
        columns=(("log p(x)", mean("log_evidence")),),
        note="In nats.",
    )


def test_a_cell_is_made_once_and_an_error_stores_nothing(small, tmp_path, capfd):
    path = tmp_path / "results.json"
    arguments = ["--results", str(path), "--only"]
    assert small.main([*arguments, "wrong"]) == 1
    assert "exit code 2" in capfd.readouterr().err
    assert not path.exists()
    for _ in range(2):
        assert small.main([*arguments, "vamp"]) == 0
    assert "vamp/1 is there" in capfd.readouterr().out
    ((name, cell),) = json.loads(path.read_text()).items()
    assert name == "vamp/1"
    assert cell["command"] == (
        "python scripts/svi_train.py --prior vamp --prior.components 3 --network.hidden '[8]' "
        "--latent-dim 2 --max-steps 2 --seed 1"
    )
    assert (cell["steps"], cell["prior"], cell["n"]) == (2, "vamp", 360)
    assert cell["elbo"] < cell["log_evidence"]


def fake(command: str, value: float | None = -1.0) -> dict:
    return {"command": command, "log_evidence": value, **VERSIONS}


def test_the_table_says_means_the_command_once_and_what_is_not_defined(small):
    command = "python x.py --prior {} --seed {}"
    results = {f"vamp/{seed}": fake(command.format("vamp", seed), -seed) for seed in (1, 3)}
    results["wrong/1"] = fake(command.format("flow -l", 1), None)
    text = small.text(results)
    assert "| vamp | -2.00 ± 1.41 | `vamp` | 1, 3 |" in text
    assert "| wrong | not defined | `flow -l` | 1 |" in text
    assert text.count("python x.py") == 1
    results["vamp/3"]["command"] = "python y.py --seed 3"
    with pytest.raises(ValueError, match="must have one command"):
        small.text(results)


def test_commands_that_share_nothing_are_listed():
    own, text = shared_command({"a": "python a.py", "b": "python b.py"})
    assert own == {}
    assert text == "- a: `python a.py`\n- b: `python b.py`"


def test_a_page_is_written_between_its_markers(small, tmp_path, capsys):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    path.write_text(json.dumps({"vamp/1": fake("python x.py --seed 1")}))
    page.write_text("before\n<!-- small -->\nold\n<!-- /small -->\nafter\n")
    arguments = ["--results", str(path), "--write", str(page)]
    assert small.main(arguments) == 0
    text = small.text(read_results(path))
    assert page.read_text() == f"before\n<!-- small -->\n{text}\n<!-- /small -->\nafter\n"
    page.write_text("no markers\n")
    assert small.main(arguments) == 2
    assert "<!-- small -->" in capsys.readouterr().err
    assert page.read_text() == "no markers\n"


# ---- what single studies compute -----------------------------------------------------------------


def test_the_network_by_hand_is_the_vae():
    study = program("first_numbers")
    data = digits()
    plain = study.PlainVAE(64)
    assert study.train_by_hand(plain, data.train[:300].flatten(1), 16, steps=2) > 0
    vae = study.as_vae(plain, data.event_shape)
    x = (data.test >= 8).float()
    torch.manual_seed(1)
    by_hand = plain(x.flatten(1))
    torch.manual_seed(1)
    torch.testing.assert_close(objective_value(vae, ELBO(), x).loss.mean(), by_hand)


def test_the_bounds_of_groups_and_of_shares():
    study = program("particles")
    log_weight = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halves = torch.stack([iwae_of(log_weight[:4]), iwae_of(log_weight[4:])]).mean(0)
    assert torch.allclose(study.COMPARED["miwae"][0](log_weight), halves)
    share = study.CIWAE_ELBO_SHARE
    combined = share * elbo_of(log_weight) + (1 - share) * iwae_of(log_weight)
    assert torch.allclose(study.COMPARED["ciwae"][0](log_weight), combined)


def test_the_predictive_distribution_of_words_is_a_mean_over_draws():
    study = program("topics")
    vae = build((5,), 3, likelihood=likelihoods.Multinomial)
    posts = torch.tensor([[1, 0, 3, 0, 0], [0, 0, 0, 0, 0]])
    p = study.predictive(vae, posts, draws=4000)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    torch.manual_seed(1)
    z = vae.posterior(posts.float()).sample((4000,))
    expected = vae.likelihood.decoder(z)[..., 0, :].softmax(-1).mean(0)
    np.testing.assert_allclose(p, expected.detach().numpy(), atol=0.02)


def test_a_baseline_is_measured_on_the_same_test_data():
    cell = program("likelihoods").baseline("digits", "histogram", 0, argparse.Namespace())
    train, test = digits().train.flatten(1).numpy(), digits().test.flatten(1).numpy()
    counts = np.stack([(train == v).sum(0) for v in range(17)])
    expected = np.log((1 + np.take_along_axis(counts, test.astype(int), 0)) / (len(train) + 17))
    assert cell["n"] == 360
    assert cell["log_evidence"] == pytest.approx(expected.sum(1).mean())
    assert cell["bits_per_dim"] == pytest.approx(-expected.sum(1).mean() / (64 * np.log(2)))


def test_a_stored_chunk_is_read(tmp_path, monkeypatch):
    study, calls = program("evidence"), []

    def importance_weighting(model, guide, x, *, num_samples, compile):
        calls.append(num_samples)
        values = torch.rand(len(x)).double().numpy()
        return SimpleNamespace(log_evidence=values, elbo=values, kl=values, ess=values, khat=None)

    monkeypatch.setitem(study.chunk_of.__globals__, "importance_weighting", importance_weighting)
    vae = torch.nn.Identity()
    vae.model = vae.guide = None
    x = torch.zeros(3, 4)
    first, again = (study.chunk_of(vae, x, 100, 5, tmp_path) for _ in range(2))
    other = study.chunk_of(vae, x, 200, 5, tmp_path)
    assert calls == [5, 5]
    assert np.array_equal(first["log_evidence"], again["log_evidence"])
    assert not np.array_equal(first["log_evidence"], other["log_evidence"])
    assert study.khat_share_above(first["khat"], 5) is None
    assert study.khat_share_above(np.array([0.1, 5.0]), 1000) == 0.5


def test_a_case_has_a_p_value_of_each_check(monkeypatch):
    study = program("checks")
    for size, value in {"DATA": 30, "GENERATED": 40, "TRAIN": 30, "DRAWS": 29}.items():
        monkeypatch.setitem(study.p_values.__globals__, size, value)
    found = study.p_values(study.CASES["normal_diagonal"], 0)
    assert list(found) == list(study.CHECKS)
    assert all(0 <= p <= 1 for p in found.values())


@pytest.mark.slow
def test_streaming_measures_a_file_and_deletes_it(tmp_path):
    options = argparse.Namespace(folder=tmp_path, steps=2)
    cell = program("streaming").cell(0.002, True, 0, options)
    assert cell["n_train"] == 1786
    assert cell["peak_bytes"] >= cell["peak_bytes_before"] > 0
    assert list(tmp_path.iterdir()) == []
