#!/usr/bin/env bash
# torch 2.14.1: torch.export of a part of a module.
# Expected: the saved program holds what its graph reads, as an ONNX file does.
# Seen: it holds every parameter of the module that was exported. The file of a decoder of 9,000
# bytes of weights has the 4 MB of the encoder in it, under their names.
# Output: parameters of the graph 2, in the file 4; 4.0 MB, and 0.02 MB if the decoder alone is
# exported.
# Why it matters for VAEs: a decoder or a sampler is exported by a method of the whole model. The
# file is as large as the model, and publishes the encoder, or pseudo-inputs that resemble data.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import os

import torch
from torch import nn


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(1000, 1000), nn.Linear(8, 256)

    def forward(self, z):
        return self.decoder(z)


def saved(module, path):
    program = torch.export.export(module.eval(), (torch.zeros(3, 8),))
    torch.export.save(program, path)
    loaded = torch.export.load(path)
    read = [n for n in loaded.graph.nodes if n.op == "placeholder" and n.users]
    return len(read) - 1, list(loaded.state_dict), os.path.getsize(path) / 1e6


vae = VAE()
read, held, whole = saved(vae, "vae.pt2")
_, alone, small = saved(vae.decoder, "decoder.pt2")
print("torch", torch.__version__)
print(f"parameters of the graph {read}, in the file {held}")
print(f"{whole:.1f} MB; the decoder alone {alone}, {small:.2f} MB")
assert read == 2, "changed"
assert len(held) == 4, "changed"
assert len(alone) == 2, "changed"
assert whole > 4 > 100 * small, "changed"
PYTHON
