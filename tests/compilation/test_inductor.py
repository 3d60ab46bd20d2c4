"""A cache of the compiler that a killed process left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from pyro_vae.compilation import compile_graph, trace

torch.manual_seed(0)
w, x = torch.randn(64, 64), torch.randn(32, 64)
traced = trace(lambda x: ((x @ w).tanh().exp().sum(1),), x)
torch.testing.assert_close(compile_graph(traced, x)(x)[0], (x @ w).tanh().exp().sum(1))
"""


@pytest.mark.slow
def test_a_library_that_was_cut_is_made_again(tmp_path):
    def run() -> list[Path]:
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            check=True,
        )
        return sorted(tmp_path.rglob("*.so"))

    libraries = run()
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    assert run() == libraries  # The program compiles, or ends with an error.
