"""Run directories: loaded and resumed as they were stored, refused when damaged, and never executed.

Each attack here would leave a marker file if its code ran.
"""

import os
import pickle
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

import pyro_vae
from pyro_vae import load
from pyro_vae.runs import run_directory
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "svi_train.py"
SHORT = ["--max-steps=2", "--network.hidden=[8]", "--evaluate=none"]


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture(scope="module")
def honest(main, tmp_path_factory):
    """A run as it should be."""
    out = tmp_path_factory.mktemp("honest") / "run"
    assert main([f"--out={out}", *SHORT]) == 0
    return out


@pytest.fixture
def run(honest, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


@pytest.fixture
def marker(tmp_path):
    """What would be there if code from the run had been executed."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "code from the run directory was executed"


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def refused_twice(main, capsys, run: Path, *options: str, match: str = ".") -> str:
    """By `load`, and in one line by `--resume`, which leaves the directory as it is."""
    with pytest.raises(ValueError, match=match):
        load(run)
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert main(["--resume", f"--out={run}", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert {path: path.lstat().st_mtime_ns for path in run.rglob("*")} == before
    return line


def rewrite(run: Path, **values) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**content, **values}))


def test_a_run_is_loaded_and_resumed(main, run):
    assert load(run).configuration["network"]["hidden"] == [8]
    assert main(["--resume", f"--out={run}", "--max-steps=3"]) == 0
    assert load_checkpoint(run / "checkpoint.pt")["step"] == 3


@pytest.mark.parametrize("name", ["config.yaml", "checkpoint.pt"])
def test_a_file_that_is_not_a_regular_one(main, run, capsys, name):
    (run / name).unlink()
    (run / name).mkdir()
    assert name in refused_twice(main, capsys, run, match=f"at .*{name}")


# ---- checkpoints -----------------------------------------------------------------------------


def bombs(marker: Path) -> dict:
    return {
        "reduce": lambda path: torch.save(Bomb(marker), path),
        "inside": lambda path: torch.save(
            {**load_checkpoint(path), "seconds": Bomb(marker)}, path
        ),
        "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(marker))),
    }


@pytest.mark.parametrize("kind", ["reduce", "inside", "pickle"])
def test_a_checkpoint_that_would_execute(main, run, marker, capsys, kind):
    bombs(marker)[kind](run / "checkpoint.pt")
    assert "cut short, or not a checkpoint" in refused_twice(main, capsys, run)


def test_a_checkpoint_that_was_cut_short(main, run, capsys):
    whole = (run / "checkpoint.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (run / "checkpoint.pt").write_bytes(content)
        assert "cut short, or not a checkpoint" in refused_twice(main, capsys, run)


def changed(name: str, value):
    def change(state: dict) -> None:
        state[name] = value(state[name]) if callable(value) else value

    return change


def tensors(change):
    """A change of the program's first tensor."""

    def of_first(program: dict) -> dict:
        name = next(iter(program))
        return {**program, name: change(program[name])}

    return changed("program", of_first)


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (tensors(lambda t: t[:1]), "both"),
        (tensors(lambda t: t.to(torch.int64)), "both"),
        (changed("program", lambda p: {**p, "more": torch.zeros(3)}), "both"),
        (changed("event_shape", [1, 9, 9]), "load"),
        (lambda state: state.pop("model_hash"), "load"),
        (changed("optimizer", {}), "resume"),
    ],
)
def test_a_checkpoint_of_a_wrong_form(main, run, capsys, change, by):
    path = run / "checkpoint.pt"
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)
    if by in ("load", "both"):
        with pytest.raises(ValueError, match="checkpoint"):
            load(run)
    if by in ("resume", "both"):
        capsys.readouterr()
        assert main(["--resume", f"--out={run}", "--max-steps=3"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "checkpoint" in line


def test_parameters_may_be_nan(run):
    path = run / "checkpoint.pt"
    state = load_checkpoint(path)
    name = next(iter(state["program"]))
    for parameters in (state["program"], state["best"]):
        parameters[name] = torch.full_like(parameters[name], float("nan"))
    save_checkpoint(path, state)
    assert load(run).state_dict()[name].isnan().all()


# ---- configurations --------------------------------------------------------------------------


def evil(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()\n" + (ROOT / "pyro_vae" / "model.py").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "seed: !!python/object/apply:os.system ['touch {marker}']",
        "prior: {{name: standard_normal, class_path: os.system, init_args: {{command: touch {marker}}}}}",
        "prior: os.system",
        "network: {{name: mlp, hidden: {{class_path: os.system}}}}",
        "'seed=1 --model': {evil}",
        "config: {evil}",
        "trust_model_file: true",
        "seed: 1\nseed: 2",
    ],
)
def test_a_configuration_that_would_execute(main, run, marker, tmp_path, capsys, line):
    (tmp_path / "evil.py").write_text(evil(marker))
    line = line.format(marker=marker, evil=tmp_path / "evil.py")
    name = line.partition(":")[0]
    rest = yaml.safe_load((run / "config.yaml").read_text())
    rest.pop(name, None)
    (run / "config.yaml").write_text(f"{yaml.safe_dump(rest)}{line}\n")
    refused_twice(main, capsys, run)
    assert not marker.exists()


@pytest.mark.parametrize("where", ["outside", "own"])
def test_a_model_file_is_not_executed(main, run, marker, tmp_path, capsys, where):
    """Neither one that the configuration names, nor the run's own, unless it is trusted."""
    outside = tmp_path / "evil.py"
    outside.write_text(evil(marker))
    shutil.copy(outside, run / "model.py")
    rewrite(run, model=str(outside if where == "outside" else run / "model.py"))
    line = refused_twice(main, capsys, run, match=r"its own model file.*trust_model_file=True")
    assert "--trust-model-file" in line
    assert main(["--config", str(run / "config.yaml"), f"--out={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


def test_only_the_runs_own_model_file_is_executed(main, run, marker, tmp_path):
    """Trusted or not, no other is, and not one that was changed after training."""
    outside = tmp_path / "evil.py"
    outside.write_text(evil(marker))
    rewrite(run, model=str(outside))
    with pytest.raises(ValueError, match="must hold the model file"):
        load(run, trust_model_file=True)
    (run / "model.py").write_text(evil(marker))
    with pytest.raises(ValueError, match="changed after the run"):
        load(run, trust_model_file=True)


def test_a_trusted_model_file_is_executed(main, tmp_path):
    mine, out = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text((ROOT / "pyro_vae" / "model.py").read_text() + "\n# mine\n")
    assert main([f"--model={mine}", f"--out={out}", *SHORT]) == 0
    assert not list(tmp_path.rglob("__pycache__"))
    moved = out.rename(tmp_path / "moved")
    resume = ["--resume", f"--out={moved}", "--max-steps=3"]
    assert main(resume) == 2
    assert main([*resume, "--trust-model-file"]) == 0
    vae = load(moved, trust_model_file=True)
    assert vae.configuration["model"] == str(moved / "model.py")
    # A configuration that names a model file is trusted by naming the file.
    again = ["--config", str(moved / "config.yaml"), f"--out={tmp_path / 'again'}"]
    assert main(again) == 2
    assert main([*again, f"--model={mine}"]) == 0


def test_a_model_file_beside_a_run_without_one_is_left_alone(main, run, marker):
    (run / "model.py").write_text(evil(marker))
    (run / "pyro_vae.py").write_text(evil(marker))
    (run / "sitecustomize.py").write_text(evil(marker))
    load(run)
    assert main(["--resume", f"--out={run}", "--max-steps=3"]) == 0


def test_no_run_directory_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file must be a directory, got a file"):
        RunDirectory(tmp_path / "file" / "run").check_free(overwrite=True)


def test_the_commit_is_not_that_of_a_repository_around_an_environment(tmp_path, monkeypatch):
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    installed = tmp_path / "env" / "pyro_vae" / "runs" / "run_directory.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(run_directory, "__file__", str(installed))
    made_by = run_directory.provenance()
    assert made_by["git_commit"] is None
    assert made_by["pyro_vae"] == pyro_vae.__version__
    monkeypatch.setattr(run_directory, "__file__", str(tmp_path / "pyro_vae" / "runs" / "x.py"))
    assert re.fullmatch("[0-9a-f]{40}", str(run_directory.provenance()["git_commit"]))
