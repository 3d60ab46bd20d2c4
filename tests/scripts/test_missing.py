"""Data with missing values in every script, and figures and scores of a run."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from pyro_vae import load

FEW = ("--images", 10, "--annealed-images", 2, "--samples", 10, "--simulated", 2)
FEW += ("--chains", 2, "--temperatures", 5, "--gap-steps", 5)
QUICK = ("--max-steps", "30", "--batch-size", "40", "--compile", "graph")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with empty cells, two rows of which are empty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(120, 5))
    x[rng.random(x.shape) < 0.2] = np.nan
    x[[3, 50]] = np.nan
    path = tmp_path_factory.mktemp("data") / "table.csv"
    # An empty line would be left out.
    pd.DataFrame(x, columns=list("abcde")).to_csv(path, index=False, na_rep="NaN")
    return path


def test_a_table_with_empty_cells_in_every_script(script, table, tmp_path, capsys):
    main = partial(script, "svi_train", EVIDENCE_SAMPLES=20)
    assert main("--data", table, "--out", tmp_path / "refused", *QUICK) == 2
    assert "train with --model missing" in capsys.readouterr().err
    out = tmp_path / "run"
    given = ("--model", "missing", "--likelihood", "normal", "--data", table, "--out", out)
    assert main(*given, *QUICK) == 0
    assert main("--resume", "--out", out, "--max-steps", "40") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 40
    assert metrics["bits_per_dim"] is None
    assert metrics["missing_share"] == pytest.approx(0.2, abs=0.06)
    assert 0.5 < metrics["imputation_coverage_90"] <= 1
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"imputations", "imputation_coverage", "reconstructions"} <= figures
    assert "predictive_check" not in figures
    capsys.readouterr()
    methods = ("importance_weighting", "annealing", "two_sided", "gaps")
    assert script("evaluate", out, "--methods", *methods, *FEW) == 0
    assert script("encode", out, "--data", table) == 0
    few = ("--images", 10, "--samples", 25)
    assert script("diagnose", out, "--only", "elbo", *few) == 0
    assert script("diagnose", out, "--only", "predictive", *few) == 2
    assert "not defined for data with missing values" in capsys.readouterr().err
    program = load(out)
    filled = program.impute(table, seed=0)
    assert filled.shape == (120, 5)
    assert not filled.isna().to_numpy().any()


def test_values_are_removed_from_a_complete_set(script, tmp_path):
    out = tmp_path / "run"
    options = ("--model", "missing", "--missing-rate", "0.3", "--latent-dim", "3")
    main = partial(script, "svi_train", EVIDENCE_SAMPLES=20, QUICK_EXAMPLES=60)
    assert main(*options, "--out", out, *QUICK) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["missing_share"] == pytest.approx(0.3, abs=0.02)
    assert metrics["imputed_values"] == pytest.approx(0.3 * 60 * 64, rel=0.05)
    assert metrics["imputation_rmse"] < 1.5
    assert (out / "figures" / "imputations.png").exists()


def test_a_rate_is_an_option_of_this_model_alone(script, tmp_path, capsys):
    main = partial(script, "svi_train")
    assert main("--missing-rate", "0.3", "--out", tmp_path / "run") == 2
    assert "unknown option --missing-rate" in capsys.readouterr().err
    options = ("--model", "missing", "--out", tmp_path / "run")
    assert main(*options, "--missing-rate", "1") == 2
    assert "missing_rate must be at least 0 and below 1" in capsys.readouterr().err
