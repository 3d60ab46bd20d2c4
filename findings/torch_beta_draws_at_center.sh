#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download): draws of Beta and Dirichlet with small concentrations.
# Expected: with concentrations of 0.001 nearly all mass lies at the corners. Beta(0.001, 0.001)
# falls between 0.4 and 0.6 with a probability of 0.0004.
# Seen: 24 % of its draws are 0.5, and 12 % of the draws of a Dirichlet of three corners are the
# centre, (1/3, 1/3, 1/3), in float32 and in float64. All gamma variables of such a draw underflow,
# are replaced by one smallest number, and divided by their sum. No warning; not documented.
# Output: Beta 0.24, Dirichlet 0.12, where 0.0004 and 0.0000 are right.
# Why it matters for VAEs: a sparse prior or guide draws the opposite of sparse codes, a mixture of
# all topics or clusters alike, where its own log density is lowest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PYTHON'
import scipy.stats
import torch
from torch import distributions as dist

torch.manual_seed(0)
exact = scipy.stats.beta(0.001, 0.001)
print("torch", torch.__version__)
print("exact P(0.4 < x < 0.6)", round(exact.cdf(0.6) - exact.cdf(0.4), 5))
for dtype in (torch.float32, torch.float64):
    alpha = torch.full((3,), 0.001, dtype=dtype)
    x = dist.Beta(alpha[0], alpha[0]).sample((100_000,))
    y = dist.Dirichlet(alpha).sample((100_000,))
    half = (x == 0.5).double().mean().item()
    center = ((y - 1 / 3).abs() < 1e-6).all(-1).double().mean().item()
    print(dtype, "Beta at 1/2:", round(half, 3), "Dirichlet at the centre:", round(center, 3))
    assert half > 0.2, "changed"
    assert center > 0.1, "changed"
PYTHON
