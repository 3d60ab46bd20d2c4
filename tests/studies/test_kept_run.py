"""A run that a study keeps: made once, gone on with, and never taken for another."""

import pytest

from analysis import study
from pyro_vae.configuration.parser import parse
from pyro_vae.runs.run_directory import RunDirectory

SHORT = ("--max-steps", "2", "--seed", "3")


def test_a_kept_run_is_made_once_and_is_no_other(tmp_path, monkeypatch):
    calls = []

    def svi_train(words):
        calls.append(words)
        if "--resume" not in words:
            RunDirectory(words[-1]).create(parse(words))
        RunDirectory(words[-1]).write_metrics({})

    monkeypatch.setattr(study, "_run_svi_train", svi_train)
    run = RunDirectory(study.kept_run(tmp_path / "a" / "3", SHORT))
    study.kept_run(run.path, SHORT)
    assert calls == [[*SHORT, "--out", str(run.path)]]
    with pytest.raises(study.StudyError, match="holds a run by other arguments"):
        study.kept_run(run.path, [*SHORT[:-1], "4"])
    # Stopped before its evaluation was written.
    run.metrics.unlink()
    study.kept_run(run.path, SHORT)
    assert calls[1:] == [["--resume", "--out", str(run.path)]]
