"""Data without a finite log density, and rare labels: a run, its evaluation and diagnosis end well."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from analysis.representation.codes import LabelledCodes
from analysis.representation.label_efficiency import Baselines, label_efficiency
from analysis.representation.probes import linear_probe
from pyro_vae import build, likelihoods
from pyro_vae.evidence import defined_rows, evaluate, undefined_data

RNG = np.random.default_rng(0)


def test_data_beyond_float32_are_named_and_leave_the_others():
    torch.manual_seed(0)
    vae = build((6,), 2, likelihood=partial(likelihoods.StudentT, scale="fixed"))
    x = torch.randn(20, 6)
    x[3, 1], x[7, 2] = 1e20, torch.inf
    assert np.flatnonzero(~defined_rows(vae, x)).tolist() == [3, 7]
    found = evaluate(vae, x, num_samples=30)
    assert found.undefined.tolist() == [3, 7]
    summary = found.summary()
    assert summary["log_evidence"] is None
    json.dumps(summary, allow_nan=False)
    assert np.isfinite(found.kl_by_dimension).all()
    known = np.setdiff1d(np.arange(20), found.undefined)
    alone = found.select(known)
    assert np.isfinite(alone.importance_weighting.mean_log_evidence)
    assert len(alone.importance_weighting.curve[0]) == 18
    said = undefined_data(np.arange(7), 20, "test data")
    assert "for 7 of 20 test data, rows 0, 1, 2, 3, 4 and 2 more" in said


def test_the_best_of_the_baselines_may_be_any_and_classes_may_be_rare():
    labels = np.r_[np.arange(3).repeat(30), 3]
    codes = np.eye(4)[labels] + 0.01 * RNG.normal(size=(91, 4))
    noise = RNG.normal(size=(91, 4))
    test = np.r_[labels, 9]
    good, bad = (
        label_efficiency(
            LabelledCodes(z, labels), LabelledCodes(np.r_[z, z[:1]], test), sizes=(10, 50)
        )
        for z in (codes, noise)
    )
    reading = Baselines(bad, {"raw data": bad, "untrained encoder": good}).reading()
    assert "untrained encoder is better" in reading
    probe = linear_probe(
        LabelledCodes(codes, labels), LabelledCodes(np.r_[codes, codes[:1]], test)
    )
    assert probe.unseen_labels == (9,)
    assert "missing from the training data (9)" in probe.reading()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_run_with_fill_values_ends_with_its_files(script, tmp_path, capsys):
    x = RNG.normal(size=(400, 6)).astype(np.float32)
    x[[3, 50, 200], 1] = 1e20
    labels = RNG.integers(0, 3, 400)
    labels[[5, 9]] = 7, 8
    np.savez(tmp_path / "x.npz", x=x, y=labels)
    run = tmp_path / "run"
    options = ["--likelihood", "student_t", "--data.scale", "none", "--max-steps", 60]
    options += ["--data.check", "warn"]
    code = script(
        "svi_train", "--data", tmp_path / "x.npz", "--out", run, "--evaluate", "quick", *options
    )
    assert code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["log_evidence"] is None
    assert (run / "figures" / "kl_by_dimension.png").exists()
    assert "log p(x) is not defined" in (run / "train.log").read_text()
    capsys.readouterr()
    words = ["--samples", 50, "--images", 100]
    chains = ["--annealed-images", 20, "--temperatures", 5, "--simulated", 4, "--chains", 2]
    assert script("evaluate", run, *words, *chains) == 0
    assert "log p(x) is not defined" in capsys.readouterr().out
    assert script("diagnose", run, *words, "--only", "elbo") == 0
    assert "left out: log p(x) is not defined" in capsys.readouterr().out
