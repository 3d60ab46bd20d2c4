"""A model file to copy: a program from scratch, with nothing of this project in it.

`python scripts/svi_train.py --model scripts/examples/from_scratch.py` trains it;
docs/own-program.md explains it line by line.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, pyro_method
from torch import nn

SUPPORT = "binary"


class Program(PyroModule):
    latent_sites = ("z",)
    zeros: torch.Tensor

    def __init__(self, event_shape, latent_dim, hidden):
        super().__init__()
        size = torch.Size(event_shape).numel()
        wide, narrow = nn.Linear(size, hidden), nn.Linear(hidden, 2 * latent_dim)
        self.encoder = nn.Sequential(nn.Flatten(), wide, nn.ReLU(), narrow)
        wide, pixels = nn.Linear(latent_dim, hidden), nn.Linear(hidden, size)
        unflatten = nn.Unflatten(-1, tuple(event_shape))
        self.decoder = nn.Sequential(wide, nn.ReLU(), pixels, unflatten)
        self.register_buffer("zeros", torch.zeros(latent_dim))

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1).to_event(1))
            p = dist.Bernoulli(logits=self.decoder(z)).to_event(x.dim() - 1)
            return pyro.sample("x", p, obs=x)

    @pyro_method
    def guide(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def embed(self, x):
        return self.encoder(x).chunk(2, -1)[0]

    def decode(self, z):
        return self.decoder(z).sigmoid()


def build(event_shape, latent_dim=8, *, hidden: int = 200):
    return Program(event_shape, latent_dim, hidden)
