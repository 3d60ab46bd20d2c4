"""Any number of VAEs beside each other in Pyro's global parameter store."""

import copy
import gc
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample, pyro_method
from torch import nn
from torch.distributions import constraints

from pyro_vae import VAE, build, fit, likelihoods, networks, priors

SMALL = partial(networks.MLP, hidden=(8,))
X = torch.bernoulli(torch.linspace(0.05, 0.95, 16).expand(32, 16)).reshape(32, 1, 4, 4)


@pytest.fixture(autouse=True)
def store():
    """A store of its own for each test."""
    with pyro.get_param_store().scope():
        yield pyro.get_param_store()


def small(**options):
    return build((1, 4, 4), 2, network=SMALL, **options)


def svi_of(vae):
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())


def assert_trains(vae, x=X, svi=None):
    """Two steps change every parameter."""
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    svi = svi or svi_of(vae)
    for _ in range(2):
        svi.step(x)
    assert before
    assert [name for name, p in vae.named_parameters() if torch.equal(before[name], p)] == []


def test_the_second_of_the_same_shape_trains_and_the_first_stays(store):
    first, second = small(prior=priors.GaussianMixture), small(prior=priors.GaussianMixture)
    assert_trains(first)
    before = [p.clone() for p in first.parameters()]
    assert_trains(second)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), before, strict=True))
    # In turn, too, and each tensor is there once, under one name.
    assert_trains(first)
    assert_trains(second)
    assert len(store) == 2 * len(list(first.parameters()))


def test_a_vae_of_another_shape_trains():
    assert_trains(small())
    assert_trains(build((3,), 5, likelihood=likelihoods.Normal), torch.randn(9, 3))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_a_copy_trains_by_itself(copied):
    vae = small()
    assert_trains(vae)
    other = copied(vae)
    assert list(other.state_dict()) == list(vae.state_dict())
    before = [p.clone() for p in vae.parameters()]
    assert_trains(other)
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    assert_trains(vae)


def test_svi_and_fit_take_turns():
    vae, svi = small(), None
    svi = svi_of(vae)
    assert_trains(vae, svi=svi)
    before = [p.clone() for p in vae.parameters()]
    fit(vae, X, epochs=1)
    assert not any(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    assert_trains(vae, svi=svi)
    assert_trains(small())


def test_a_part_that_is_replaced_trains():
    vae = small()
    assert_trains(vae)
    vae.likelihood = small().likelihood
    assert_trains(vae)
    vae.load_state_dict(copy.deepcopy(vae.state_dict()), assign=True)
    assert_trains(vae)


def test_parameters_that_are_not_contiguous_train():
    vae = build((1, 8, 8), 2, network=networks.Conv).to(memory_format=torch.channels_last)
    assert_trains(vae, torch.rand(4, 1, 8, 8).round())


class WithOtherSites(VAE):
    """A VAE that can be in one program with another."""

    @pyro_method
    def model(self, x, y=None):
        with pyro.plate("others", len(x)):
            z = pyro.sample("other_z", self.prior())
            return pyro.sample("other_x", self.likelihood(z), obs=x)

    @pyro_method
    def guide(self, x, y=None):
        with pyro.plate("others", len(x)):
            return pyro.sample("other_z", self.posterior(x))


def test_both_train_in_one_program():
    first, parts = small(), small()
    second = WithOtherSites(parts.prior, parts.likelihood, parts.posterior)

    def both(method):
        return lambda x: (getattr(first, method)(x), getattr(second, method)(x))

    svi = SVI(both("model"), both("guide"), pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert_trains(first, svi=svi)
    assert_trains(second, svi=svi)


class LearnedPrior(PyroModule):
    """Pyro's own parameters and a random one in a part."""

    support, latent_dim = "real", 2

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.scale = PyroParam(torch.ones(2), constraint=constraints.positive)
        self.shift = PyroSample(dist.Normal(torch.zeros(2), 1).to_event(1))

    def forward(self):
        return dist.Normal(self.loc + self.shift, self.scale).to_event(1)


class WithShift(VAE):
    """A VAE whose guide has the random part of its prior, too."""

    @pyro_method
    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("prior.shift", dist.Normal(torch.zeros(2), 1).to_event(1))
            return pyro.sample("z", self.posterior(x))


def test_a_part_of_pyros_own_kind_trains_and_sites_keep_their_names():
    for _ in range(2):
        parts = small()
        vae = WithShift(LearnedPrior(), parts.likelihood, parts.posterior)
        assert_trains(vae)


def test_the_number_of_a_vae_that_is_gone_is_used_again(store):
    """So that the store does not grow with each VAE of a session."""
    gc.collect()
    vae = small()
    svi_of(vae).step(X)
    names = set(store)
    del vae
    gc.collect()
    again = small()
    assert_trains(again)
    assert set(store) == names


def test_the_store_can_be_cleared():
    vae = small()
    assert_trains(vae)
    pyro.clear_param_store()
    assert_trains(vae)
