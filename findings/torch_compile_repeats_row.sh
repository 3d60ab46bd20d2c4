#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download, and a C++ compiler): torch.compile on CPU and broadcasting.
# Expected: in `x * torch.digamma(a)`, where x has 1009 rows and a is one row or one number, the
# compiled code has as many evaluations of digamma as a has elements, as eager code does.
# Seen: the expression of a is fused into the loop over x and evaluated again for every row or
# vector of x: digamma, lgamma, erfinv and powers (beta**step). For exp, log, log1p, sigmoid and
# tanh there is a list of heavy operations in Inductor, and they get a loop of their own. The code
# loads a within the loop from a pointer that may alias the output, so that the C++ compiler cannot
# move it. Nothing warns, and the documentation does not name the list.
# Output: per operation, whether it stands inside the loop of 1009 rows in the generated code.
# Why it matters for VAEs: log densities with learned concentrations or degrees of freedom become
# slower by compilation. On one core, with x of 1562 rows and a of 64 elements, digamma takes 1.0 ms
# compiled and 0.015 ms eagerly, tanh 0.04 and 0.02 ms. Adam's bias correction, 1 - beta**step, is
# one of these powers; exp(step * log(beta)) is evaluated once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
export TMPDIR=$folder TORCHINDUCTOR_CACHE_DIR=$folder/cache
venv/bin/python - <<'PYTHON'
import torch
from torch._inductor.utils import run_and_get_code

step = torch.tensor(5.0)
row, beta = torch.linspace(0.1, 0.9, 64), torch.tensor(0.9)
# Function of a small tensor, the small tensor, the call in the code, and whether it is repeated.
cases = {
    "exp of a row": (torch.exp, row, "exp(", False),
    "log of a row": (torch.log, row, "log(", False),
    "tanh of a row": (torch.tanh, row, "tanh(", False),
    "lgamma of a row": (torch.lgamma, row, "lgamma(", True),
    "digamma of a row": (torch.digamma, row, "digamma(", True),
    "erfinv of a row": (torch.erfinv, row, "erfinv(", True),
    "beta**step": (lambda beta: beta**step, beta, "pow(", True),
    "exp(step * log(beta))": (lambda beta: torch.exp(step * beta.log()), beta, "exp(", False),
}
print("torch", torch.__version__)
for name, (function, small, call, repeated) in cases.items():
    torch._dynamo.reset()
    x = torch.rand(1009, 64) if small.dim() else torch.rand(1009)
    product = torch.compile(lambda x, small, function=function: x * function(small))
    result, (code,) = run_and_get_code(product, x, small)
    torch.testing.assert_close(result, x * function(small))
    kernel = code.split("r'''")[1].split("'''")[0]
    position, loop = kernel.index(call), kernel.index("<static_cast<int64_t>(1009L)")
    print(name, "repeated in the loop" if position > loop else "once, before the loop")
    assert (position > loop) == repeated, "changed"
PYTHON
