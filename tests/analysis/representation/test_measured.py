"""What a study keeps of a model: plain numbers, of data that are where the model is."""

import json

import numpy as np
import torch
from torch import nn

from analysis.exact_models import BernoulliMixture
from analysis.representation.measured import disentanglement_of, robustness_of, use_of
from pyro_vae.data import Dataset, PreparedData

RNG = np.random.default_rng(0)


class Elsewhere(nn.Module):
    """A program on a device other than the data's, as on a GPU: "meta" is one that all machines have."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def embed(self, x):
        assert x.device == self.weight.device
        return torch.randn(len(x), 3, generator=torch.Generator().manual_seed(len(x)))


def prepared(n, labels):
    x = (RNG.random((n, 1, 6, 6)) < 0.5).astype(np.uint8)
    return PreparedData(Dataset.from_array(x, labels=labels), "binary")


def test_data_follow_the_program():
    found = use_of(Elsewhere(), prepared(200, np.arange(200) % 4))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["n_codes_train"], found["n_codes_test"]) == (140, 40)


def test_what_is_not_defined_is_null():
    """200 data are too few for groups of 64 that share a value; a study's file holds no NaN."""
    found = disentanglement_of(Elsewhere(), prepared(200, RNG.integers(6, size=(200, 2))))
    assert found["scores"]["factor_vae"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_robustness_is_plain():
    exact = BernoulliMixture()
    x = exact.draw(100, 0)
    data = PreparedData(Dataset.from_array(x.byte(), labels=np.arange(100) % 2), "binary")
    found = robustness_of(exact.vae(), data)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["area"]) == {"accuracy", "latent_shift", "reconstruction", "log_evidence"}
