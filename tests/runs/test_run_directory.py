"""Somebody else's run directory: reading it, or going on with it, executes nothing from it.

Each attack here would leave a marker file if its code ran. None may.
"""

import json
import os
import pickle
import runpy
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray
import yaml

from pyro_vae import load
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


def test_the_honest_run_is_loaded_and_resumed(main, run):
    assert load(run).configuration["network"]["hidden"] == [8]
    assert main(["--resume", f"--out={run}", "--max-steps=3"]) == 0
    assert load_checkpoint(run / "checkpoint.pt")["step"] == 3


# ---- checkpoints -----------------------------------------------------------------------------


def bombs(marker: Path) -> dict:
    return {
        "reduce": lambda path: torch.save(Bomb(marker), path),
        "inside": lambda path: torch.save(
            {**load_checkpoint(path), "seconds": Bomb(marker)}, path
        ),
        "legacy": lambda path: torch.save(
            {"program": Bomb(marker)}, path, _use_new_zipfile_serialization=False
        ),
        "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(marker))),
        "pickle of builtins": lambda path: path.write_bytes(
            f'cbuiltins\nexec\n(S\'open("{marker}", "w")\'\ntR.'.encode()
        ),
    }


@pytest.mark.parametrize("kind", ["reduce", "inside", "legacy", "pickle", "pickle of builtins"])
def test_a_checkpoint_that_would_execute(main, run, marker, capsys, kind):
    bombs(marker)[kind](run / "checkpoint.pt")
    assert "cut short, or not a checkpoint" in refused_twice(main, capsys, run)


def test_the_bombs_go_off_where_they_can(tmp_path):
    """Otherwise these tests would show nothing."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()


def test_a_torchscript_archive(main, run, capsys):
    class Script(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.warns(FutureWarning, match="jit.script"):
        torch.jit.script(Script()).save(str(run / "checkpoint.pt"))
    refused_twice(main, capsys, run, match="not a checkpoint")


def test_a_checkpoint_that_unpacks_to_more_than_it_is(main, run, capsys):
    """A zip of zeros: 50 MB in 50 kB, and it could be 50 GB."""
    with zipfile.ZipFile(run / "checkpoint.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    refused_twice(main, capsys, run, match="not a checkpoint")


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
        (tensors(lambda t: t.to(torch.complex64)), "both"),
        (tensors(lambda t: t.to_sparse()), "both"),
        (tensors(lambda t: t.to("meta")), "both"),
        (tensors(lambda t: torch.zeros(()).expand(10**6, 10**6)), "both"),
        (tensors(lambda t: "words"), "both"),
        (changed("program", lambda p: {**p, "more": torch.zeros(3)}), "both"),
        (changed("program", lambda p: {**p, 3: torch.zeros(3)}), "both"),
        (changed("program", []), "both"),
        (changed("event_shape", [10**6, 10**6]), "load"),
        (changed("event_shape", [10**30]), "load"),
        (changed("event_shape", "8"), "load"),
        (changed("model_hash", None), "load"),
        (changed("best", {"a": 1}), "both"),
        (changed("optimizer", {}), "resume"),
        (changed("optimizer", lambda o: {**o, "state": {0: {"step": 3}}}), "resume"),
        (changed("schedule", lambda s: {**s, "step": 3}), "resume"),
        (changed("schedule", lambda s: {**s, "__class__": "x"}), "resume"),
        (changed("random_state", torch.zeros(3, dtype=torch.uint8)), "resume"),
        (changed("random_state", lambda r: torch.full_like(r, 255)), "resume"),
        (changed("threads", 10**9), "resume"),
        (changed("threads", -1), "resume"),
        (changed("order_seed", 2**200), "resume"),
        (changed("step", -1), "resume"),
        (changed("step", 1.5), "resume"),
        (changed("history", [{}]), "resume"),
        (changed("history", [["epoch"]]), "resume"),
        (changed("totals", {"sums": {}}), "resume"),
        (changed("seconds", float("nan")), "resume"),
    ],
)
def test_a_checkpoint_of_a_wrong_form(main, run, capsys, change, by):
    path = run / "checkpoint.pt"
    state = load_checkpoint(path)
    change(state)
    save_checkpoint(path, state)
    if by in ("load", "both"):
        with pytest.raises(ValueError, match=r"checkpoint|VAE"):
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
        "seed: !!python/object/new:os.system ['touch {marker}']",
        "seed: !!python/name:os.system",
        "prior: !!python/object/apply:os.system ['touch {marker}']",
        "prior: {{name: standard_normal, class_path: os.system, init_args: {{command: touch {marker}}}}}",
        "prior: {{class_path: os.system, init_args: {{command: touch {marker}}}}}",
        "prior: os.system",
        "prior: {{name: os.system}}",
        "prior: {{name: __class__}}",
        "prior: {{name: standard_normal, __class__: os.system}}",
        "__class__: os.system",
        "data: {{name: digits, root: /etc}}",
        "network: {{name: mlp, hidden: '!!python/object/apply:os.system [touch {marker}]'}}",
        "network: {{name: mlp, hidden: {{class_path: os.system}}}}",
        "network: {{name: mlp, input_shape: [3]}}",
        "likelihood: {{name: normal, decoder: os.system}}",
        "posterior: {{name: diagonal_normal, encoder: os.system}}",
        "'seed=1 --model': {evil}",
        "'model=x': {evil}",
        "config: {evil}",
        "resume: true",
        "overwrite: true",
        "out: /tmp",
        "trust_model_file: true",
        "device: {{class_path: os.system}}",
        "latent_dim: 2.5",
        "epochs: many",
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


@pytest.mark.parametrize("where", ["outside", "inside", "own", "link", "cached"])
def test_a_model_file_is_not_run(main, run, marker, tmp_path, capsys, where):
    """Neither one that the configuration names, nor the run's own, without being told to."""
    outside = tmp_path / "evil.py"
    outside.write_text(evil(marker))
    names = {"outside": outside, "inside": run / "other.py", "link": run / "link.py"}
    if where == "link":
        (run / "link.py").symlink_to(outside)
    else:
        shutil.copy(outside, run / "model.py")
        shutil.copy(outside, run / "other.py")
    rewrite(run, model=str(names.get(where, run / "model.py")))
    line = refused_twice(main, capsys, run, match=r"model file of its own.*trust_model_file=True")
    assert "--trust-model-file" in line
    assert main(["--config", str(run / "config.yaml"), f"--out={tmp_path / 'new'}"]) == 2
    assert not (tmp_path / "new").exists()


