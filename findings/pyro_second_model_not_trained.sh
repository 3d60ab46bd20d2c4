#!/usr/bin/env bash
# Pyro 1.9.2 with torch 2.14.1 (6 GB to download): two models of one class in one process.
# Expected: a new model with an SVI and an optimizer of its own is trained.
# Seen: the global parameter store keeps tensors by name; the second model's names are the same.
# SVI computes the second model's loss and trains the first one's tensors: the second keeps its
# initial weights. No warning. After pyro.clear_param_store() it is trained.
# Output: weights moved by 0.59 (first), 0.0 (second), 1.0 (third, after clearing).
# Why it matters for VAEs: a loop over latent dimensions, seeds or learning rates in a notebook
# compares one trained VAE with any number of untrained ones.
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
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from pyro.optim import Adam


class VAE(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = PyroModule[torch.nn.Linear](5, 2)
        self.decoder = PyroModule[torch.nn.Linear](2, 5)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def train(seed):
    """The largest change of the weights, and the losses."""
    torch.manual_seed(seed)
    vae = VAE()
    start = [value.detach().clone() for value in vae.parameters()]
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x) / len(x) for _ in range(200)]
    changes = [(a - b).abs().max().item() for a, b in zip(vae.parameters(), start, strict=True)]
    print("weights moved by", round(max(changes), 2), "loss", *map(round, (losses[0], losses[-1])))
    return max(changes)


torch.manual_seed(0)
x = torch.randn(200, 2) @ torch.randn(2, 5)
print("Pyro", pyro.__version__, "torch", torch.__version__)
first, second = train(1), train(2)
pyro.clear_param_store()
third = train(2)
assert first > 0.1, "changed"
assert second == 0, "changed"
assert third > 0.1, "changed"
PYTHON
