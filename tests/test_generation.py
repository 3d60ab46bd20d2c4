"""Samples, reconstructions and interpolations, in the units and the form of what was given."""

import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import build, fit, likelihoods, load, priors
from pyro_vae.data import Dataset, digits

SCRIPT = Path(__file__).parents[1] / "scripts" / "svi_train.py"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table():
    """Two columns of very different spread that rise together, and what was trained on them."""
    z = RNG.normal(size=400)
    noise = RNG.normal(size=(2, 400))
    frame = pd.DataFrame(
        {"price": 3e6 + 1e6 * (z + 0.1 * noise[0]), "share": 0.01 * (z + 0.1 * noise[1])},
        index=[f"row {i}" for i in range(400)],
    )
    torch.manual_seed(0)
    vae = build((2,), 2, likelihood="normal")
    fit(vae, frame, epochs=60)
    return frame, vae


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    vae = build((1, 8, 8), 3)
    fit(vae, digits(), epochs=2)
    return digits().test.numpy(), vae


def test_a_table_comes_back_in_its_units(table):
    frame, vae = table
    again = vae.reconstruct(frame)
    assert list(again.columns) == ["price", "share"]
    assert again.index.equals(frame.index)
    assert ((again - frame).std() < 0.5 * frame.std()).all()
    for noise in (False, True):
        new = vae.sample(2000, noise=noise, seed=0)
        assert list(new.columns) == ["price", "share"]
        assert abs(new["price"].mean() / 3e6 - 1) < 0.2
        assert 0.3 < new["price"].std() / 1e6 < 1.5
        assert 0.3 < new["share"].std() / 0.01 < 1.5
    # Noise adds to the spread of the means.
    assert (vae.sample(2000, noise=True, seed=0).std() > vae.sample(2000, seed=0).std()).all()


def test_columns_are_matched_by_name(table):
    frame, vae = table
    other = vae.reconstruct(frame.assign(more=1.0)[["more", "share", "price"]])
    pd.testing.assert_frame_equal(other, vae.reconstruct(frame))


def test_what_is_given_says_the_form_of_what_comes_back(table, images):
    frame, vae = table
    array = vae.reconstruct(frame.to_numpy())
    np.testing.assert_allclose(array, vae.reconstruct(frame).to_numpy())
    tensor = vae.reconstruct(torch.tensor(frame.to_numpy()))
    np.testing.assert_allclose(tensor.numpy(), array)
    assert isinstance(vae.reconstruct(frame.to_numpy().tolist()), pd.DataFrame)
    x, vae = images
    # Without its axis of channels, x - reconstruct(x) would broadcast.
    assert vae.reconstruct(x[:5, 0]).shape == (5, 8, 8)
    assert vae.reconstruct(torch.tensor(x[:5])).shape == (5, 1, 8, 8)
    assert vae.sample(4).shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("likelihood", "most", "whole"),
    [
        ("bernoulli", 1, True),
        ("discretized_logistic", 16, True),
        ("logit_normal", 16, True),
        ("normal", 20, False),
    ],
)
def test_grey_levels_come_back_as_levels(likelihood, most, whole):
    """But binarised ones, of which there are probabilities."""
    x = digits().train.numpy()[:300]
    torch.manual_seed(0)
    vae = build((1, 8, 8), 4, likelihood=likelihood, levels=17)
    fit(vae, Dataset.from_array(x, levels=17), epochs=40)
    again, drawn = vae.reconstruct(x), vae.reconstruct(x, noise=True, seed=0)
    assert again.min() > -4
    assert again.max() <= most
    assert again.max() > 0.6 * most
    assert (drawn.dtype == np.int64) is whole
    scale = 16 if most == 1 else 1
    assert abs(scale * again.mean() - x.mean()) < 0.7
    assert abs(scale * drawn.mean() - x.mean()) < 0.7
    with pytest.raises(ValueError, match=r"values up to 1, .* levels 0 to 16: .*vae\.decode"):
        vae.reconstruct(torch.as_tensor(x > 8).float())


def test_counts_of_a_multinomial_have_their_own_total():
    x = RNG.poisson(3, (200, 6)) * RNG.integers(1, 4, (200, 1))
    x[:, 0] += 1
    vae = build((6,), 2, likelihood="multinomial")
    fit(vae, Dataset.from_array(x, support="counts"), epochs=2)
    np.testing.assert_allclose(vae.reconstruct(x).sum(1), x.sum(1), rtol=1e-5)
    assert vae.sample(3, noise=True).dtype == np.int64


