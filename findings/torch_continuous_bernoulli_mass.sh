#!/usr/bin/env bash
# torch 2.14.1 (6 GB to download): ContinuousBernoulli with a large logit.
# Expected: a density on [0, 1] for every real logit, which is what its arguments are documented to
# be; at a logit of 30 its mean is 1 - 1/30 = 0.967.
# Seen: the normalising constant is that of a probability clamped to 1 - 1.2e-7, a logit of 16,
# while the rest of the density has the logit itself. The mass falls below 1 and the mean stops at
# 0.937. In float64 the same happens from 36 on. No warning.
# Output: mass 1.00 (logit 10), 0.80 (20), 0.53 (30), 0.16 (100); mean at 30: 0.937.
# Why it matters for VAEs: this is the likelihood meant for grey images, and a decoder that has
# learned a black border has such logits. Each of these pixels is 0.6 nats too low at a logit of 30
# and 1.8 at 100: the surer a decoder, the more of its log likelihood is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import torch
from torch.distributions import ContinuousBernoulli

print("torch", torch.__version__)
x = torch.linspace(0, 1, 1_000_001, dtype=torch.float64)
mass = {}
for logit in (10.0, 20.0, 30.0, 100.0):
    density = ContinuousBernoulli(logits=torch.tensor(logit)).log_prob(x.float()).double().exp()
    mass[logit] = torch.trapezoid(density, x).item()
    print("logit", logit, "mass", round(mass[logit], 3))
mean = ContinuousBernoulli(logits=torch.tensor(30.0)).mean.item()
print("mean at a logit of 30", round(mean, 3))
assert abs(mass[10.0] - 1) < 0.01, "changed"
assert mass[20.0] < 0.85, "changed"
assert mass[30.0] < 0.6, "changed"
assert mass[100.0] < 0.2, "changed"
assert mean < 0.94, "changed"
PYTHON
