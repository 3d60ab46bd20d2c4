#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download): log densities and KL divergences at large parameters.
# Expected: StudentT with many degrees of freedom approaches Normal, whose log density at 0 is
# -0.919; the KL between two gamma or beta distributions has the few correct digits of float32.
# Seen: the differences of log-gamma functions cancel. In float32 StudentT is off by 0.005 nats at
# 1e4 degrees of freedom, by 0.08 at 1e6, and is 0 at 1e8. KL divergences at concentrations of
# 1e5 are off by 0.6 % (Gamma) and 6.5 % (Beta). Nothing warns; the documentation names no range.
# Output: StudentT -0.914, -1.0, 0.0; KL of Gamma 4.955 for 4.983, of Beta 2.650 for 2.488.
# Why it matters for VAEs: learned degrees of freedom grow where data are normal, and a guide's
# concentrations with the information in the data; the ELBO then follows rounding errors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import torch
from torch import distributions as dist


def log_prob(df, dtype):
    df, zero = (torch.tensor(value, dtype=dtype) for value in (df, 0.0))
    return dist.StudentT(df).log_prob(zero).item()


def kl(family, dtype):
    """KL between concentrations of 1e5, one of which is 1 % larger in the second argument."""
    low, high = (torch.tensor(value, dtype=dtype) for value in (1e5, 1.01e5))
    return dist.kl_divergence(family(low, low), family(high, low)).item()


print("torch", torch.__version__)
error = {}
for df in (1e4, 1e6, 1e8):
    narrow, wide = (log_prob(df, dtype) for dtype in (torch.float32, torch.float64))
    error[df] = abs(narrow - wide)
    print("StudentT of", df, "at 0: float32", round(narrow, 3), "float64", round(wide, 3))
for family in (dist.Gamma, dist.Beta):
    narrow, wide = (kl(family, dtype) for dtype in (torch.float32, torch.float64))
    error[family] = abs(narrow / wide - 1)
    print("KL of", family.__name__, "float32", round(narrow, 3), "float64", round(wide, 3))
assert error[1e4] > 1e-3, "changed"
assert error[1e6] > 0.05, "changed"
assert error[1e8] > 0.5, "changed"
assert error[dist.Gamma] > 0.003, "changed"
assert error[dist.Beta] > 0.03, "changed"
PYTHON
