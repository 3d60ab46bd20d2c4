"""Training against test data: an exact guide has no gaps, an encoder fitted to few data has."""

import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.predictive.generalisation import (
    Generalisation,
    generalisation,
    plot_generalisation,
    reference_log_density,
    sized_counts,
)
from pyro_vae.evidence.baseline_densities import independent_density, negative_binomial_log_density
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.model import VAE
from pyro_vae.priors import StandardNormal

EXACT = LinearGaussian((1, 4, 4), latent_dim=3)


class Memory(nn.Module):
    """The exact posterior of data that it knows; of others it misses the mean."""

    support = "real"

    def __init__(self, exact, known, miss):
        super().__init__()
        self.latent_dim = exact.latent_dim
        self.encoder = MemoryEncoder(exact, known, miss)

    def forward(self, x):
        mean, scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(mean, scale.exp()).to_event(1)

    def embed(self, x):
        return self(x).mean


class NormalPosterior(nn.Module):
    """N(mean, scale) of an encoder that gives the mean and the log scale."""

    support = "real"

    def __init__(self, encoder, latent_dim):
        super().__init__()
        self.encoder, self.latent_dim = encoder, latent_dim

    def forward(self, x):
        values = self.encoder(x.reshape(-1, *x.shape[-3:])).reshape(*x.shape[:-3], -1)
        mean, log_scale = values.chunk(2, -1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)

    def embed(self, x):
        return self(x).mean


class Shaped(nn.Module):
    """Logits of a flat network in the shape of a decoder's output."""

    def __init__(self, network, shape):
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, z):
        return self.network(z).reshape(*z.shape[:-1], *self.shape)


class MemoryEncoder(nn.Module):
    """Means and log scales, as an encoder gives them."""

    def __init__(self, exact, known, miss):
        super().__init__()
        posterior = exact.vae().posterior
        self.posterior, self.known, self.miss = posterior, known.flatten(1), miss
        self.log_scale = posterior.scale_tril.inverse().norm(dim=0).log().neg()

    def forward(self, x):
        mean = self.posterior.embed(x)
        distance = torch.cdist(x.flatten(-3).flatten(0, -2), self.known).amin(-1)
        unknown = (distance > 1e-4).to(x).view(*mean.shape[:-1], 1)
        return torch.cat([mean + self.miss * unknown, self.log_scale.expand_as(mean)], -1)


def overfitted(known, miss=0.3):
    exact = EXACT.vae()
    return VAE(StandardNormal(3), exact.likelihood, Memory(EXACT, known, miss))


def small(vae, train, test, **options):
    return generalisation(
        vae, train, test, **{"num_samples": 50, "gap_steps": 40, "num_gap_data": 12} | options
    )


def test_exact_guide_has_no_gaps_and_no_difference():
    result = small(EXACT.vae(), EXACT.draw(100, 1), EXACT.draw(100, 2))
    for split in (result.train, result.test):
        assert np.abs(split["inference"]).max() < 1.5
        assert abs(split["inference"].mean()) < 0.1
        assert not split["khat_above"].any()
    for name in ("log_evidence", "elbo"):
        difference, error = result.difference(name)
        assert abs(difference) < 4 * error
    truth = EXACT.log_evidence(EXACT.draw(100, 1)).numpy()
    np.testing.assert_allclose(result.train["log_evidence"].mean(), truth.mean(), atol=1e-3)
    assert [each.answer for each in result.verdicts()] == ["no", "no"]


def test_encoder_that_overfits_is_found():
    train, test = EXACT.draw(30, 1), EXACT.draw(30, 2)
    result = small(overfitted(train), train, test)
    assert result.left_out is None
    assert result.clearly_above("amortisation", -1)
    assert not result.clearly_above("log_evidence", 1)
    # The family is the same: KL between the diagonal and the posterior.
    difference, error = result.difference("approximation")
    assert abs(difference) < 5 * error + 0.05
    assert [each.answer for each in result.verdicts()] == ["no", "yes"]


