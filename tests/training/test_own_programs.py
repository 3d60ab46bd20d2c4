"""Programs of one's own, with nothing but `model`, `guide` and `embed`."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, pyro_method
from torch import nn

from pyro_vae import fit
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.evidence import evaluate

X = np.random.default_rng(0).normal(size=(50, 3))


class Program(PyroModule):
    """x | z ~ N(z, I), with a guide of one linear layer."""

    latent_sites = ("z",)

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.encoder(x), 1).to_event(1))

    def embed(self, x):
        return self.encoder(x)


def test_prepared_data_train_it_and_others_are_refused_in_one_line():
    program = Program()
    data = PreparedData(Dataset.from_array(X), "real")
    assert len(fit(program, data, epochs=2)) == 2
    assert np.isfinite(evaluate(program, data.fixed("test"), num_samples=5).reconstruction).all()
    with pytest.raises(TypeError, match=r"has no `likelihood`.*: pass a PreparedData"):
        fit(Program(), X)
    with pytest.raises(
        TypeError, match="has no method `prepare`: give x as a tensor, got ndarray"
    ):
        evaluate(program, X)
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(program, torch.zeros(0, 3))
