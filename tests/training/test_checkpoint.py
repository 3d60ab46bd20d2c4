"""Saving when the disk will not take it: the previous checkpoint survives."""

import subprocess
import sys

import pytest

from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint, write_atomically

STATE = {"program": {}, "step": 1, "history": []}

FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from pyro_vae.training.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path(sys.argv[1]), {"program": {"w": torch.zeros(100_000)}, "step": 2, "history": []})
except OSError as error:
    print(error)
"""


def test_the_previous_checkpoint_survives_a_full_disk(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in answer.stdout
    assert load_checkpoint(path) == STATE
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_write_that_is_interrupted_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_files_have_the_usual_mode(tmp_path):
    write_atomically(tmp_path / "one", b"")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "other").stat().st_mode
