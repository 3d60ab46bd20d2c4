"""Few labels by the command line: trained, resumed, evaluated and refused."""

import json

import numpy as np
import pytest
import torch

from pyro_vae import load

FEW = ("--model", "semi_supervised", "--labelled", "20", "--batch-size", "300")
SMALL = (*FEW, "--network.hidden", "[8]", "--latent-dim", "2", "--compile", "graph")


def test_few_labels_train_and_resume_to_the_bit(script, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    options = (*SMALL, "--evaluate", "none", "--epochs", "3")
    assert script("svi_train", *options, "--out", once, "--max-steps", 8) == 0
    assert script("svi_train", *options, "--out", twice, "--max-steps", 3) == 0
    assert script("svi_train", "--resume", "--out", twice, "--max-steps", 8) == 0
    expected, found = (load(run).state_dict() for run in (once, twice))
    assert expected["labelled_x"].shape == (20, 1, 8, 8)
    assert torch.bincount(expected["labelled_y"]).tolist() == [2] * 10
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.slow
def test_few_labels_are_evaluated(script, tmp_path):
    run = tmp_path / "run"
    assert script("svi_train", *SMALL, "--out", run, "--epochs", 2, EVIDENCE_SAMPLES=5) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["accuracy"] <= 1
    assert metrics["active_units"] <= 2
    assert np.isfinite(metrics["log_evidence"])
    for name in ("class_reliability", "samples_by_class"):
        assert (run / "figures" / f"{name}.png").exists()


def test_wrong_numbers_of_labels_are_one_line(script, tmp_path, capsys):
    for number, message in ((5, "at least the number of classes, 10"), (2000, "at most")):
        words = (*FEW, "--labelled", number, "--out", tmp_path / "run")
        assert script("svi_train", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (200, 1, 8, 8)))
    assert script("svi_train", *FEW, "--data", tmp_path / "x.npy") == 2
    assert "needs the labels of training rows, got none" in capsys.readouterr().err
