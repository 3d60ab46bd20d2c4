#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download, and a C++ compiler): the caches of torch.compile and custom ops.
# Expected: after an edit of the program, the next process compiles anew what the edit concerns.
# Seen: the caches on disk, which are on by default, know a custom operation by its name alone. Its
# formula for the gradient (register_autograd) and its lowering for Inductor have become part of
# the cached code, but not of its key: the second process computes with the formulas of the first
# one, and has no warning. Editing the body of the operation, which is called, does take effect.
# Turn the caches off (TORCHINDUCTOR_FX_GRAPH_CACHE=0) or rename the operation after such an edit.
# Output: with a factor of 3 after one of 2: gradient 2.0, lowering 2.0, body 3.0; without the
# caches 3.0 each.
# Why it matters for VAEs: the gradient of an estimator of one's own (straight-through, implicit
# reparameterization) is corrected, and the compiled training goes on with the wrong one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
export TMPDIR=$folder
cat >program.py <<'PYTHON'
"""Print the factor that a compiled custom operation applies, of a kind and a factor given."""

import sys

import torch

kind, factor = sys.argv[1], float(sys.argv[2])
in_body = factor if kind == "body" else 1.0


@torch.library.custom_op("example::scale", mutates_args=())
def scale(x: torch.Tensor) -> torch.Tensor:
    return in_body * x


scale.register_fake(torch.empty_like)
if kind == "gradient":
    scale.register_autograd(lambda ctx, grad: factor * grad)
if kind == "lowering":
    from torch._inductor.lowering import lowerings, register_lowering

    multiply = lowerings[torch.ops.aten.mul.Tensor]
    register_lowering(torch.ops.example.scale.default)(lambda x: multiply(x, factor))
x = torch.ones(2, requires_grad=kind == "gradient")
y = torch.compile(lambda x: scale(x))(x)
if kind == "gradient":
    y.sum().backward()
print(x.grad[0].item() if kind == "gradient" else y[0].item())
PYTHON
venv/bin/python - <<'PYTHON'
import os
import subprocess
import sys
from importlib.metadata import version

print("torch", version("torch"))


def run(kind, factor, **variables):
    command = [sys.executable, "program.py", kind, str(factor)]
    variables["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath(kind)
    environment = {**os.environ, **variables}
    return float(subprocess.check_output(command, env=environment, text=True))


for kind, stale in (("gradient", True), ("lowering", True), ("body", False)):
    first, second = run(kind, 2), run(kind, 3)
    third = run(kind, 3, TORCHINDUCTOR_FX_GRAPH_CACHE="0")
    print(f"{kind}: factor 2: {first}, then factor 3: {second}, without the caches: {third}")
    assert (first, third) == (2, 3), "changed"
    assert second == (2 if stale else 3), "changed"
PYTHON
