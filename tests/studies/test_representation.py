"""The study of representations: what it trains, and how its tables say what was measured."""

import argparse
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.disentanglement.scores import SCORES
from analysis.representation.ood_scores import DEFINITIONS
from analysis.representation.study import probe, representation_tables
from pyro_vae.configuration.parser import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "representation.py"
MADE_BY = {"torch": "2.14", "pyro": "1.9.2", "git_commit": "0123456789abcdef"}


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="representation"))


def points(few):
    return [
        {"n": n, "all_labels": n == 50_000, "mean": few + step / 8, "spread": 0.01, "repeats": 5}
        for step, n in enumerate((10, 100, 1000, 50_000))
    ]


def a_cell(row, seed, few=0.1, **more):
    command = f"python scripts/studies/representation.py --only {row} --seeds {seed}"
    return {
        "command": command,
        "probe": points(few),
        "neighbours": 0.9,
        "clustering": {"nmi": 0.5, "accuracy": 0.6},
        **MADE_BY,
        **more,
    }


def measured(few, foreign):
    return {
        "probe": points(few),
        "robustness": {"area": {"accuracy": few, "latent_shift": 0.7}},
        "foreign": {"fashion_mnist": dict.fromkeys(DEFINITIONS, foreign)},
        "continuity": {
            **dict.fromkeys(("middle_below", "cross_fade_below", "model_draws_below"), foreign),
            "hole_share": 0.02,
            "told_from_prior": 0.6,
        },
        "uncertainty": None if foreign is None else {"salt": {"scale": 0.7, "error": 3.4}},
        "measured_by": MADE_BY,
    }


def test_every_row_trains_by_options_that_there_are(study):
    for full in (False, True):
        options = argparse.Namespace(full=full, max_steps=None)
        for data, models in (("mnist", study.MODELS), ("dsprites", study.OBJECTIVES)):
            for model in models:
                parse(study.words_of(data, model, 3, options))


def test_the_tables(study):
    results = {
        "mnist:data/0": a_cell("mnist:data", 0, few=0.2),
        "mnist:vae/0": a_cell("mnist:vae", 0, log_evidence=-96.5, **measured(0.5, 0.25)),
        "mnist:vae/1": a_cell("mnist:vae", 1, log_evidence=-97.5, **measured(0.6, 0.25)),
        # Without a density, and so without log p(x) and four of the scores.
        "mnist:autoencoder/0": a_cell("mnist:autoencoder", 0, **measured(0.4, None)),
    }
    table = representation_tables(results)
    assert "| VAE | 67.5 ± 7.1 |" in table
    assert "-97.00 ± 0.71" in table
    autoencoder, _ = [line for line in table.splitlines() if line.startswith("| autoencoder |")]
    assert "not defined" in autoencoder
    (pixels,) = [line for line in table.splitlines() if line.startswith("| the pixels")]
    assert "| - | - | - |" in pixels
    assert (
        "VAE above the pixels, probe with 100 labels: +35.0 points (by seed +30.0, +40.0)" in table
    )
    assert (
        "VAE above the autoencoder, probe with 100 labels: +10.0 points (by seed +10.0)" in table
    )
    assert "| MNIST, VAE | 0.25 ± 0.00 |" in table
    assert probe(results["mnist:vae/0"], None) == pytest.approx(0.875)
    assert "accuracy kept under corruption: +10.0 points (by seed +10.0)" in table
    space = [line for line in table.splitlines() if line.count("|") == 11]
    # Shares in %, and what is not defined of a guide without a density.
    assert (
        "| VAE | 25 ± 0 | 25 ± 0 | 25 ± 0 | 2 ± 0 | 0.60 ± 0.00 | 0.70 ± 0.00 | 3.40 ± 0.00 | not"
        in "".join(space)
    )
    assert "| autoencoder | not defined | not defined | not defined | 2 | 0.60 | not" in "".join(
        space
    )
    assert representation_tables({}) == "No cell has been made yet."


def test_the_table_of_sprites():
    scores = {
        key: dict.fromkeys(SCORES, value)
        for key, value in (("scores", 0.3), ("best", 0.9), ("chance", 0.1))
    }
    cell = a_cell("dsprites:elbo", 0, disentanglement=scores, log_evidence=-20.0)
    table = representation_tables({"dsprites:elbo/0": cell})
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[2].startswith("| VAE | 0.30 | 0.30 |")
    assert lines[3].startswith("| a perfect code | 0.90 |")
    assert lines[4].startswith("| noise | 0.10 |")


def test_the_table_of_seeds_that_agree():
    correlation = {"rho": 0.5, "n": 6, "p_value": 0.04}
    group = {"models": 3, "score": 0.4, "spread": 0.1, "rotated": 0.2, "noise": 0.01}
    cell = a_cell("dsprites:selection", "0 1 2")
    cell |= {
        "by_group": {"elbo": group, "beta": {**group, "spread": None}},
        "agreement": {"overall": correlation, "within": {**correlation, "rho": None}},
    }
    table = representation_tables({"dsprites:selection/2": cell})
    assert "| VAE | 0.40 | 0.10 | 0.20 | 0.01 | 3 |" in table
    assert "| beta-VAE, beta 4 | 0.40 | not defined |" in table
    assert "Over all models, rank correlation 0.50, n = 6, p = 0.04" in table
    assert "among seeds of one objective, rank correlation not defined" in table


def test_a_selection_needs_two_seeds(study, tmp_path, capsys):
    results = tmp_path / "results.json"
    words = ["--only", "dsprites:selection", "--results", str(results), "--runs", str(tmp_path)]
    assert study.STUDY.main(words) == 1
    assert "a selection needs two seeds of one objective" in capsys.readouterr().err
    assert not results.exists()
