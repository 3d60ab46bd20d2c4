"""The mutual information of datum and latent variable under the guide."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import build, posteriors, priors
from pyro_vae.model import VAE
from pyro_vae.mutual_information import mutual_information


class Unused(nn.Module):
    """A likelihood that ignores z: the mutual information does not ask for it."""

    support = "real"

    def forward(self, z: Tensor) -> dist.Distribution:
        zeros = torch.zeros((*z.shape[:-1], 1))
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)


class Scaled(nn.Module):
    """q(z | x) = N(gain x, scale^2) in each of `latent_dim` dimensions."""

    support = "real"

    def __init__(self, gain: float, scale: float, latent_dim: int = 1) -> None:
        super().__init__()
        self.gain, self.scale, self.latent_dim = gain, scale, latent_dim

    def forward(self, x: Tensor) -> dist.Distribution:
        loc = self.gain * x.expand(*x.shape[:-1], self.latent_dim)
        return dist.Normal(loc, self.scale * torch.ones_like(loc)).to_event(1)


def a_vae(gain: float, scale: float, latent_dim: int = 1) -> VAE:
    return VAE(priors.StandardNormal(latent_dim), Unused(), Scaled(gain, scale, latent_dim))


def test_a_linear_gaussian_channel_has_its_capacity():
    """x ~ N(0, 1), z | x ~ N(2 x, 1): I = 1/2 log(1 + 2^2)."""
    # A seed of its own: noise of the same stream would repeat the data.
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(7))
    found = mutual_information(a_vae(2.0, 1.0), x, max_data=2000)
    assert found.num_data == 2000
    assert 0 < found.standard_error < 0.03
    assert found.value == pytest.approx(0.5 * math.log(5), abs=4 * found.standard_error)
    assert not found.saturated


def test_three_data_agree_with_quadrature():
    """I of a uniform choice among three data, by a sum over a grid; the mean over many seeds."""
    x = torch.tensor([[-1.0], [0.2], [1.5]])
    grid = np.linspace(-8, 8, 20_001)
    q = np.exp(-((grid - x.numpy()) ** 2) / 2) / math.sqrt(2 * math.pi)
    exact = (q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean() * (grid[1] - grid[0])
    values = [mutual_information(a_vae(1.0, 1.0), x, seed=seed).value for seed in range(400)]
    error = np.std(values) / math.sqrt(len(values))
    assert np.mean(values) == pytest.approx(exact, abs=4 * error)


def test_a_collapsed_guide_has_none():
    x = torch.randn(50, 1)
    found = mutual_information(a_vae(0.0, 0.7, 3), x)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_posteriors_apart_saturate_at_log_n():
    x = torch.arange(60.0)[:, None]
    found = mutual_information(a_vae(1000.0, 0.1, 2), x)
    assert found.value == pytest.approx(math.log(60), abs=1e-12)
    assert found.log_n == math.log(60)
    assert found.saturated


def test_chunks_change_nothing(monkeypatch):
    x = torch.randn(37, 1)
    whole = mutual_information(a_vae(1.0, 1.0), x)
    monkeypatch.setattr("pyro_vae.mutual_information._ELEMENTS", 5 * 37)
    assert mutual_information(a_vae(1.0, 1.0), x).value == pytest.approx(whole.value, abs=1e-12)


def test_of_many_data_some_are_chosen_and_no_stream_moves():
    x = torch.randn(100, 1)
    before = torch.get_rng_state()
    found = mutual_information(a_vae(1.0, 1.0), x, max_data=30)
    assert found.num_data == 30
    assert found == mutual_information(a_vae(1.0, 1.0), x, max_data=30)
    assert found != mutual_information(a_vae(1.0, 1.0), x, max_data=30, seed=1)
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("name", posteriors.WITH_DENSITY)
def test_every_posterior_has_one(name):
    posterior = posteriors.POSTERIORS[name]
    prior = next(p for p in priors.PRIORS.values() if p.support == posterior.support)
    pyro.set_rng_seed(0)
    vae = build((1, 4, 4), 4, prior=prior, posterior=posterior)
    x = torch.bernoulli(torch.full((12, 1, 4, 4), 0.5))
    found = mutual_information(vae, x)
    assert math.isfinite(found.value)
    assert found.value <= found.log_n + 1e-9


class TwoSites(nn.Module):
    """A program with two latent sites."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(0.0, 1.0))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name in ("z1", "z2"):
                pyro.sample(name, dist.Normal(0.0, 1.0))


def test_bad_input_is_refused():
    x = torch.zeros(3, 1)
    with pytest.raises(
        ValueError, match=r"one latent site can be estimated, got the sites z1, z2"
    ):
        mutual_information(TwoSites(), x)
    with pytest.raises(ValueError, match="max_data must be at least 1, got 0"):
        mutual_information(a_vae(1.0, 1.0), x, max_data=0)
    with pytest.raises(ValueError, match="at least one example"):
        mutual_information(a_vae(1.0, 1.0), x[:0])


def test_integers_are_made_floats():
    torch.manual_seed(0)
    vae = build((4, 4), latent_dim=3)
    x = torch.bernoulli(torch.full((20, 4, 4), 0.3))
    assert mutual_information(vae, x.to(torch.uint8)) == mutual_information(vae, x)
