"""Messages about wrong command lines: one line, exit code 2, and nothing is written."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def folder(trained, tmp_path_factory) -> Path:
    """A run, and files of data."""
    path = tmp_path_factory.mktemp("messages")
    shutil.copytree(trained, path / "run")
    np.save(path / "x.npy", np.random.default_rng(0).normal(size=(60, 6)))
    np.save(path / "grey.npy", 255 * np.random.default_rng(0).random((40, 8, 8)))
    (path / "pictures").mkdir()
    for i in range(12):
        pixels = np.full((8, 8, 4), 20 * i, np.uint8)
        Image.fromarray(pixels, "RGBA").save(path / "pictures" / f"{i:02}.png")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "svi_train --epoch 3",
            "unknown option --epoch: did you mean --epochs? allowed are --agg",
        ),
        ("svi_train --prior vmap", "got 'vmap'; did you mean vamp?"),
        ("svi_train --data mnits", "got 'mnits'; did you mean mnist?"),
        ("svi_train --data x.txt", "there is no x.txt"),
        (
            "svi_train --data pictures",
            "--data.channels 4 (in Python, channels=4) keeps the opacity",
        ),
        (
            "svi_train --data grey.npy --likelihood bernoulli",
            "save x / 255, which is unit data (--likelihood logit_normal)",
        ),
        ("svi_train --epochs -1", "epochs must be at least 0, got -1"),
        ("svi_train --out run", "run holds a run already: --resume continues it"),
        ("svi_train --resume --out nowhere", "no run to continue at nowhere"),
        ("svi_train --resume --out run --lr 1", "--lr cannot change when a run is resumed"),
        ("diagnose", "missing RUN, the run directory"),
        ("diagnose nowhere", "no run at nowhere"),
        (
            "diagnose run --split tset",
            "--split must be one of test, validation, got 'tset'; did you",
        ),
        (
            "diagnose run --image 3",
            "unknown option --image: did you mean --images? allowed are RUN",
        ),
        (
            "diagnose run --images many",
            "--images must be all, or a whole number of at least 1, got",
        ),
        ("diagnose run --only elbo pti", "got 'pti'; did you mean pit?"),
        ("diagnose run --only representation --against mnits", "--against must be one of digits"),
        ("evaluate run other", "unexpected argument other: one RUN is allowed"),
        ("evaluate run --methods anealing", "got 'anealing'; did you mean annealing?"),
        ("evaluate run --split", "--split needs a value"),
        (
            "evaluate run --data x.npy",
            "data of shape (1, 8, 8), and those of x have the shape (6,)",
        ),
        ("encode run --output codes.npz", "unknown option --output: did you mean --out?"),
        ("encode run --device gpu", "--device must be one of auto, cpu, cuda, got 'gpu'"),
        ("encode run --data.layout image", "it is an option of --data array_file, variable_file"),
    ],
)
def test_wrong_command_lines(folder, monkeypatch, refused, contents, line, message):
    monkeypatch.chdir(folder)
    before = contents(folder)
    assert message in refused(*shlex.split(line))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["diagnose", "evaluate", "encode", "sample", "score"])
def test_a_wrong_run(run, refused, monkeypatch, name):
    assert "no run at" in refused(name, run / "none")
    assert not (run / "none").exists()
    assert "got the file" in refused(name, run / "config.yaml")
    assert "missing RUN" in refused(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch found none" in refused(name, run, "--device", "cuda")
    (run / "checkpoint.pt").write_bytes(b"PK")
    assert "cut short" in refused(name, run)


def test_notes_about_a_plan(script, tmp_path, capsys):
    options = ["--network.hidden", "8", "--evaluate", "none", "--out", tmp_path / "run"]
    assert script("svi_train", *options, "--epochs", "0", "--batch-size", "5000") == 0
    said = capsys.readouterr().out
    assert "--epochs 0 trains nothing: the model is evaluated at its initialization" in said
    assert "a batch of 5,000 is larger than the 1,257 training rows: each step takes all" in said
    # Resumed, it trains.
    assert script("svi_train", "--resume", "--out", tmp_path / "run", "--epochs", "1") == 0
    assert "epoch 1; train: elbo" in capsys.readouterr().out
