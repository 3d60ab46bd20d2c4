"""What starting imports: modules that take tenths of a second come with the first use of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# torch's compiler and what it imports, and what only data of other kinds, evaluations, figures and
# checks need.
HEAVY = {
    *("torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.fsdp", "sympy"),
    *("scipy.special", "scipy.stats", "sklearn", "pandas", "pyarrow", "torchvision"),
    *("matplotlib", "xarray", "h5py", "arviz_base", "arviz_stats", "arviz_plots", "tensorboard"),
}
TRAIN = ["--max-steps", "25", "--evaluate", "none", "--out"]
CODE = """
import runpy, sys
import pyro_vae
print(*sys.modules)
assert runpy.run_path(sys.argv[1])["main"](sys.argv[2:]) == 0
print(*sys.modules)
"""


@pytest.mark.slow
def test_neither_the_library_nor_training_imports_what_they_do_not_use(tmp_path):
    script = str(ROOT / "scripts" / "svi_train.py")
    # Without the tests' own hook, which imports more.
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    lines = subprocess.run(
        [sys.executable, "-c", CODE, script, *TRAIN, str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for modules in (lines[0], lines[-1]):
        assert "pyro_vae.model" in modules.split()
        assert HEAVY.isdisjoint(modules.split())
