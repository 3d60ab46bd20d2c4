#!/usr/bin/env bash
# Pyro 1.9.2 with torch 2.14.1 (6 GB to download): draws of Logistic in float32.
# Expected: finite draws. torch keeps the uniform numbers behind its Laplace and Gumbel from the
# ends.
# Seen: Pyro's Logistic takes the logit of a uniform number as it is, of which about one in 2^24 is
# 0: the draw is -inf, and its log density nan. Validation accepts it as a real number.
# Output: 6 of 200 million draws are infinite (Logistic), 0 (Laplace), 0 (Gumbel).
# Why it matters for VAEs: a guide of 50 latent variables and batches of 1,000 draw 2^24 numbers in
# 336 steps. One loss of nan, and after an optimizer's step all weights are nan.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    pyro-ppl==1.9.2 torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import pyro
import torch
from pyro import distributions as dist

print("Pyro", pyro.__version__, "torch", torch.__version__)
zero, one = torch.tensor(0.0), torch.tensor(1.0)
infinite = {}
for family in (dist.Logistic, dist.Laplace, dist.Gumbel):
    pyro.set_rng_seed(0)
    counts = [family(zero, one).sample((5_000_000,)).isinf().sum().item() for _ in range(40)]
    infinite[family] = sum(counts)
    print(family.__name__, infinite[family], "infinite of 200 million draws")
log_prob = dist.Logistic(zero, one, validate_args=True).log_prob(torch.tensor(-torch.inf))
print("log density of such a draw", log_prob.item())
assert infinite[dist.Logistic] > 0, "changed"
assert infinite[dist.Laplace] == infinite[dist.Gumbel] == 0, "changed"
assert log_prob.isnan(), "changed"
PYTHON
