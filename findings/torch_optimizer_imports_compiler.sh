#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download): what ordinary calls import in a program that compiles nothing.
# Expected: `import torch` has loaded what eager code needs.
# Seen: constructing the first optimizer imports torch._dynamo with parts of Inductor and SymPy,
# some 890 modules. So do the first torch.func.grad, the first checkpoint without re-entry, and the
# first operation under a TorchDispatchMode that does nothing. torch.broadcast_shapes and
# MultivariateNormal import SymPy, some 480. The documentation of these calls does not say so.
# Output: new modules and seconds for each call: 890 in 0.8 s, 480 in 0.25 s (import torch: 1.2 s).
# Why it matters for VAEs: a short training run, a test, or a worker that is started often pays
# nearly a second that does not show up in the time of `import torch`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
cat >call.py <<'PYTHON'
"""Execute the code that is given, and print which modules are new."""

import sys
import time

start = time.perf_counter()
import torch
from torch.utils.checkpoint import checkpoint

x = torch.nn.Parameter(torch.ones(2))


class Mode(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


seconds = [time.perf_counter() - start]
before = set(sys.modules)
start = time.perf_counter()
exec(sys.argv[1])
seconds.append(time.perf_counter() - start)
new = set(sys.modules) - before
print(len(new), int("torch._dynamo" in new), int("sympy" in new), *seconds)
PYTHON
venv/bin/python - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version

print("torch", version("torch"))
# Each call, and whether it imports torch._dynamo and SymPy.
expected = {
    "torch.sin(x).sum().backward()": (0, 0),
    "torch.distributions.Normal(x, 1.0).rsample()": (0, 0),
    "torch.optim.SGD([x])": (1, 1),
    "torch.optim.Adam([x])": (1, 1),
    "torch.func.grad(torch.sum)(x)": (1, 1),
    "checkpoint(torch.sin, x, use_reentrant=False)": (1, 1),
    "with Mode(): x + 1": (1, 1),
    "torch.broadcast_shapes((2,), (1,))": (0, 1),
    "torch.distributions.MultivariateNormal(x, torch.eye(2))": (0, 1),
}
for call, imports in expected.items():
    command = [sys.executable, "call.py", call]
    result = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    count, dynamo, sympy = map(int, result[:3])
    first, second = (round(float(seconds), 2) for seconds in result[3:])
    print(f"{call}: {count} modules in {second} s (import torch: {first} s)")
    assert (dynamo, sympy) == imports, "changed"
    assert count >= 400 * (dynamo + sympy), "changed"
PYTHON