def test_a_path_ends_in_the_reconstructions(table, images):
    frame, vae = table
    path = vae.interpolate(frame.iloc[0], frame.iloc[[1]], steps=5)
    assert list(path.columns) == ["price", "share"]
    ends = vae.reconstruct(frame.iloc[:2])
    np.testing.assert_allclose(path.iloc[[0, -1]], ends, rtol=1e-5)
    x, vae = images
    for a, b in ((x[0], x[1]), (x[0, 0], x[1, 0]), (torch.tensor(x[0]), torch.tensor(x[1]))):
        path = np.asarray(vae.interpolate(a, b, steps=4))
        assert path.shape == (4, *a.shape) if a.ndim == 2 else (4, 1, 8, 8)
        np.testing.assert_allclose(path[0].ravel(), vae.reconstruct(x[:1]).ravel(), rtol=1e-5)
        np.testing.assert_allclose(path[-1].ravel(), vae.reconstruct(x[1:2]).ravel(), rtol=1e-5)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        ("spherical_uniform", "von_mises_fisher"),
        ("dirichlet", "logistic_normal"),
        ("gamma", "gamma"),
        ("beta", "beta"),
        ("spike_and_slab", "spike_and_slab"),
        ("one_hot", "one_hot"),
    ],
)
def test_codes_stay_in_their_support(prior, posterior):
    vae = build((1, 8, 8), 4, prior=prior, posterior=posterior)
    x, seen = digits().test[:3].numpy(), []
    fit(vae, digits(), max_steps=1)
    vae.likelihood.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vae.reconstruct(x)
    if prior == "one_hot":
        with pytest.raises(ValueError, match=r"interpolate needs a continuous code.*one-hot"):
            vae.interpolate(x[0], x[1])
    else:
        vae.interpolate(x[0], x[1], steps=7)
        assert seen[-1].shape == (7, 4)
    for z in seen:
        if prior == "spherical_uniform":
            torch.testing.assert_close(z.norm(dim=-1), torch.ones(len(z)))
        if prior in ("dirichlet", "one_hot"):
            torch.testing.assert_close(z.sum(-1), torch.ones(len(z)))
        if prior == "one_hot":
            assert set(z.unique().tolist()) == {0.0, 1.0}
        if prior != "spherical_uniform" and prior != "spike_and_slab":
            assert z.min() >= 0


def test_a_seed_repeats_and_moves_no_other_stream(images):
    x, vae = images
    vae.train()
    state = torch.get_rng_state()
    first = [vae.sample(3, seed=1), vae.reconstruct(x[:2], noise=True, seed=1)]
    again = [vae.sample(3, seed=1), vae.reconstruct(x[:2], noise=True, seed=1)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], vae.sample(3, seed=2))
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert vae.training
    vae.eval()


def test_before_training_tensors_alone():
    vae = build((4,), 2, likelihood=likelihoods.Normal, prior=partial(priors.Vamp, components=3))
    assert vae.sample(3).shape == (3, 4)
    x = torch.randn(3, 4)
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(vae.embed(x)).detach())
    assert vae.interpolate(x[0], x[1], steps=3).shape == (3, 4)
    with pytest.raises(ValueError, match=r"not been trained.*fit it first"):
        vae.reconstruct(x.numpy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, x: vae.sample(0), "n must be a whole number of at least 1, got 0"),
        (lambda vae, x: vae.reconstruct(x[:, :, :4]), r"shape \(1, 8, 8\).*\(1, 4, 8\)"),
        (lambda vae, x: vae.reconstruct(x[0, 0]), "single image"),
        (lambda vae, x: vae.interpolate(x[:3], x[3:6]), "a must be one image, got 3"),
        (lambda vae, x: vae.interpolate(x[0], x[1], steps=1), "steps must be .* at least 2"),
    ],
)
def test_mistakes_are_one_line(images, call, message):
    x, vae = images
    with pytest.raises(ValueError, match=message) as error:
        call(vae, x)
    assert "\n" not in str(error.value)


def test_a_run_that_is_loaded_samples_in_its_units(tmp_path):
    frame = pd.DataFrame({"metres": 1e6 + 1e5 * RNG.normal(size=100), "y": RNG.normal(size=100)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    out = tmp_path / "run"
    words = f"--data {tmp_path / 'a.csv'} --likelihood normal --out {out} --max-steps 2"
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main([*words.split(), "--evaluate", "none"]) == 0
    new = load(out).sample(5, seed=0)
    assert list(new.columns) == ["metres", "y"]
    assert new["metres"].between(5e5, 1.5e6).all()
