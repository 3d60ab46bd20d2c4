#!/usr/bin/env bash
# Pyro 1.9.2 with torch 2.14.1 (6 GB to download): pyro.module of a channels_last network.
# Expected: SVI trains the weights of the network that is registered, in whatever memory layout.
# Seen: the parameter store makes a tensor contiguous first, which copies it where it is not. The
# optimizer then trains the copy: the weights of the convolution in the network stay as they were,
# while its biases (contiguous) are trained. No warning, and the loss falls a little.
# Output: loss 467 -> 373, weights moved by 0.39 (contiguous); 467 -> 464, 0.0 (channels_last).
# Why it matters for VAEs: channels_last is torch's advice for convolutions, so a convolutional VAE
# of one's own pictures, trained by SVI, learns its biases only.
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
from pyro.optim import Adam

print("Pyro", pyro.__version__, "torch", torch.__version__)
moved = {}
for layout in (torch.contiguous_format, torch.channels_last):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    network = torch.nn.Conv2d(3, 4, kernel_size=3).to(memory_format=layout)
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    x, y = torch.randn(8, 3, 5, 5), torch.randn(8, 4, 3, 3)

    def model(x, y):
        pyro.module("network", network)
        pyro.sample("y", dist.Normal(network(x), 1.0).to_event(4), obs=y)

    svi = SVI(model, lambda x, y: None, Adam({"lr": 0.1}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(50)]
    for name, value in network.named_parameters():
        moved[layout, name] = (value - start[name]).abs().max().item()
    changes = [round(moved[layout, name], 3) for name in ("weight", "bias")]
    print(layout, "loss", round(losses[0]), "->", round(losses[-1]), "moved", *changes)
assert moved[torch.contiguous_format, "weight"] > 0.1, "changed"
assert moved[torch.channels_last, "weight"] == 0, "changed"
assert moved[torch.channels_last, "bias"] > 0.1, "changed"
PYTHON
