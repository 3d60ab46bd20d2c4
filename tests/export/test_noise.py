"""Draws from given noise have the distribution of a program's own, and are its own numbers."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from pyro_vae import build, priors
from pyro_vae.data import DataContract, Dataset, PreparedData
from pyro_vae.export.modules import Sampler
from pyro_vae.export.noise import GammaQuantiles, GivenNoise

N = 5000


def test_gamma_quantiles():
    a = torch.tensor([1.0 + 1e-6, 1.5, 30.0, 1e6], dtype=torch.float64)
    t = torch.linspace(-7.9, 7.9, 1001, dtype=torch.float64)
    found = GammaQuantiles(a)(t[:, None].expand(-1, 4)).numpy()
    for k, concentration in enumerate(a.tolist()):
        u = special.ndtr(t.numpy())
        exact = np.where(
            t.numpy() < 0,
            special.gammaincinv(concentration, u),
            special.gammainccinv(concentration, special.ndtr(-t.numpy())),
        )
        np.testing.assert_allclose(found[:, k], exact, rtol=1e-8)


def test_categories_by_inversion():
    weights = torch.tensor([0.0, 2.0, 0.0, 6.0, 0.0])
    with GivenNoise(None, torch.tensor([[0.0], [0.2499], [0.2501], [0.999999]])):
        drawn = torch.multinomial(weights, 4, replacement=True)
        assert drawn.tolist() == [1, 1, 3, 3]
    u = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    with GivenNoise(None, u):
        rows = torch.multinomial(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 2, replacement=True)
    assert rows.tolist() == [[0, 0], [0, 1]]


@pytest.fixture(scope="module")
def sampler():
    """The sampler of a prior."""

    def sampler(name):
        kind = priors.PRIORS[name]
        x = torch.randn(60, 4)
        posterior = {"positive": "gamma", "unit": "beta", "simplex": "dirichlet"}
        posterior |= {"sphere": "von_mises_fisher", "one_hot": "one_hot"}
        posterior |= {"sparse": "spike_and_slab"}
        guide = posterior.get(kind.support, "diagonal_normal")
        data = {"train_data": x, "likelihood": "normal", "posterior": guide}
        vae = build((4,), 3, prior=kind, **data).eval()
        dataset = Dataset.from_array(x.numpy())
        vae.contract = DataContract.from_data(PreparedData(dataset, "real"))
        return vae, Sampler(vae)

    return sampler


def test_the_same_numbers_give_the_same_samples(sampler):
    """`vae.sample` with a seed is the sampler at that generator's numbers."""
    for name, draw in (("standard_normal", torch.randn), ("logistic", torch.rand)):
        vae, exported = sampler(name)
        torch.manual_seed(3)
        noise = draw(5, 3)
        with torch.no_grad():
            x, _ = exported(noise)
        np.testing.assert_allclose(vae.sample(5, seed=3), x.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in priors.PRIORS if "flow" not in n])
def test_draws_have_the_distribution_of_the_prior(name, sampler):
    torch.manual_seed(0)
    vae, exported = sampler(name)
    draws = {"normal": torch.randn, "uniform": torch.rand}
    noise = [draws[kind](N, number) for kind, number in exported.columns.items()]
    with torch.no_grad():
        _, z = exported(*noise)
        own = vae.prior().sample((N,))
    # Each coordinate, and all together.
    for direction in (*torch.eye(z.shape[1]), torch.randn(z.shape[1])):
        one, other = ((each @ direction).numpy() for each in (z, own))
        assert stats.ks_2samp(one, other, method="asymp").pvalue > 1e-4
