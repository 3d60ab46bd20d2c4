"""The evaluation of a VAE, from both sides: healthy and collapsed."""

import json

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from pyro_vae.evidence import evaluate
from pyro_vae.model import build
from pyro_vae.posteriors import FullNormal
from pyro_vae.priors import GaussianMixture

KEYS = [
    "elbo",
    "elbo_se",
    "elbo_samples",
    "reconstruction",
    "reconstruction_se",
    "kl",
    "kl_se",
    "log_evidence",
    "log_evidence_se",
    "log_evidence_samples",
    "active_units",
    "khat_share_above",
    "n",
]


def data(n=6):
    """Binary images, as bytes."""
    generator = torch.Generator().manual_seed(0)
    return torch.bernoulli(torch.full((n, 4, 4), 0.3), generator=generator).byte()


def test_summary_of_a_model_with_known_evidence(linear_gaussian):
    case = linear_gaussian()
    summary = evaluate(case.vae, case.x, num_samples=100).summary()
    assert list(summary) == KEYS
    assert summary["log_evidence"] == pytest.approx(case.log_evidence.mean(), abs=1e-9)
    assert summary["elbo"] == pytest.approx(summary["reconstruction"] - summary["kl"])
    assert (summary["active_units"], summary["khat_share_above"], summary["n"]) == (3, 0.0, 40)
    assert summary["elbo_samples"] == summary["log_evidence_samples"] == 100


def test_collapsed_guide_has_no_active_units_and_no_kl():
    vae = build((4, 4), latent_dim=3)
    with torch.no_grad():
        vae.posterior.encoder.head.weight.zero_()
        # softplus^-1(1): q(z | x) = N(0, I) = p(z) for every x.
        vae.posterior.encoder.head.bias.copy_(torch.tensor([0.0, 0.54132485]).repeat_interleave(3))
    result = evaluate(vae, data(), num_samples=30)
    assert result.active_units == 0
    assert result.kl_by_dimension is not None
    np.testing.assert_allclose(result.kl_by_dimension, 0, atol=1e-6)


def test_kl_by_dimension_adds_up_to_the_kl():
    vae = build((4, 4), latent_dim=3)
    result = evaluate(vae, data(), num_samples=30)
    assert result.embeddings.shape == (6, 3)
    assert result.kl_by_dimension is not None
    assert result.kl_by_dimension.sum() == pytest.approx(result.summary()["kl"], rel=1e-5)


@pytest.mark.parametrize("part", [{"prior": GaussianMixture}, {"posterior": FullNormal}])
def test_kl_by_dimension_is_none_unless_both_factorise(part):
    vae = build((4, 4), latent_dim=3, **part)
    assert evaluate(vae, data(), num_samples=30).kl_by_dimension is None


def test_summary_is_plain_json_without_nan():
    vae = build((4, 4), latent_dim=3)
    summary = evaluate(vae, data(1), num_samples=10).summary()
    undefined = {name for name, value in summary.items() if value is None}
    errors = {"elbo_se", "reconstruction_se", "kl_se", "log_evidence_se"}
    assert undefined == {*errors, "active_units", "khat_share_above"}
    json.dumps(summary, allow_nan=False)
    assert {type(value) for value in summary.values()} == {float, int, type(None)}


def test_broken_model_gives_none_rather_than_nan():
    vae = build((4, 4), latent_dim=3)
    with torch.no_grad():
        vae.likelihood.decoder.head.bias.fill_(torch.nan)
    with pyro.validation_enabled(False):  # Otherwise Pyro raises first.
        summary = evaluate(vae, data(), num_samples=30).summary()
    assert summary["log_evidence"] is None
    assert summary["khat_share_above"] == 1.0
    json.dumps(summary, allow_nan=False)


def test_own_seed_leaves_the_global_stream_alone():
    vae = build((4, 4), latent_dim=3)
    torch.manual_seed(1)
    first = evaluate(vae, data(), num_samples=30)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    second = evaluate(vae, data(), num_samples=30)
    assert first.summary() == second.summary()
    assert evaluate(vae, data(), num_samples=30, seed=1).summary() != first.summary()


class Dropped(nn.Module):
    """An encoder that differs between training and evaluation."""

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.output_shape = output_shape
        self.layers = nn.Sequential(nn.LazyLinear(int(np.prod(output_shape))), nn.Dropout(0.5))
        self.event_dim = len(input_shape)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs.flatten(-self.event_dim)).unflatten(-1, self.output_shape)


def test_evaluation_mode_and_back():
    vae = build((4, 4), latent_dim=3, network=Dropped)
    vae.embed(data().float())
    vae.likelihood(torch.zeros(3))
    vae.train()
    vae.likelihood.eval()
    modes = [part.training for part in vae.modules()]
    assert {True, False} == set(modes)
    in_training = evaluate(vae, data(), num_samples=30)
    assert [part.training for part in vae.modules()] == modes
    in_evaluation = evaluate(vae.eval(), data(), num_samples=30)
    assert in_training.summary() == in_evaluation.summary()
    np.testing.assert_array_equal(in_training.embeddings, in_evaluation.embeddings)
