#!/usr/bin/env bash
# Pyro 1.9.2 with torch 2.14.1 (6 GB to download): a scale around a latent variable of the model.
# Expected: poutine.scale around the prior changes the loss; it is documented to multiply the log
# probabilities of the sites inside it. z ~ N(0, 1), x | z ~ N(z, 1), x = 0, q = N(2, 1).
# Seen: Trace_ELBO follows. TraceMeanField_ELBO does not change at all: where it has a KL in closed
# form it reads the scale of the guide's site only. No warning; not documented.
# Output, the prior scaled by 1 and 0.1: Trace_ELBO 5.41, 2.34; TraceMeanField_ELBO 5.42, 5.42;
# with the scale 0.1 around the guide's site, too: 3.61, 3.62.
# Why it matters for VAEs: annealing the KL from 0 against posterior collapse is done by just this
# scale. With the ELBO that is meant for normal guides, no annealing happens.
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
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

draws = 100_000


def model(prior_scale, guide_scale):
    with poutine.scale(scale=prior_scale):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.0))


def guide(prior_scale, guide_scale):
    with poutine.scale(scale=guide_scale):
        pyro.sample("z", dist.Normal(2.0, 1.0))


def loss(elbo, *scales):
    pyro.set_rng_seed(0)
    options = {"num_particles": draws, "vectorize_particles": True, "max_plate_nesting": 0}
    return elbo(**options).loss(model, guide, *scales)


print("Pyro", pyro.__version__, "torch", torch.__version__)
half_log = 0.5 * math.log(2 * math.pi)
likelihood, prior, entropy = half_log + 2.5, half_log + 2.5, half_log + 0.5
for elbo in (Trace_ELBO, TraceMeanField_ELBO):
    losses = [round(loss(elbo, scale, 1.0), 2) for scale in (1.0, 0.1)]
    both = round(loss(elbo, 0.1, 0.1), 2)
    print(elbo.__name__, "prior scaled by 1 and 0.1:", *losses, "prior and guide by 0.1:", both)
print("exact", *[round(likelihood + scale * prior - entropy, 2) for scale in (1.0, 0.1)])
assert abs(loss(Trace_ELBO, 0.1, 1.0) - (likelihood + 0.1 * prior - entropy)) < 0.05, "changed"
mean_field = [loss(TraceMeanField_ELBO, scale, 1.0) for scale in (1.0, 0.1)]
assert mean_field[0] == mean_field[1], "changed"
assert abs(loss(TraceMeanField_ELBO, 0.1, 0.1) - (likelihood + 0.1 * 2)) < 0.05, "changed"
PYTHON