def test_only_the_runs_own_model_file_is_run(main, run, marker, tmp_path, capsys):
    """Trusted or not, no other: not one that the configuration names, nor one behind a link."""
    outside = tmp_path / "evil.py"
    outside.write_text(evil(marker))
    rewrite(run, model=str(outside))
    with pytest.raises(ValueError, match="must hold the model file"):
        load(run, trust_model_file=True)
    (run / "model.py").symlink_to(outside)
    with pytest.raises(ValueError, match="must hold the model file"):
        load(run, trust_model_file=True)
    assert main(["--resume", f"--out={run}", "--trust-model-file"]) == 2
    (run / "model.py").unlink()
    # Not the file that was trained with: refused before it is run.
    (run / "model.py").write_text(evil(marker))
    with pytest.raises(ValueError, match="changed after the run"):
        load(run, trust_model_file=True)


def test_a_trusted_model_file_is_run(main, tmp_path):
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


# ---- what a directory may hold ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["train.log", ".checkpoint.pt.tmp", "metrics.csv", "figures", "figures/loss.png"]
)
def test_a_link_out_of_the_directory_is_refused(main, run, tmp_path, capsys, name):
    """Going on with a run writes; through a link it would write into somebody's home."""
    target = tmp_path / "target"
    if name == "figures":
        target.mkdir()
    else:
        target.write_text("mine")
    entry = run / name
    if "/" in name:
        entry.parent.mkdir()
    entry.unlink(missing_ok=True)
    entry.symlink_to(target)
    for how in (["--resume", "--max-steps=3"], ["--overwrite", *SHORT]):
        capsys.readouterr()
        assert main([f"--out={run}", *how]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "plain file" in line
    assert target.is_dir() or target.read_text() == "mine"


def test_a_pipe_does_not_hang(main, run, capsys):
    for name in ("checkpoint.pt", "config.yaml"):
        (run / name).unlink()
        os.mkfifo(run / name)
        refused_twice(main, capsys, run)


def test_a_netcdf_file_is_data_only(main, run, marker):
    """`load` and `--resume` do not read it; xarray reads numbers and text."""
    path = run / "inference_data.nc"
    bomb = pickle.dumps(Bomb(marker))
    with h5py.File(path, "w") as file:
        file.attrs["configuration"] = json.dumps({"prior": {"class_path": "os.system"}})
        file.attrs["code"] = f"__import__('os').system('touch {marker}')"
        file.attrs["pickle"] = bomb.hex()
        group = file.create_group("posterior")
        group.attrs["units"] = f"!!python/object/apply:os.system ['touch {marker}']"
        group.attrs["__reduce__"] = "os.system"
        group["z"] = torch.zeros(3).numpy()
        group["opaque"] = np.void(bomb)
        group["words"] = f"__import__('os').system('touch {marker}')"
    load(run)
    with xarray.open_datatree(path, engine="h5netcdf", phony_dims="sort") as tree:
        assert tree["posterior"]["z"].shape == (3,)
        assert str(tree.attrs["code"]).startswith("__import__")
    assert main(["--resume", f"--out={run}", "--max-steps=3"]) == 0
