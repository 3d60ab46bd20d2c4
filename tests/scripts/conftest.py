"""Fixtures of the tests of scripts: programs run in this process, on runs of two steps."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import sections
from analysis.representation import (
    fine_tuning,
    inputs,
    label_efficiency,
    out_of_distribution,
    robustness,
)
from analysis.sections import REPRESENTATION

ROOT = Path(__file__).parents[2]
# Two steps of a tiny model, without an evaluation.
SHORT = ("--max-steps", "2", "--network.hidden", "[8]", "--latent-dim", "2", "--evaluate", "none")


@pytest.fixture(scope="session")
def script():
    """Run a script in this process and return its exit code; `patches` replace its global names."""

    def run(name: str, *arguments: object, **patches: object) -> int:
        main = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))["main"]
        main.__globals__.update(patches)
        return main([str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def train(script):
    """Train for two steps into a directory, and return it."""

    def train(out: Path, *options: object) -> Path:
        assert script("svi_train", "--out", out, *SHORT, *options) == 0
        return out

    return train


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory) -> Path:
    """A run on the digits, which no test changes."""
    return train(tmp_path_factory.mktemp("trained") / "digits")


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it, to be written into."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def refused(script, capsys):
    """Run a script on bad input, and return the one line of its error."""

    def refused(name: str, *arguments: object, **patches: object) -> str:
        capsys.readouterr()
        assert script(name, *arguments, **patches) == 2
        error = capsys.readouterr().err
        (line,) = (
            line for line in error.split("\n") if line and "it/s" not in line and "/s]" not in line
        )
        assert line.startswith(f"{name}.py: error: ")
        return line

    return refused


@pytest.fixture
def contents():
    """The bytes of all files below a folder, by path."""

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return contents


@pytest.fixture
def small(monkeypatch):
    """The section `representation` with few draws and steps."""
    for module, name, value in (
        (label_efficiency, "FEW", (10,)),
        (label_efficiency, "REPEATS", 2),
        (fine_tuning, "TUNED", (20,)),
        (fine_tuning, "TUNING_STEPS", 2),
        (robustness, "CORRUPTED", 20),
        (robustness, "CORRUPTED_SAMPLES", 2),
        (out_of_distribution, "SCORED", 20),
        (out_of_distribution, "SCORED_SAMPLES", 30),
        (inputs, "TRAINING", 300),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def no_paths(monkeypatch):
    """Without the parts on paths and holes, which take longest and are tried with one run."""
    kept = [each for each in REPRESENTATION.checks if each.name not in ("interpolation", "holes")]
    section = replace(REPRESENTATION, checks=tuple(kept))
    monkeypatch.setitem(sections.SECTIONS, "representation", section)
