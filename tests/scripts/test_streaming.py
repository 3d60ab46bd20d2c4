"""Training from a memory-mapped file: by the main program, stopped and resumed, in bounded memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_vae.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "svi_train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """A file of 1,000 pictures, of which 700 are trained on."""
    path = tmp_path_factory.mktemp("data") / "mine.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (1000, 8, 8), dtype=np.uint8))
    return path


# The main program with pools of two blocks of 64 rows, so 6 pools an epoch, that ends itself after a
# step if it is given one.
IN_POOLS = """
import os, runpy, sys
from pyro_vae.data import memory_mapped
from pyro_vae.training import loop
memory_mapped.BLOCK_BYTES, memory_mapped.POOL_BYTES = 64 * 64, 2 * 64 * 64
step, number = int(sys.argv[1]), int(sys.argv[2])
one_step = loop.Training.take_step
def counted(self):
    one_step(self)
    if self.step == step:
        os.kill(os.getpid(), number)
loop.Training.take_step = counted
run = loop.Training.run
loop.Training.run = lambda self, **options: run(self, **{**options, "checkpoint_seconds": 0.02})
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def program(*arguments: str | Path, step: int = 0, number: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", IN_POOLS, str(step), str(number), SCRIPT, *arguments]
    return subprocess.run(
        [*map(str, command)],
        cwd=ROOT, env=ENVIRONMENT, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def options(path: Path) -> list[str]:
    """Three epochs of 22 steps."""
    return [
        *("--data", str(path), "--data.memory_map", "true", "--batch-size", "32"),
        *("--epochs", "3", "--network.hidden", "[16]", "--evaluate", "none", "--compile", "off"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(path, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("straight") / "run"
    done = program("--out", out, *options(path))
    assert done.returncode == 0, done.stderr
    return load_checkpoint(out / "checkpoint.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number", "code"),
    [
        (51, signal.SIGKILL, -signal.SIGKILL),
        (30, signal.SIGTERM, 143),
    ],
)
def test_resume_is_bit_exact_after(path, tmp_path, uninterrupted, step, number, code):
    """In the middle of an epoch and of a pool, and between epochs."""
    out = tmp_path / "run"
    stopped = program("--out", out, *options(path), step=step, number=number)
    assert stopped.returncode == code, stopped.stderr
    assert load_checkpoint(out / "checkpoint.pt")["step"] <= step
    resumed = program("--resume", "--out", out)
    assert resumed.returncode == 0, resumed.stderr
    state = load_checkpoint(out / "checkpoint.pt")
    assert state["order"] == "blocks of 64 rows, 2 shuffled together"
    assert state["step"] == uninterrupted["step"] == 66
    for name, value in uninterrupted["program"].items():
        assert (state["program"][name] == value).all(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: None, "static binarisation keeps a copy"),
        (lambda path: os.truncate(path, 5000), "is damaged or something else"),
        (lambda path: path.write_bytes(b"1,2\n3,4\n"), "to be memory-mapped"),
    ],
)
def test_what_cannot_be_is_one_line(refused, path, tmp_path, change, message):
    mine = tmp_path / "mine.npy"
    mine.write_bytes(path.read_bytes())
    change(mine)
    arguments = ["--out", str(tmp_path / "run"), *options(mine), "--binarisation", "static"]
    assert message in refused("svi_train", *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_and_pictures(script, path, tmp_path):
    """Whatever reads the splits after training reads those that are in memory."""
    out = tmp_path / "run"
    arguments = ["--out", str(out), *options(path)[:6], "--max-steps", "2"]
    vamp = ["--prior", "vamp", "--prior.components", "5", "--network.hidden", "[8]"]
    assert script("svi_train", *arguments, *vamp, EVIDENCE_SAMPLES=50) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["n"], metrics["n_train"]) == (200, 700)
    assert len(list((out / "figures").iterdir())) == 9


# ---- memory ----------------------------------------------------------------------------------

# Checks a file and trains an epoch from it with pools of 1 MiB; prints by how many bytes the process
# grew at the highest.
GROWTH = """
import gc, sys
from functools import partial
from pathlib import Path
import pyro, torch
from pyro_vae import build, networks
from pyro_vae.data import Dataset, PreparedData, array_file, memory_mapped
from pyro_vae.training import Training
memory_mapped.BLOCK_BYTES, memory_mapped.POOL_BYTES = 2**16, 2**20
memory_mapped.HELD_OUT_ROWS = 100
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
def train(dataset):
    data = PreparedData(dataset, "binary")
    network = partial(networks.MLP, hidden=[8])
    vae = build(dataset.event_shape, network=network)
    # Otherwise the longer run would make a graph, and the shorter one would not.
    Training(vae, data, batch_size=1000, epochs=1, compile="graph").run()
pyro.set_rng_seed(0)
train(Dataset.from_array(torch.randint(0, 256, (10_000, 28, 28), dtype=torch.uint8)))
gc.collect()
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
train(array_file(sys.argv[1], memory_map=True))
print(status("VmHWM") - before)
"""


def growth_of(path):
    """The growth of a process that trains on a file, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)],
        cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout) / 2**20


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_rows(tmp_path):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which tells a process the most memory it had")
    grown = {}
    for megabytes in (10, 160):
        rows = np.random.default_rng(0).integers(
            0, 256, (megabytes * 2**20 // 784, 28, 28), dtype=np.uint8
        )
        path = tmp_path / "mine.npy"
        np.save(path, rows)
        # The least of three: what malloc keeps of the training before differs from run to run.
        grown[megabytes] = min(growth_of(path) for _ in range(3))
    # Two pools of 1 MiB, a few blocks, batches and what malloc keeps: a dozen or two, and 50 more or
    # less from run to run; not 160.
    assert grown[160] < grown[10] + 40, grown
    assert grown[160] < 80, grown
