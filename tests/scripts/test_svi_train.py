"""`scripts/svi_train.py`: its files, its evaluation, interruptions and resuming, and bad input."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae import load
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "svi_train.py"
SHORT = ["--max-steps", "2", "--network.hidden", "[8]"]


@pytest.fixture
def main(script):
    """Run the program in this process, with few importance samples."""
    return partial(script, "svi_train", EVIDENCE_SAMPLES=50)


def start(*arguments: str | Path) -> subprocess.Popen:
    """Run the program in a process of its own, on one thread."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_run_leaves_everything(main, tmp_path, capsys):
    out = tmp_path / "run"
    assert main("--out", out, *SHORT) == 0
    screen = capsys.readouterr().out
    assert re.search(r"log p\(x\) +-\d+\.\d+ +nats \+- \d", screen)
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.yaml", "checkpoint.pt", "metrics.csv", "metrics.json", "inference_data.nc"),
        *("figures", "train.log", "report.html"),
    }
    metrics = json.loads((out / "metrics.json").read_text())
    expected = [
        "data",
        "binarisation",
        "scale",
        "notes",
        "split",
        "n",
        "n_train",
        "prior",
        "likelihood",
        "posterior",
        "objective",
        "labels",
        "latent_dim",
        "elbo",
        "elbo_se",
        "elbo_samples",
        "reconstruction",
        "reconstruction_se",
        "kl",
        "kl_se",
        "log_evidence",
        "log_evidence_se",
        "log_evidence_samples",
        "bits_per_dim",
        "active_units",
        "khat_share_above",
        "baseline",
        "baseline_log_density",
        "above_baseline",
        "above_baseline_se",
        "factor_analysis_log_density",
        "above_factor_analysis",
        "above_factor_analysis_se",
        "factors",
        "best_validation_epoch",
        "verdicts",
        "parameters",
        "epochs",
        "steps",
        "seconds_per_epoch",
        "compile",
        "compile_seconds",
        "seed",
        "pyro_vae",
        "torch",
        "pyro",
        "git_commit",
    ]
    assert set(metrics) == set(expected)
    assert metrics["elbo"] == pytest.approx(metrics["reconstruction"] - metrics["kl"])
    assert metrics["log_evidence"] >= metrics["elbo"]
    assert metrics["above_baseline"] == pytest.approx(
        metrics["log_evidence"] - metrics["baseline_log_density"]
    )
    figures = {path.name for path in (out / "figures").iterdir()}
    assert len(figures) == 9
    assert "KL at site 'z': analytic" in (out / "train.log").read_text()

    vae = load(out)
    assert not vae.training
    assert vae.configuration["network"]["hidden"] == [8]
    state = load_checkpoint(out / "checkpoint.pt")["program"]
    for name, value in vae.state_dict().items():
        assert (value == state[name]).all()


