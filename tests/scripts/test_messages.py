"""What the programs say of wrong command lines: one line, exit code 2, and nothing written."""

import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = ["--network.hidden", "8", "--evaluate", "none", "--max-steps", "1"]


def main(program: str, *arguments: str | Path) -> int:
    path = ROOT / "scripts" / f"{program}.py"
    return runpy.run_path(str(path))["main"]([str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run, and data of one's own."""
    path = tmp_path_factory.mktemp("messages")
    assert main("svi_train", "--out", path / "run", *SMALL) == 0
    np.save(path / "x.npy", np.random.default_rng(0).normal(size=(60, 6)))
    np.save(path / "grey.npy", 255 * np.random.default_rng(0).random((40, 8, 8)))
    (path / "pictures").mkdir()
    for i in range(12):
        pixels = np.full((8, 8, 4), 20 * i, np.uint8)
        Image.fromarray(pixels, "RGBA").save(path / "pictures" / f"{i:02}.png")
    return path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
            "that were scaled or interpolated: save x / 255, which is unit data (--likelihood logit_normal)",
        ),
        ("svi_train --epochs -1", "epochs must be at least 0, got -1"),
        ("svi_train --out run", "run holds a run already: --resume goes on with it"),
        ("svi_train --resume --out nowhere", "no run to go on with at nowhere"),
        ("svi_train --resume --out run --lr 1", "--lr cannot change when a run is resumed"),
        ("diagnose", "RUN is needed"),
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
def test_wrong_command_lines(folder, monkeypatch, capsys, line, message):
    monkeypatch.chdir(folder)
    before = contents(folder)
    capsys.readouterr()
    assert main(*shlex.split(line)) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith(f"{line.split()[0]}.py: error: ")
    assert message in said
    assert contents(folder) == before


def test_what_a_plan_does_is_said(tmp_path, capsys):
    options = ["--network.hidden", "8", "--evaluate", "none", "--out", tmp_path / "run"]
    assert main("svi_train", *options, "--epochs", "0", "--batch-size", "5000") == 0
    said = capsys.readouterr().out
    assert "--epochs 0 trains nothing: the model is evaluated as it starts" in said
    assert "a batch of 5,000 is larger than the 1,257 training rows: each step takes all" in said
    # Resumed, it trains.
    assert main("svi_train", "--resume", "--out", tmp_path / "run", "--epochs", "1") == 0
    assert "epoch 1; train: elbo" in capsys.readouterr().out
