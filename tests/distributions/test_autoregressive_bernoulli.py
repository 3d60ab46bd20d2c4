"""Autoregressive Bernoullis: a density over all events, drawn as it is scored, in order."""

import itertools

import pytest
import torch
from scipy import stats

from pyro_vae.distributions import AutoregressiveBernoulli
from pyro_vae.networks import MaskedMLP


def random_network(elements, hidden, context=2):
    torch.manual_seed(1)
    network = MaskedMLP(elements, context, hidden)
    for parameter in network.parameters():
        parameter.data.normal_()
    return network


@pytest.mark.parametrize("elements", [1, 2, 7])
@pytest.mark.parametrize("hidden", [1, 3, 40])
def test_outputs_read_the_elements_before_and_no_others(elements, hidden):
    network = random_network(elements, hidden)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x, torch.full((hidden,), 3.0)), torch.rand(elements)
    )
    assert (jacobian.triu() == 0).all()
    assert (jacobian[torch.tril_indices(elements, elements, -1).unbind()] != 0).all()


def test_hidden_units_alone_connect_each_element_to_all_before():
    network = random_network(7, 60)
    network.skip.data.zero_()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x, torch.full((60,), 9.0)), torch.rand(7)
    )
    assert (jacobian[torch.tril_indices(7, 7, -1).unbind()] != 0).all()


@pytest.mark.parametrize("hidden", [2, 30])
def test_all_events_have_mass_one_and_draws_their_frequencies(hidden):
    network = random_network(4, hidden)
    p = AutoregressiveBernoulli(torch.randn(2, 2), network.start(torch.randn(2)), network, 2)
    events = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    mass = p.log_prob(events.view(-1, 2, 2)).exp().detach().double()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-5)
    x = p.expand((40_000,)).sample().view(-1, 4).long()
    counts = (x @ torch.tensor([8, 4, 2, 1])).bincount(minlength=16).double()
    # Cells that are rare together.
    common = mass > 2e-4
    observed = torch.cat([counts[common], counts[~common].sum().view(1) + 1])
    expected = torch.cat([mass[common], mass[~common].sum().view(1) + 1 / 40_000])
    expected = expected / expected.sum() * observed.sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_mean_pass_is_exact_for_the_first_element_and_without_a_network():
    network = random_network(5, 20)
    logits = torch.randn(3, 5)
    p = AutoregressiveBernoulli(logits, network.start(torch.randn(3, 2)), network)
    draws = p.expand((20_000, 3)).sample()
    torch.testing.assert_close(draws[..., 0].mean(0), p.mean[:, 0].detach(), atol=0.02, rtol=0)
    for parameter in network.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(p.mean, (logits + 0 * p.start.sum()).sigmoid())


def test_huge_logits_are_finite():
    network = random_network(6, 10)
    logits = torch.tensor([1e4, -1e4, 0, 1e4, -1e4, 1], requires_grad=True)
    p = AutoregressiveBernoulli(logits, network.start(1e4 * torch.ones(2)), network)
    log_prob = p.log_prob(torch.tensor([0, 1, 0, 1, 0, 1]))
    log_prob.backward()
    assert log_prob.isfinite()
    assert logits.grad.isfinite().all()
