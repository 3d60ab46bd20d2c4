"""Resumed runs: extended to the same parameters as longer runs, with the latest plan."""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from pyro_vae.training.checkpoint import load_checkpoint

SMALL = ["--network.hidden", "[8]", "--batch-size", "400", "--compile", "off"]


@pytest.fixture
def main(script):
    return partial(script, "svi_train")


@pytest.fixture
def train(main):
    def train(out: Path, *options: str | int) -> None:
        assert main("--out", out, *SMALL, "--evaluate", "none", *options) == 0

    return train


def same_parameters(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(out / "checkpoint.pt") for out in (one, other))
    assert first["step"] == second["step"]
    for name, value in first["program"].items():
        assert (value == second["program"][name]).all(), name
    for name, value in (first["best"] or {}).items():
        assert (value == second["best"][name]).all(), name
    assert first["best_epoch"] == second["best_epoch"]


@pytest.mark.parametrize("options", [[], ["--early-stopping", "50", "--lr", "0.05"]])
def test_an_extended_run_is_the_longer_run(main, train, tmp_path, options):
    """Also where the best parameters were kept: it goes on from the latest ones, and keeps the best."""
    straight, out = tmp_path / "straight", tmp_path / "out"
    train(straight, "--epochs", 7, *options)
    train(out, "--epochs", 4, *options)
    assert main("--resume", "--out", out, "--epochs", 7) == 0
    same_parameters(straight, out)
    assert yaml.safe_load((out / "config.yaml").read_text())["epochs"] == 7
    assert (out / "config.yaml").read_text() == (straight / "config.yaml").read_text()


def test_a_bare_resume_keeps_the_latest_plan(main, train, contents, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--epochs", 1)
    assert main("--resume", "--out", out, "--epochs", 3) == 0
    before = contents(out)
    capsys.readouterr()
    assert main("--resume", "--out", out) == 0
    assert "nothing left to train: it has trained its 3 epochs; --epochs N above 3" in (
        capsys.readouterr().out
    )
    assert {p: c for p, c in contents(out).items() if not p.endswith(".log")} == {
        p: c for p, c in before.items() if not p.endswith(".log")
    }


def test_a_finished_run_is_evaluated_once(main, train, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--epochs", 1)
    for options, evaluates in (
        (["--evaluate", "quick"], True),
        ([], False),
        # All 360 rows of the test data were evaluated.
        (["--evaluate", "full"], False),
        (["--epochs", "2"], True),
    ):
        capsys.readouterr()
        assert main("--resume", "--out", out, *options, EVIDENCE_SAMPLES=2) == 0
        assert ("log p(x)" in capsys.readouterr().out) == evaluates, options
    assert json.loads((out / "metrics.json").read_text())["epochs"] == 2
    # An evaluation that was stopped before its figures is made again.
    (out / "figures").rename(tmp_path / "figures")
    assert main("--resume", "--out", out, EVIDENCE_SAMPLES=2) == 0
    assert "log p(x)" in capsys.readouterr().out


def test_a_run_that_stopped_early_goes_on_with_more_patience(
    main, train, contents, tmp_path, capsys
):
    straight, out = tmp_path / "straight", tmp_path / "out"
    # So high a rate that validation gets worse at once.
    noisy = ["--lr", "2", "--epochs", 12]
    train(straight, *noisy, "--early-stopping", 7)
    train(out, *noisy, "--early-stopping", 1)
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["stopped_early"]
    assert state["step"] < load_checkpoint(straight / "checkpoint.pt")["step"]
    before = contents(out)
    assert main("--resume", "--out", out, "--epochs", 20) == 2
    assert "it stopped early after epoch" in capsys.readouterr().err
    assert contents(out) == before
    assert main("--resume", "--out", out) == 0
    assert "--early-stopping N above 1 continues" in capsys.readouterr().out
    assert main("--resume", "--out", out, "--early-stopping", 7) == 0
    same_parameters(straight, out)
    assert yaml.safe_load((out / "config.yaml").read_text())["early_stopping"] == 7


def test_max_steps_and_epochs_end_a_run_each(main, train, contents, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--epochs", 3, "--max-steps", 5)
    for options, message in (
        (["--epochs", 9], "it has trained its 5 steps; --max-steps N above 5, or null for all 9"),
        (["--max-steps", 3], "the run has trained 5 steps, and --max-steps 3 is 3"),
        (
            ["--epochs", 1],
            "the run has trained 5 steps, and --epochs 1 is 4: give at least as many",
        ),
    ):
        before = contents(out)
        assert main("--resume", "--out", out, *options) == 2
        assert message in capsys.readouterr().err
        assert contents(out) == before
    assert main("--resume", "--out", out, "--max-steps", "null") == 0
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 12


def test_a_schedule_tied_to_length(main, train, tmp_path, capsys):
    """More steps of the same epochs are none of its business; more epochs are another schedule."""
    straight, out = tmp_path / "straight", tmp_path / "out"
    options = ["--lr-schedule", "cosine", "--epochs", 3]
    train(straight, *options)
    train(out, *options, "--max-steps", 5)
    assert main("--resume", "--out", out, "--max-steps", "null") == 0
    same_parameters(straight, out)
    capsys.readouterr()
    assert main("--resume", "--out", out, "--epochs", 5) == 2
    assert f"start a new run with --config {out}/config.yaml --epochs 5" in capsys.readouterr().err
    assert main("--resume", "--out", out) == 0
    assert (
        "--lr-schedule cosine has ended: a longer training is a new run" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("trained", "resumed", "way_out"),
    [([], "5", "leave it out"), (["--early-stopping", "5"], "null", "give a large number")],
)
def test_parameters_that_were_not_kept_are_not_asked_for(
    main, train, contents, tmp_path, capsys, trained, resumed, way_out
):
    """A weighted objective keeps the best parameters for early stopping alone."""
    out = tmp_path / "run"
    train(out, "--epochs", 1, "--objective", "beta", "--objective.beta", "4", *trained)
    before = contents(out)
    assert main("--resume", "--out", out, "--early-stopping", resumed) == 2
    assert way_out in capsys.readouterr().err
    assert contents(out) == before


def test_early_stopping_is_turned_off_where_the_best_parameters_are_kept(main, train, tmp_path):
    straight, out = tmp_path / "straight", tmp_path / "out"
    noisy = ["--lr", "2", "--epochs", 6]
    train(straight, *noisy, "--early-stopping", "null")
    train(out, *noisy, "--early-stopping", 1)
    assert load_checkpoint(out / "checkpoint.pt")["stopped_early"]
    assert main("--resume", "--out", out, "--early-stopping", "null") == 0
    same_parameters(straight, out)


def test_epochs_that_were_left_to_the_number_of_rows(main, train, tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--max-steps", 4)
    assert main("--resume", "--out", out, "--max-steps", 8) == 0
    assert main("--resume", "--out", out) == 0
    assert "above 8, or null for all 100 epochs" in capsys.readouterr().out
    assert main("--resume", "--out", out, "--max-steps", "null", "--epochs", 3) == 0
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 12