@pytest.mark.slow
def test_encoder_trained_long_on_few_digits_loses_more_on_others():
    """Nothing planted: 50 binary digits, and so many steps that the encoder knows them by heart."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    x = torch.tensor(load_digits().images[:80] > 7.5).float().unsqueeze(1)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64))
    train, test = x[:50], x[50:]
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.005)
    for _ in range(1000):
        mean, log_scale = encoder(train).chunk(2, -1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        loss = (
            nn.functional.binary_cross_entropy_with_logits(
                decoder(z), train.flatten(1), reduction="sum"
            )
            + 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vae = VAE(
        StandardNormal(4),
        Bernoulli((1, 8, 8), lambda shape: Shaped(decoder, shape)),
        NormalPosterior(encoder, 4),
    )
    result = small(vae, train, test, num_gap_data=30, gap_steps=100)
    assert result.clearly_above("amortisation", -1)
    assert result.test["amortisation"].mean() > 3 * result.train["amortisation"].mean()
    assert result.verdicts()[1].answer == "yes"


def test_a_difference_says_its_sign():
    names = ("log_evidence", "elbo", "reconstruction", "rate", "inference", "amortisation")
    rng = np.random.default_rng(0)
    test = {name: rng.normal(size=50) for name in names}
    result = Generalisation(test, test, 10, None)
    assert "log p(x) of training less test data is +0.00 ± " in result.reading()
    assert "nats per datum, within two standard errors" in result.reading()
    lower = Generalisation({name: test[name] - 5 for name in names}, test, 10, None)
    assert "of training less test data is -5.00 ± " in lower.reading()
    assert "below 0 by more than two standard errors" in lower.reading()
    assert "gap of test less training data is +5.00 ± " in lower.reading()


def test_an_error_of_something_else_is_not_swallowed():
    with pytest.raises(ValueError, match="steps must be at least 3, got 2"):
        small(EXACT.vae(), EXACT.draw(5, 1), EXACT.draw(5, 2), gap_steps=2)


def test_decoder_that_overfits_is_found():
    train = EXACT.draw(100, 1)
    result = small(EXACT.vae(), train, EXACT.draw(100, 2, shift=1.0))
    assert result.clearly_above("log_evidence", 1)
    assert result.verdicts()[0].answer == "yes"


def test_without_an_encoder_the_gap_is_not_taken_apart():
    exact = BernoulliMixture((1, 4, 4))
    result = small(exact.vae(), exact.draw(20, 1), exact.draw(20, 2))
    assert "amortisation" not in result.train
    assert "replaces the posterior's encoder" in result.summary()["gaps_left_out"]
    assert "not decomposed" in result.reading()


def test_differences_by_hand():
    names = ("log_evidence", "elbo", "reconstruction", "rate", "inference")
    train = {name: np.array([1.0, 3.0]) for name in names}
    test = {name: np.array([0.0, 0.0, 3.0]) for name in names}
    result = Generalisation(train, test, 10, "it has none.")
    difference, error = result.difference("elbo")
    assert difference == pytest.approx(1.0)
    assert error == pytest.approx(math.sqrt(2 / 2 + 3 / 3))
    summary = result.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["terms"]["elbo"]["difference_se"] == pytest.approx(math.sqrt(2))


def test_bad_numbers_are_refused():
    x = EXACT.draw(3, 0)
    with pytest.raises(ValueError, match="num_gap_data must be at least 1, got 0"):
        generalisation(EXACT.vae(), x, x, num_gap_data=0)
    with pytest.raises(ValueError, match="got none"):
        generalisation(EXACT.vae(), x[:0], x)


def test_figure(words):
    rng = np.random.default_rng(0)
    names = ("log_evidence", "elbo", "reconstruction", "rate", "inference", "amortisation")
    train, test = ({name: rng.normal(size=20) for name in names} for _ in range(2))
    axes, text = words(plot_generalisation(Generalisation(train, test, 10, None)))
    assert "amortisation gap" in text
    assert "training" in text
    assert all(ax.get_xlabel() and ax.get_title() for ax in axes)


@pytest.mark.parametrize("train", [[3.0], [1.0, -np.inf, 2.0]], ids=["one", "infinite"])
def test_what_has_no_standard_error_is_not_judged(train):
    test = np.array([-1.0, 3.0])
    names = ("log_evidence", "inference")
    result = Generalisation(
        {name: np.array(train) for name in names},
        {name: test for name in names},
        10,
        "it has none.",
    )
    reading = result.reading()
    assert [each.answer for each in result.verdicts()] == ["not known", "not known"]
    assert "nan" not in reading


def test_cells_that_are_larger_are_no_overfitting():
    """A density that was never fitted to the data is lower on cells with more counts, as any other is."""
    rng = np.random.default_rng(0)
    mean, dispersion = rng.gamma(2.0, 2.0, 40), np.full(40, 2.0)
    sizes = rng.uniform(0.3, 1.0, 600), rng.uniform(0.8, 2.5, 400)
    train, test = (rng.negative_binomial(2, 2 / (2 + size[:, None] * mean)) for size in sizes)
    grid = np.linspace(0.2, 3, 40)
    true = [negative_binomial_log_density(x, mean, dispersion, grid) for x in (train, test)]
    rows = np.arange(0, 600, 2)
    name, *reference = reference_log_density(
        train, rows, test, lambda x: sized_counts(x, np.concatenate([train.sum(1), test.sum(1)]))
    )
    splits = [
        {"log_evidence": density, "inference": np.zeros(len(density)), "reference": of_reference}
        for density, of_reference in zip((true[0][rows], true[1]), reference, strict=True)
    ]
    result = Generalisation(*splits, 10, "it has none.", reference=name)
    assert result.difference("log_evidence")[0] > 10
    assert result.verdicts()[0].answer == "no"
    assert "that of a negative binomial for each element, of any size" in result.reading()
    # What a model knows by heart of its training data stays.
    learned = {**splits[0], "log_evidence": splits[0]["log_evidence"] + 3}
    result = Generalisation(learned, splits[1], 10, "it has none.", reference=name)
    assert result.verdicts()[0].answer == "yes"
    assert result.adjusted()[0] == pytest.approx(3, abs=1)
    summary = result.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_reference_has_not_seen_what_it_scores():
    """Each training row is as probable as a test row, with few data, too."""
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(30, 20)), rng.normal(size=(2000, 20))
    _, of_train, of_test = reference_log_density(
        train, np.arange(30), test, lambda x: independent_density(x, "real")
    )
    assert of_train.mean() == pytest.approx(of_test.mean(), abs=4 * of_train.std() / np.sqrt(30))
    seen = independent_density(train, "real").log_density(train).mean()
    assert seen > of_test.mean() + 0.7
    assert seen > of_train.mean() + 0.5


def test_the_reference_is_of_the_rows_that_are_evaluated():
    train, test = EXACT.draw(40, 1), EXACT.draw(30, 2)
    result = small(EXACT.vae(), train, test, num_gap_data=2, gap_steps=3, support="real")
    assert result.reference == "a normal for each element"
    for split, rows in ((result.train, train), (result.test, test)):
        known = independent_density(train.numpy(), "real").log_density(rows.numpy())
        assert np.corrcoef(split["reference"], known)[0, 1] > 0.98
    assert 0 < result.slope < 2
