"""Mixtures that start from data."""

from functools import partial

import pytest
import torch

from pyro_vae.model import build
from pyro_vae.priors import GaussianMixture, StudentT, Vamp

SHAPE = (1, 2, 2)


def clusters(n=300):
    """Three tight clusters of pictures."""
    corner = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1]])
    label = torch.arange(n) % 3
    return (corner[label] + 0.01 * torch.randn(n, 4)).view(n, *SHAPE), corner


def test_vamp_starts_at_k_means_centres_and_repeats():
    x, corner = clusters()

    def start():
        torch.manual_seed(3)
        part = partial(Vamp, components=3, start="kmeans")
        return build(SHAPE, 2, prior=part, train_data=x).prior.pseudo_inputs.detach()

    one = start()
    assert torch.cdist(corner, one.flatten(1)).amin(1).max() < 0.01
    torch.testing.assert_close(one, start(), rtol=0, atol=0)


def test_vamp_starts_near_the_mean():
    x, _ = clusters()
    part = partial(Vamp, components=500, start="mean")
    inputs = build(SHAPE, 2, prior=part, train_data=x).prior.pseudo_inputs.detach()
    torch.testing.assert_close(inputs.mean(0), x.mean(0), rtol=0, atol=0.01)
    assert float((inputs - x.mean(0)).std()) == pytest.approx(0.05 * float(x.std()), rel=0.1)


@pytest.mark.parametrize("start", ["data", "kmeans"])
def test_mixture_starts_at_the_posterior_of_the_data(start):
    x, _ = clusters()
    part = partial(GaussianMixture, components=3, start=start)
    vae = build(SHAPE, 2, prior=part, train_data=x)
    codes = vae.posterior.embed(x)
    assert torch.cdist(vae.prior.loc, codes).amin(1).max() < 0.1
    draws, p = vae.posterior(x).sample((20,)).flatten(0, 1), vae.prior()
    torch.testing.assert_close(p.mean, draws.mean(0), rtol=0, atol=0.2)
    # It fits what it was started from better than the random start does.
    random = build(SHAPE, 2, prior=partial(GaussianMixture, components=3), train_data=x).prior()
    assert p.log_prob(draws).mean() > random.log_prob(draws).mean()
    assert not any("encoder" in name for name, _ in vae.prior.named_parameters())


@pytest.mark.parametrize(
    "part", [partial(Vamp, start="kmeans"), partial(GaussianMixture, start="kmeans")]
)
def test_without_data_the_start_is_random(part):
    build(SHAPE, 2, prior=part)
    with torch.device("meta"):
        build(SHAPE, 2, prior=part)


@pytest.mark.parametrize("part", [Vamp, GaussianMixture])
def test_too_few_data(part):
    x, _ = clusters(5)
    with pytest.raises(ValueError, match="at least as many training data as components, got 5"):
        build(SHAPE, 2, prior=partial(part, components=6, start="kmeans"), train_data=x)
    build(SHAPE, 2, prior=partial(part, components=6, start="data"), train_data=x)


def test_degrees_of_freedom_are_learned_from_where_they_start():
    for df in (0.5, 5.0, 1000.0):
        prior = StudentT(3, df=df, learn_df=True)
        torch.testing.assert_close(prior().base_dist.df, torch.full((3,), df), rtol=1e-4, atol=0)
        (parameter,) = prior.parameters()
        (-prior().log_prob(torch.randn(50, 3)).sum()).backward()
        assert parameter.grad.abs().min() > 0
    assert not list(StudentT(3).parameters())


@pytest.mark.parametrize("df", [0.0, -1.0, float("inf"), float("nan")])
def test_degrees_of_freedom_must_be_positive(df):
    with pytest.raises(ValueError, match="df must be above 0 and finite"):
        StudentT(3, df=df)
