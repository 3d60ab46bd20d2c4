#!/usr/bin/env bash
# Pyro 1.9.2 with torch 2.14.1 (6 GB to download): RenyiELBO with a subsampled plate.
# Expected: with alpha = 0 it is the importance weighted bound, documented as a strict lower bound:
# on average the loss of a minibatch, scaled to all data, is at least -log p(x), 1.266 per example.
# Seen: the plate's scale (data / minibatch, here 10) is applied inside the exponential of the
# weights, not to the logarithm of their mean. With more than one particle the loss is far below
# -log p(x). Without subsampling it is right. No warning; not documented.
# Output, nats per example with 1, 100 and 1000 particles: all data 2.42, 1.27, 1.27; minibatches
# 2.42, 0.23, 0.22.
# Why it matters for VAEs: minibatches in a plate are Pyro's way to train on large data. The IWAE
# then reports a log likelihood that is too high, and its gradients weigh draws by (p / q)^10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    pyro-ppl==1.9.2 torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import math

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import RenyiELBO

data = 100
x = torch.zeros(data)


def model(size):
    with pyro.plate("data", data, subsample_size=size) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def guide(size):
    with pyro.plate("data", data, subsample_size=size):
        pyro.sample("z", dist.Normal(1.0, 1.0))


print("Pyro", pyro.__version__, "torch", torch.__version__)
exact = 0.5 * math.log(4 * math.pi)
print("-log p(x)", round(exact, 3))
loss = {}
for size in (data, data // 10):
    for particles in (1, 100, 1000):
        pyro.set_rng_seed(0)
        elbo = RenyiELBO(
            alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1
        )
        values = [elbo.loss(model, guide, size) / data for _ in range(200)]
        loss[size, particles] = sum(values) / len(values)
        print("minibatch", size, "particles", particles, "loss", round(loss[size, particles], 3))
assert abs(loss[100, 1000] - exact) < 0.01, "changed"
assert abs(loss[10, 1] - loss[100, 1]) < 0.2, "changed"
assert loss[10, 100] < exact - 0.5, "changed"
assert loss[10, 1000] < exact - 0.5, "changed"
PYTHON
