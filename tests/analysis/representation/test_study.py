"""What a study keeps of a model: plain numbers, of data that are where the model is."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.representation.study import (
    codes_of,
    continuity_metrics,
    disentanglement_metrics,
    downstream_metrics,
    robustness_metrics,
    selection_metrics,
    uncertainty_metrics,
)
from pyro_vae.data import Dataset, PreparedData

RNG = np.random.default_rng(0)


class Elsewhere(nn.Module):
    """A program on another device than the data: "meta" exists on all machines."""

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
    found = downstream_metrics(*codes_of(Elsewhere(), prepared(200, np.arange(200) % 4)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["n_codes_train"], found["n_codes_test"]) == (140, 40)


def test_what_is_not_defined_is_null():
    """200 data are too few for groups of 64 that share a value; a study's file holds no NaN."""
    found = disentanglement_metrics(Elsewhere(), prepared(200, RNG.integers(6, size=(200, 2))))
    assert found["scores"]["factor_vae"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_damage_and_space_are_plain():
    exact = BernoulliMixture()
    x = exact.draw(400, 0)
    data = PreparedData(Dataset.from_array(x.byte(), labels=np.arange(400) % 2), "binary")
    found = robustness_metrics(exact.vae(), data)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["area"]) == {"accuracy", "latent_shift", "reconstruction", "log_evidence"}
    normal = LinearGaussian((1, 4, 4), latent_dim=2)
    draws = Dataset.from_array(normal.draw(400, 0).numpy(), support="real")
    space = continuity_metrics(normal.vae(), PreparedData(draws, "real"))
    uncertainty = uncertainty_metrics(normal.vae(), PreparedData(draws, "real"))
    for plain in (space, uncertainty):
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    # The exact guide's codes fill the prior, and its scale is the same for any x.
    assert space["hole_share"] < 0.1
    assert space["told_from_prior"] < 0.65
    assert uncertainty is not None
    assert uncertainty["salt"]["scale"] == pytest.approx(1, abs=1e-4)
    assert uncertainty["salt"]["error"] > 1.5


def test_seeds_that_agree():
    """Signs and order of coordinates do not matter; a turn does."""
    code = RNG.standard_normal((500, 3))
    turned = code @ np.linalg.qr(RNG.standard_normal((3, 3)))[0]
    groups = {"a/0": "a", "a/1": "a", "b/0": "b", "b/1": "b"}
    codes = {"a/0": code, "a/1": -code[:, ::-1], "b/0": code, "b/1": turned}
    scores = {"a/0": 0.9, "a/1": 0.8, "b/0": 0.2, "b/1": 0.1}
    found = selection_metrics(codes, groups, scores)
    assert found["by_group"]["a"]["score"] > 0.9
    assert found["by_group"]["b"]["score"] < 0.7
    assert found["agreement"]["overall"]["n"] == 4
