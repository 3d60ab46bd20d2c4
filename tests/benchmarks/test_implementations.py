"""All implementations do the same work."""

import math
from contextlib import closing

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from benchmarks.implementations import IMPLEMENTATIONS, PyroExample
from benchmarks.plain_torch import (
    MINIMUM_SCALE,
    MatrixProducts,
    PlainTorch,
    PlainTorchCudaGraph,
    PlainVAE,
    binarise,
)
from benchmarks.task import Setting, grey_images, missing_packages
from benchmarks.timing import Environment, Worker
from pyro_vae.compilation import multiplies_bfloat16

# Two batches, of which the last is smaller.
SMALL = Setting(hidden=16, latent_dim=3, batch_size=48, lr=1e-2)
COMPILED = ("by_hand_compiled", "this_compiled", "this_bfloat16")
# Every implementation that trains and whose packages are installed and whose type the CPU computes.
TRAINABLE = [
    name
    for name, kind in IMPLEMENTATIONS.items()
    if not missing_packages(kind)
    and kind is not MatrixProducts
    and (name != "this_bfloat16" or multiplies_bfloat16())
]


@pytest.fixture
def images():
    return grey_images("digits", count=64)


def check(losses):
    """It starts at 64 pixels of one bit each, before anything is learned, and goes down."""
    assert losses[0] == pytest.approx(64 * math.log(2), rel=0.15)
    assert losses[-1] < losses[0] - 3


@pytest.mark.parametrize("name", [name for name in TRAINABLE if name not in COMPILED])
def test_each_installed_implementation_trains(name, images, monkeypatch):
    # Load 64 pictures in this process.
    monkeypatch.setattr(PyroExample, "loader_workers", 0)
    implementation = IMPLEMENTATIONS[name](images, SMALL)
    implementation.prepare()
    losses = []
    for _ in range(8):
        assert implementation.epoch() > 0
        losses.append(implementation.loss)
    check(losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINABLE if name in COMPILED])
def test_each_compiled_implementation_trains(name):
    # In its own process: the shape checks of this one cannot be compiled.
    with closing(Worker(name, SMALL, Environment("digits", images={name: 64}))) as worker:
        check([worker.epoch()["loss"] for _ in range(8)])


def test_the_network_by_hand_is_the_model(images):
    torch.manual_seed(1)
    network = PlainVAE(64, SMALL)
    x = binarise(images, torch.arange(5))
    noise = torch.randn(4, 5, 3)
    loc, raw_scale = network.encoder_head(
        torch.nn.functional.softplus(network.encoder_hidden(x))
    ).chunk(2, dim=-1)
    q = Normal(loc, torch.nn.functional.softplus(raw_scale) + MINIMUM_SCALE)
    hidden = torch.nn.functional.softplus(network.decoder_hidden(q.loc + q.scale * noise))
    log_likelihood = Bernoulli(logits=network.decoder_head(hidden)).log_prob(x).sum(-1).mean(0)
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(network(x, noise), (kl - log_likelihood).mean())


def test_binarised_keeps_black_and_white_and_draws_the_rest():
    images = torch.tensor([[0, 255, 51]], dtype=torch.uint8).repeat(20_000, 1)
    mean = binarise(images, torch.arange(20_000)).mean(0)
    assert mean[:2].tolist() == [0, 1]
    assert float(mean[2]) == pytest.approx(0.2, abs=0.02)


def test_matrix_products_are_the_eleven_of_a_step():
    implementation = MatrixProducts(torch.zeros(256, 784, dtype=torch.uint8), Setting())
    implementation.prepare()
    assert len(implementation.whole) == 11
    work = sum(
        2 * left.shape[0] * left.shape[1] * right.shape[1]
        for left, right, _ in implementation.whole
    )
    layers = (784 * 400, 400 * 100, 50 * 400, 400 * 784)
    assert work == 2 * 256 * (3 * sum(layers) - layers[0])
    assert implementation.epoch() > 0
    assert implementation.loss is None


def test_the_graph_s_step_is_the_step_by_hand(images):
    losses = []
    for cls in (PlainTorch, PlainTorchCudaGraph):
        implementation = cls(images, SMALL)
        implementation.prepare()
        losses.append([implementation.run_epoch() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_images_are_grey_levels_and_as_many_as_asked_for():
    images = grey_images("digits", count=3000)
    assert images.dtype == torch.uint8
    assert images.shape == (3000, 64)
    assert int(images.max()) == 255
    assert torch.equal(images[0], images[1257])
    with pytest.raises(ValueError, match="data must be one of mnist, digits, got 'cats'"):
        grey_images("cats")