def test_a_run_that_failed_says_so_and_names_what_to_run(main, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--out", out, "--network.hidden", "[8]", "--epochs", "3", "--compile", "off"]
    assert main(*options, "--lr", "10") == 0
    screen = capsys.readouterr().out
    assert re.search(
        r"baseline +-\d+\.\d+ .* Bernoulli .*: log p\(x\) is [\d,.]+ .* BELOW", screen
    )
    assert re.search(r"best validation +epoch \d +of 3", screen)
    last = screen.strip().splitlines()[-1]
    assert last.startswith(f"{out}/report.html says whether to trust the model; ")
    assert last.endswith(f"; next: python scripts/diagnose.py {out}")
    verdicts = [line for line in screen.splitlines() if line.startswith("verdict: ")]
    assert [line.split(":")[1] for line in verdicts] == [" diverging", " below the baseline"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert [f"verdict: {line}" for line in metrics["verdicts"]] == verdicts
    # The command that it names runs.
    command = shlex.split(verdicts[0].partition("python scripts/svi_train.py ")[2])
    assert main(*command, "--out", tmp_path / "other", "--evaluate", "none") == 0
    assert load_checkpoint(tmp_path / "other" / "checkpoint.pt")["history"][0]["lr"] == 1e-3


def test_a_run_repeats_from_its_configuration(main, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    main("--out", one, *SHORT, "--seed", "5", "--evaluate", "none")
    main("--out", other, "--config", one / "config.yaml")
    first, second = (load_checkpoint(out / "checkpoint.pt")["program"] for out in (one, other))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_bare_directory_has_a_counter(main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(*SHORT, "--evaluate", "none") == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == ["digits-standard_normal-0", "digits-standard_normal-0-2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ["--prior", "gaussian_mixture", "--posterior", "full_normal", "--binarisation", "static"],
        ["--likelihood", "normal", "--likelihood.scale", "decoded", "--objective", "beta"],
    ],
)
def test_other_parts(main, tmp_path, parts):
    out = tmp_path / "run"
    assert main("--out", out, *SHORT, *parts) == 0
    assert "NaN" not in (out / "metrics.json").read_text()
    load(out)


def test_a_run_goes_on_from_another_folder(main, tmp_path, monkeypatch, capsys):
    """Its data were named by a relative path; once they are moved, the way out is said."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 3)))
    options = ["--likelihood", "normal", "--evaluate", "none", "--out", tmp_path / "run"]
    assert main("--data", "x.npy", *options, "--max-steps", 2) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume = ["--resume", "--out", tmp_path / "run", "--max-steps"]
    assert main(*resume, 3) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 3
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    capsys.readouterr()
    assert main(*resume, 4) == 2
    assert "x.npy, which is missing: restore it" in capsys.readouterr().err


def test_a_model_file_goes_along_with_the_run(main, tmp_path):
    """Editing the default prior in a copy of model.py changes what trains, and what is loaded."""
    mine = tmp_path / "mine.py"
    original = (ROOT / "pyro_vae" / "model.py").read_text()
    edited = original.replace("= priors.StandardNormal", "= priors.GaussianMixture")
    assert edited != original
    mine.write_text(edited)
    out = tmp_path / "run"
    assert main("--model", mine, "--out", out, *SHORT, "--evaluate", "none") == 0
    mine.unlink()
    with pytest.raises(ValueError, match=r"its own model file.*trust_model_file=True"):
        load(out)
    assert type(load(out, trust_model_file=True).prior).__name__ == "GaussianMixture"
    (out / "model.py").write_text(edited + "\n# changed\n")
    with pytest.raises(ValueError, match=r"model.py was changed after the run"):
        load(out, trust_model_file=True)


@pytest.mark.slow
def test_editing_the_default_in_the_checkout_changes_what_trains(tmp_path):
    """A user's way: clone, edit that line of pyro_vae/model.py, run the script."""
    for folder in ("pyro_vae", "analysis", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    path = tmp_path / "pyro_vae" / "model.py"
    text = path.read_text()
    line = "prior: Part = priors.{},"
    assert line.format("StandardNormal") in text
    path.write_text(text.replace(line.format("StandardNormal"), line.format("Vamp")))
    command = [
        sys.executable,
        "scripts/svi_train.py",
        *SHORT,
        "--evaluate",
        "none",
        "--out",
        "run",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert "vamp" in (tmp_path / "run" / "config.yaml").read_text()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert "prior.pseudo_inputs" in state["program"]


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--likelihood", "bernoulli", "--binarisation", "none"],
            "use binarisation dynamic, static or threshold, or a likelihood",
        ),
        (["--latent-dim", "0"], "latent_dim must be at least 1, got 0"),
        (["--network.hidden", "[0]"], "hidden sizes must be at least 1"),
        (["--data", "nosuch.npy"], "nosuch.npy"),
        (["--objective.beta", "-1"], "beta must be at least 0"),
    ],
)
def test_bad_options_leave_nothing(refused, tmp_path, arguments, message):
    out = tmp_path / "run"
    assert message in refused("svi_train", "--out", out, *arguments)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: CUDA is not absent")
def test_cuda_asked_for_and_absent(refused, tmp_path):
    assert "torch found none" in refused(
        "svi_train", "--device", "cuda", "--out", tmp_path / "run"
    )


@pytest.mark.parametrize(
    ("values", "likelihood", "message"),
    [
        (np.full((20, 4), np.nan), "normal", "not finite"),
        (np.full((20, 4), 2.0), "normal", "floats without a fraction"),
        (np.full((20, 4), 2.5), "bernoulli", "a likelihood of binary data is not defined"),
        (
            np.full((20, 4), -0.5),
            "continuous_bernoulli",
            "a likelihood of unit data is not defined",
        ),
        (np.zeros((20, 0)), "normal", "empty"),
    ],
)
def test_bad_arrays_leave_nothing(refused, tmp_path, values, likelihood, message):
    path = tmp_path / "x.npy"
    np.save(path, values)
    line = refused(
        "svi_train", "--data", path, "--likelihood", likelihood, "--out", tmp_path / "run"
    )
    assert str(path) in line or f"{path.stem} holds" in line
    assert message in line
    if "density" in message:
        # Both sides and the parts that would fit.
        assert f"{LIKELIHOODS[likelihood].__name__} does not fit" in line
        assert re.search(r"real: (\w+, )*normal\b", line)
    assert not (tmp_path / "run").exists()


def test_a_directory_with_a_run_is_kept(main, refused, tmp_path):
    out = tmp_path / "run"
    main("--out", out, *SHORT, "--evaluate", "none")
    before = (out / "checkpoint.pt").read_bytes()
    assert "holds a run already" in refused("svi_train", "--out", out, *SHORT)
    assert (out / "checkpoint.pt").read_bytes() == before
    assert main("--out", out, *SHORT, "--overwrite", "--seed", "1", "--evaluate", "none") == 0
    assert (out / "checkpoint.pt").read_bytes() != before


def test_an_interruption_outside_training_is_one_line(main, script, tmp_path, capsys):
    """Ctrl-C while data are read or in the evaluation: no traceback, and the run can go on."""

    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    assert script("svi_train", "--out", out, *SHORT, evaluate_and_save=interrupted) == 130
    assert "svi_train.py: stopped; --resume continues" in capsys.readouterr().err
    assert main("--resume", "--out", out, "--evaluate", "none") == 0


# ---- stopping and going on -------------------------------------------------------------------

LONG = ["--epochs", "12", "--network.hidden", "[16]", "--evaluate", "none", "--compile", "off"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The checkpoint of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    process = start("--out", out, *LONG)
    _, error = process.communicate()
    assert process.returncode == 0, error
    return load_checkpoint(out / "checkpoint.pt")


def resume_and_compare(out: Path, uninterrupted: dict) -> None:
    process = start("--resume", "--out", out)
    _, error = process.communicate()
    assert process.returncode == 0, error
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["step"] == uninterrupted["step"]
    for name, value in uninterrupted["program"].items():
        assert (state["program"][name] == value).all(), name
    rows = (out / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 12
    assert [path.name for path in out.glob(".*")] == []


# Stops the process at an exact step, from inside: outside, a sleep would guess.
AT_STEP = """
import os, runpy, signal, sys
from pyro_vae.training import checkpoint, loop
step, number, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
one_step = loop.Training.take_step
def counted(self):
    one_step(self)
    if where == "step" and self.step == step:
        os.kill(os.getpid(), number)
loop.Training.take_step = counted
run = loop.Training.run
loop.Training.run = lambda self, **options: run(self, **{**options, "checkpoint_seconds": 0.05})
write = checkpoint.write_atomically
def half_written(path, content):
    if where == "checkpoint" and path.name == "checkpoint.pt" and checkpoint.torch.load(
            checkpoint.io.BytesIO(content), weights_only=True)["step"] >= step:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), number)
    write(path, content)
checkpoint.write_atomically = half_written
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number", "where", "code"),
    [
        (87, signal.SIGKILL, "step", -signal.SIGKILL),
        (130, signal.SIGKILL, "checkpoint", -signal.SIGKILL),
        (111, signal.SIGTERM, "step", 143),
    ],
)
def test_resume_is_bit_exact_after(tmp_path, uninterrupted, step, number, where, code):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-c",
        AT_STEP,
        str(step),
        str(int(number)),
        where,
        SCRIPT,
        "--out",
        out,
        *LONG,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert process.returncode == code, process.stderr
    if code > 0:
        assert f"--resume --out {out}" in process.stdout
        assert load_checkpoint(out / "checkpoint.pt")["step"] == step
    resume_and_compare(out, uninterrupted)


@pytest.mark.arviz
def test_rows_are_called_rows(main, tmp_path, capsys):
    ages = "\n".join(f"{age},{170.5 + age % 7}" for age in range(40))
    (tmp_path / "people.csv").write_text(f"age,height\n{ages}\n")
    data = ["--data", tmp_path / "people.csv", "--likelihood", "normal"]
    assert main("--out", tmp_path / "run", *data, *SHORT) == 0
    printed = capsys.readouterr()
    assert "8 rows, mean per row" in printed.out
    assert "nats/row" in printed.out
    assert "row/s" in printed.err
    for word in ("image", "datum"):
        assert word not in printed.out + printed.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"] == "people"
    assert metrics["bits_per_dim"] is None
