"""Likelihoods of counts: where they start, and how the library size enters."""

from functools import partial

import pytest
import torch

from pyro_vae import networks
from pyro_vae.likelihoods import (
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pyro_vae.model import build

DECODER = partial(networks.MLP, (2,), hidden=(6,))
NEGATIVE_BINOMIALS = [NegativeBinomial, ZeroInflatedNegativeBinomial]


def silent(likelihood):
    """The same, with a decoder that gives zeros."""
    for parameter in likelihood.decoder.parameters():
        parameter.data.zero_()
    return likelihood


@pytest.mark.parametrize("part", NEGATIVE_BINOMIALS)
def test_the_mean_starts_from_the_training_data(part):
    data = torch.poisson(torch.tensor([4.0, 1.0, 30.0]).expand(500, 3))
    each = silent(part((3,), DECODER, library=False, train_data=data))
    gate = 0.5 if part is ZeroInflatedNegativeBinomial else 1
    torch.testing.assert_close(each(torch.zeros(2)).mean, gate * data.mean(0))
    whole = silent(part((3,), DECODER, library=True, train_data=data))
    torch.testing.assert_close(whole(torch.zeros(2)).mean.sum(), gate * data.sum(1).mean())


def test_proportions_and_the_library_size_are_decoded_apart():
    likelihood = NegativeBinomial((1, 2, 2), DECODER, library=True)
    z = torch.randn(5, 2)
    log_proportions, log_size = likelihood.outputs(z)
    proportions = log_proportions.flatten(1).softmax(1).view(5, 1, 2, 2)
    size = log_size.flatten(1).mean(1).exp()
    torch.testing.assert_close(likelihood(z).mean, 4 * size[:, None, None, None] * proportions)
    torch.testing.assert_close(likelihood(z).mean.flatten(1).sum(1), 4 * size)


@pytest.mark.parametrize(
    "part", [Poisson, NegativeBinomial, partial(NegativeBinomial, library=True)]
)
def test_means_start_at_the_means_of_the_data(part):
    counts = torch.distributions.Poisson(torch.tensor([1e-3, 1.0, 1e3, 1e7])).sample((500,))
    counts[:, 0] = 0
    likelihood = silent(part((4,), DECODER, train_data=counts))
    wanted = counts.double().mean(0).clamp(min=1 / 500).float()
    torch.testing.assert_close(likelihood(torch.zeros(2)).mean, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", NEGATIVE_BINOMIALS)
def test_the_inverse_dispersion_starts_where_it_is_told(part):
    likelihood = part((3,), DECODER, initial_inverse_dispersion=7.0)
    log_t = likelihood(torch.randn(2)).base_dist.log_inverse_dispersion
    torch.testing.assert_close(log_t.exp(), torch.full((3,), 7.0))


@pytest.mark.parametrize("part", NEGATIVE_BINOMIALS)
@pytest.mark.parametrize("option", [{"dispersion": "x"}, {"initial_inverse_dispersion": 0.0}])
def test_wrong_options_are_refused(part, option):
    # Where types are checked, that comes first.
    with pytest.raises(Exception, match=next(iter(option))):
        part((3,), DECODER, **option)


@pytest.mark.parametrize("part", [*NEGATIVE_BINOMIALS, Multinomial])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_decoder_outputs_are_finite(part, size):
    class Huge(networks.MLP):
        def forward(self, inputs):
            return size * super().forward(inputs)

    options = {} if part is Multinomial else {"dispersion": "decoded", "library": True}
    likelihood = part((3,), partial(Huge, (2,), hidden=(6,)), **options)
    log_prob = likelihood(torch.randn(50, 2)).log_prob(torch.tensor([0.0, 3.0, 900.0]))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_multinomial_draws_the_mean_total():
    data = torch.tensor([[3, 4, 0], [1, 1, 2]])
    likelihood = Multinomial((3,), DECODER, train_data=data)
    x = likelihood(torch.randn(7, 2)).sample()
    assert (x.sum(-1) == 6).all()
    assert (Multinomial((3,), DECODER, total_count=9)(torch.randn(2)).sample().sum() == 9).all()
    with pytest.raises(ValueError, match="total_count must be at least 1, got 0"):
        Multinomial((3,), DECODER, total_count=0)


@pytest.mark.parametrize("part", [*NEGATIVE_BINOMIALS, Multinomial])
def test_a_saved_model_needs_no_training_data(part):
    data = torch.randint(0, 9, (20, 4))
    trained = build((4,), 2, likelihood=part, train_data=data)
    loaded = build((4,), 2, likelihood=part)
    loaded.load_state_dict(trained.state_dict())
    z = torch.randn(3, 2)
    torch.testing.assert_close(loaded.decode(z), trained.decode(z), rtol=0, atol=0)
