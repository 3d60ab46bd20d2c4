#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download): torch.save and torch.load of a torch.fx.GraphModule with noise.
# Expected: the graph that is read back has the operations of the graph that was saved.
# Seen: loading traces the generated code again. A call without traced inputs, such as
# torch.ops.aten.randn.default([3]), is then executed once, and its result is a constant of the new
# graph: the module returns the same "random" numbers at every call and under every seed. No
# warning, and copy.deepcopy keeps the operation. The documentation of torch.fx says that
# symbolic_trace does this to torch.rand; here the graph was right before it was saved.
# Output: two calls differ before, and agree after; the code has a _tensor_constant0 for a randn.
# Why it matters for VAEs: a saved graph of an encoder adds one fixed draw to all means; averages
# over more draws do not change, and an ELBO of many particles is that of one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import copy
import io

import torch
from torch.fx.experimental.proxy_tensor import make_fx


def describe(name, module):
    """Whether two calls differ, whether a seed matters, and the functions that are called."""
    draws = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        draws += [module(torch.zeros(3)), module(torch.zeros(3))]
    differ = not torch.equal(draws[0], draws[1]), not torch.equal(draws[0], draws[2])
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    print(name, "calls differ", differ[0], "seeds differ", differ[1], *calls)
    return differ


print("torch", torch.__version__)
functions = {
    "randn": lambda mean: mean + torch.randn(3),
    "randint": lambda mean: mean + torch.randint(0, 1_000_000, (3,)),
}
for name, function in functions.items():
    module = make_fx(function)(torch.zeros(3))
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert describe(f"{name}, traced:", module) == (True, True), "changed"
    assert describe(f"{name}, copied:", copy.deepcopy(module)) == (True, True), "changed"
    assert describe(f"{name}, loaded:", loaded) == (False, False), "changed"
PYTHON
