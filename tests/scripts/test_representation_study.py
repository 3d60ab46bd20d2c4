"""The study of representations: what it trains, and how its tables say what was measured."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.disentanglement.scores import SCORES
from analysis.representation.foreign_scores import DEFINITIONS
from analysis.representation.study_tables import probe, representation_tables
from pyro_vae.training.command_line import parse

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "representation.py"
MADE_BY = {"torch": "2.14", "pyro": "1.9.2", "git_commit": "0123456789abcdef"}


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="representation"))


def points(few):
    return [
        {"n": n, "all_labels": n == 50_000, "mean": few + step, "spread": 0.01, "repeats": 5}
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
        "measured_by": MADE_BY,
    }


def test_every_row_trains_by_options_that_there_are(study):
    for full in (False, True):
        for row, (_, model) in study.rows().items():
            if model != "data":
                parse(study.arguments_of(row, 3, full=full))


def test_the_tables(study):
    results = {
        "mnist:data/0": a_cell("mnist:data", 0, few=0.2),
        "mnist:vae/0": a_cell("mnist:vae", 0, log_evidence=-96.5, **measured(0.5, 0.25)),
        "mnist:vae/1": a_cell("mnist:vae", 1, log_evidence=-97.5, **measured(0.6, 0.25)),
        # Without a density, and so without log p(x) and four of the scores.
        "mnist:autoencoder/0": a_cell("mnist:autoencoder", 0, **measured(0.4, None)),
    }
    table = representation_tables(results)
    assert "| VAE | 155.0 ± 7.1 |" in table
    assert "-97.00 ± 0.71" in table
    (autoencoder,) = [line for line in table.splitlines() if line.startswith("| autoencoder |")]
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
    assert probe(results["mnist:vae/0"], None) == pytest.approx(3.5)
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
