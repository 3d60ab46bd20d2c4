"""Bits per dimension of likelihoods whose code is known: uniform over what an element can be."""

import math
from functools import partial

import pytest
import torch

from pyro_vae import networks
from pyro_vae.data import Dataset
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.training.fit import prepare_for_likelihood

LEVELS = 17
# With a decoder that gives zeros, uniform on the support (of levels: but for the ends of a logistic).
UNIFORM = {
    "bernoulli": ({}, 1.0),
    "autoregressive_bernoulli": ({}, 1.0),
    "continuous_bernoulli": ({}, math.log2(LEVELS)),
    "beta": ({"initial_precision": 1.98}, math.log2(LEVELS)),
    "categorical": ({}, math.log2(LEVELS)),
}


def likelihood_and_data(name, support="integers", **options):
    part = LIKELIHOODS[name]
    levels = {"levels": LEVELS} if part.support == "integers" else {}
    decoder = partial(networks.MLP, (2,), hidden=(6,))
    likelihood = part((1, 2, 3), decoder, **levels, **options)
    for parameter in likelihood.decoder.parameters():
        parameter.data.zero_()
    if hasattr(likelihood, "masked"):
        for parameter in likelihood.masked.parameters():
            parameter.data.zero_()
    values = torch.randint(LEVELS, (60, 1, 2, 3))
    if support == "integers":
        data = Dataset.from_array(values.to(torch.uint8), levels=LEVELS)
    else:
        data = Dataset.from_array(values, support="counts")
    return likelihood, prepare_for_likelihood(data, part)


def bits(likelihood, data):
    x = data.fixed("train").float()
    return data.bits_per_dim(float(likelihood(torch.zeros(len(x), 2)).log_prob(x).detach().mean()))


@pytest.mark.parametrize("name", UNIFORM)
def test_a_uniform_density_costs_the_logarithm_of_what_there_is(name):
    options, expected = UNIFORM[name]
    assert bits(*likelihood_and_data(name, **options)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["discretized_logistic", "logistic_mixture"])
def test_integers_cost_minus_log2_of_their_probability(name):
    likelihood, data = likelihood_and_data(name)
    x = data.fixed("train").double()
    # The same for each element: the mass of all levels of one, with the others at 0.
    z = torch.zeros(LEVELS, 2)
    events = torch.zeros(LEVELS, 1, 2, 3)
    events[:, 0, 0, 0] = torch.arange(LEVELS)
    log_mass = likelihood(z).log_prob(events).double().log_softmax(0)
    expected = -float(log_mass[x.long()].detach().mean()) / math.log(2)
    assert bits(likelihood, data) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "multinomial"])
def test_counts_cost_minus_log2_of_their_probability(name):
    likelihood, data = likelihood_and_data(name, support="counts")
    x = data.fixed("train").float()
    log_prob = likelihood(torch.zeros(len(x), 2)).log_prob(x).detach().double().mean()
    assert bits(likelihood, data) == pytest.approx(-float(log_prob) / 6 / math.log(2))


@pytest.mark.parametrize("name", ["normal", "laplace", "student_t", "low_rank_normal"])
def test_real_densities_of_scaled_levels_are_no_code(name):
    assert bits(*likelihood_and_data(name)) is None


def test_what_does_not_fit_is_named_in_a_line():
    data = Dataset.from_array(torch.rand(20, 4))
    with pytest.raises(
        ValueError, match=r"LogisticMixture does not fit: .* unit: continuous"
    ) as e:
        prepare_for_likelihood(data, LIKELIHOODS["logistic_mixture"])
    assert "\n" not in str(e.value)
