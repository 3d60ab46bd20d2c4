"""Matrix products through oneDNN, and a cache of the compiler that a killed process left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pyro_vae.compilation import compile_graph, trace
from pyro_vae.compilation.inductor import use_onednn

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


def test_products_through_onednn():
    """In every orientation that a layer and its gradients have, with and without a bias."""

    def products(x, w, g, b):
        return x @ w.t(), g @ w, g.t() @ x, torch.addmm(b, x, w.t()), x.double() @ w.double().t()

    arguments = (
        torch.randn(128, 120),
        torch.randn(100, 120),
        torch.randn(128, 100),
        torch.randn(100),
    )
    traced = trace(products, *arguments)
    exact = products(*arguments)
    use_onednn(traced.graph.graph)
    traced.graph.recompile()
    targets = [node.target for node in traced.graph.graph.nodes]
    assert targets.count(torch.ops.pyro_vae.mm.default) == 4
    assert targets.count(torch.ops.aten.mm.default) == 1
    for mine, right in zip(traced(*arguments), exact, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_compiled_products():
    w = torch.randn(300, 200)
    traced = trace(lambda x: (F.softplus(x @ w),), torch.randn(100, 300))
    x = torch.randn(100, 300)
    torch.testing.assert_close(
        compile_graph(traced, x)(x)[0], F.softplus(x @ w), rtol=1e-4, atol=1e-4
    )
