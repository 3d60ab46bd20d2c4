"""What loaders hold: one copy in the narrowest type."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_vae.data.memory_mapped import require_memory

# Loads a data set in a process of its own and prints the bytes of its splits, and by how many the
# process grew at the highest and in the end.
PROGRAM = """
import gc, sys
from pathlib import Path
from pyro_vae.data import DATASETS, SPLITS

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

# Import what the loaders import.
import torch, scipy.sparse, PIL.Image, pandas, pyarrow, torchvision.datasets, sklearn.datasets
name, argument = sys.argv[1:]
gc.collect()
before = status("VmRSS")
# The highest so far is now.
Path("/proc/self/clear_refs").write_text("5")
load = DATASETS[name]
dataset = load(argument) if argument else load()
splits = [dataset.split(split) for split in SPLITS]
held = sum(split.numel() * split.element_size() for split in splits)
print(held, status("VmHWM") - before, status("VmRSS") - before)
""".replace("DATASETS, SPLITS", "DATASETS\nfrom pyro_vae.data.dataset import SPLITS")


def measure(name: str, argument: str = "") -> tuple[float, float]:
    """By how many times its data's bytes a loader makes the process grow, at the highest and after."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, which tells a process the most memory it had")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, argument],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    held, highest, after = map(int, result.stdout.split())
    return highest / held, after / held


@pytest.mark.parametrize("name", ["mnist", "static_mnist", "newsgroups", "dsprites"])
def test_named_sets_are_held_once(data_root, name):
    highest, after = measure(name, str(data_root))
    assert highest < 2.2
    assert after < 1.3


def test_a_file_of_ones_own_is_held_once(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "x.npy", rows)
    highest, after = measure("array_file", str(tmp_path / "x.npy"))
    assert highest < 2.2
    assert after < 1.3


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.memory_mapped._memory_bytes", lambda: 2 * 2**30)
    require_memory((2**30,), 1, "mine")
    with pytest.raises(
        ValueError, match=r"mine would be .*\(1073741824, 2\).* 4.0 GiB .* 2.0 GiB"
    ):
        require_memory((2**30, 2), 1, "mine")
