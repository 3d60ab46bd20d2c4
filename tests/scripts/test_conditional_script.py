"""Covariates by the command line: from labels, from a column of cells, from a column of a table."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import load

MODEL = ("--model", "conditional", "--network.hidden", "[8]", "--latent-dim", "2")
UNTRAINED = (*MODEL, "--max-steps", "2", "--evaluate", "none")


def test_conditional_trains_and_resumes_to_the_bit(script, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    options = (*MODEL, "--batch-size", "300", "--compile", "graph", "--evaluate", "none")
    assert script("svi_train", *options, "--out", once, "--max-steps", 8) == 0
    assert script("svi_train", *options, "--out", twice, "--max-steps", 3) == 0
    assert script("svi_train", "--resume", "--out", twice, "--max-steps", 8) == 0
    program, other = load(once), load(twice)
    for name, value in program.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert program.covariates.categories(0) == [*range(10)]
    # Classes by name, and grey levels that were binarised as probabilities.
    assert program.sample(2, y="3", seed=0).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"y must be one of 0, 1, 2, .* got 'ten'"):
        program.sample(2, y="ten")


def test_a_number_of_a_table(script, tmp_path):
    rng = np.random.default_rng(0)
    age = rng.normal(50, 10, 200)
    table = np.column_stack([rng.normal(size=(200, 3)) + age[:, None] / 10, age])
    file, run = tmp_path / "x.csv", tmp_path / "run"
    np.savetxt(file, table, delimiter=",", header="a,b,c,age", comments="")
    options = ("--data", file, "--data.label", "age", "--out", run)
    assert script("svi_train", *UNTRAINED, *options) == 0
    program = load(run)
    # Of the training rows, which are 70 % of all.
    assert abs(float(program.covariates.value) - age.mean()) < 3
    x = pd.read_csv(file)[["a", "b", "c"]][:4]
    assert list(program.counterfactual(x, age[:4], 60.0).columns) == ["a", "b", "c"]


@pytest.mark.slow
def test_conditional_is_evaluated(script, tmp_path):
    run = tmp_path / "run"
    assert script("svi_train", *MODEL, "--out", run, "--max-steps", 5, EVIDENCE_SAMPLES=5) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["covariate_accuracy"] <= 1
    assert np.isfinite(metrics["log_evidence"])
    for name in ("samples_by_condition", "counterfactuals"):
        assert (run / "figures" / f"{name}.png").exists()


def test_a_column_of_cells(script, tmp_path):
    import anndata

    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (120, 5)).astype(np.float32)
    obs = pd.DataFrame({"batch": np.array(["north", "south"])[np.arange(120) % 2]})
    obs.index = obs.index.astype(str)
    file, run = tmp_path / "cells.h5ad", tmp_path / "run"
    anndata.AnnData(counts, obs=obs).write_h5ad(file)
    options = ("--data", file, "--data.label", "batch", "--out", run)
    assert script("svi_train", *UNTRAINED, *options, "--dispersion-by-category", "true") == 0
    program = load(run)
    assert (program.size_factor, program.dispersion_by_category) == (True, True)
    south = program.sample(3, y="south", size=100, seed=0)
    np.testing.assert_allclose(np.asarray(south).sum(1), 100, rtol=1e-4)


def test_bad_input_is_one_line(refused, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (200, 1, 8, 8)))
    for options, message in (
        (("--data", tmp_path / "x.npy"), "the data have no labels"),
        (("--size-factor", "true"), "Bernoulli is not one of counts"),
        (("--dispersion-by-category", "true"), "Bernoulli has no dispersion"),
        (("--categorical", "[3]"), "columns of y from 0 to 0, got 3"),
    ):
        assert message in refused("svi_train", *UNTRAINED, *options, "--out", tmp_path / "run")
