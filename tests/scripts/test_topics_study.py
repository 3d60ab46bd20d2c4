"""The study of topics: every row is a command that the program takes, and the table says so."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_vae import build, likelihoods
from pyro_vae.configuration.parser import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "topics.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="topics"))


def test_every_row_is_a_command_that_the_program_takes(study):
    assert {*study.ROWS, study.LDA} == set(study.TITLES)
    for row in study.ROWS:
        configuration = parse(study.arguments_of(row, 0, 7))
        assert configuration["data"]["name"] == "newsgroups"
        assert configuration["likelihood"]["name"] == "multinomial"
        assert configuration["max_steps"] == 7
        assert configuration["latent_dim"] == study.TOPICS


def test_predictive_chances_are_a_mean_over_draws(study):
    vae = build((5,), 3, likelihood=likelihoods.Multinomial)
    posts = torch.tensor([[1, 0, 3, 0, 0], [0, 0, 0, 0, 0]])
    p = study.predictive(vae, posts, draws=4000)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert np.array_equal(p, study.predictive(vae, posts, draws=4000))
    torch.manual_seed(1)
    z = vae.posterior(posts.float()).sample((4000,))
    expected = vae.likelihood.decoder(z)[..., 0, :].softmax(-1).mean(0)
    np.testing.assert_allclose(p, expected.detach().numpy(), atol=0.02)


def test_the_table(study):
    topic = [f"a{k} b{k}" for k in range(study.TOPICS)]
    lda = {
        "perplexity": 2000.0,
        "coherence": 0.2,
        "diversity": 0.9,
        "topics": topic,
        "topic_coherence": [0.5] * study.TOPICS,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": "0123456789abcdef",
    }
    vae = {**lda, "log_evidence": -500.0, "kl": 10.0, "epochs": 9, "perplexity": 1500.0}
    plain = {name: value for name, value in vae.items() if "topic" not in name}
    del plain["coherence"], plain["diversity"]
    results = {}
    for row, cell in (("lda", lda), ("topics_dirichlet", vae), ("multinomial", plain)):
        for seed in (0, 1):
            command = study.command_of(row, seed, 5000)
            results[f"{row}/{seed}"] = {"command": command, **cell}
    table = study.tables(results)
    assert "| LDA, scikit-learn, 20 topics | 2000 ± 0 | 0.200 ± 0.000 | 0.90 ± 0.00 |  |" in table
    assert "--only topics_dirichlet --steps 5000 --seeds S`, S = 0, 1 |" in table
    assert "| VAE, standard normal prior, mlp decoder | 1500 ± 0 |  |  | -500.00 ± 0.00 |" in table
    assert "- topic model, Dirichlet prior: perplexity -25.0% beside LDA's" in table
    assert "| a0 b0 (0.50) | a0 b0 (0.50) |" in table
    assert "a6 b6" not in table
    assert study.tables({}) == "No cell has been made yet."


def test_missing_data_are_an_error_in_one_line(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "nowhere"))
    assert study.main(["--only", "lda", "--results", str(tmp_path / "results.json")]) == 2
    assert capsys.readouterr().err.startswith("topics.py: error: ")
    with pytest.raises(SystemExit):
        study.main(["--only", "nonesuch"])
