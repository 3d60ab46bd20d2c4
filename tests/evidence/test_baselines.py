"""Densities without a network: they are normalised, and find the parameters that made the data."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from pyro_vae.evidence.baselines import (
    fit_negative_binomial,
    histogram,
    independent_density,
    negative_binomial_log_density,
)


def test_a_histogram_by_hand_and_its_mass():
    train = np.array([[0, 2], [0, 1], [1, 1]])
    (value,) = histogram(train, 3)(np.array([[0, 2]]))
    assert value == pytest.approx(math.log(3 / 6 * 2 / 6))
    everything = np.array(list(itertools.product(range(3), repeat=2)))
    for width in (1, 2, 4):
        assert logsumexp(histogram(train, 3, width)(everything)) == pytest.approx(0)
    # Cells of two levels: the first has 3 of 3 counts of the first element, and is halved.
    (value,) = histogram(train, 3, 2)(np.array([[0, 2]]))
    assert value == pytest.approx(math.log(4 / 5 / 2 * 2 / 5))
    # An image is its elements in a row.
    images = histogram(train.reshape(3, 1, 2), 3)(everything.reshape(9, 1, 2))
    assert np.array_equal(images, histogram(train, 3)(everything))
    with pytest.raises(ValueError, match="from 0 to 1"):
        histogram(train, 2)


def negative_binomial(mean, dispersion):
    return stats.nbinom(dispersion, dispersion / (dispersion + mean))


def test_the_fit_finds_what_made_the_counts():
    rng = np.random.default_rng(0)
    mean, dispersion = np.array([0.5, 4.0, 30.0]), np.array([0.4, 2.0, 10.0])
    size = rng.uniform(0.3, 3, 20_000)
    counts = negative_binomial(mean * size[:, None], dispersion).rvs(random_state=rng)
    fitted = fit_negative_binomial(counts, size)
    np.testing.assert_allclose(fitted[0], mean, rtol=0.03)
    np.testing.assert_allclose(fitted[1], dispersion, rtol=0.06)
    # Without sizes the mean of a negative binomial is the sample mean, whatever its dispersion.
    means, _ = fit_negative_binomial(counts)
    np.testing.assert_allclose(means, counts.mean(0), rtol=1e-3)


def test_counts_without_overdispersion_and_genes_that_are_not_there():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.binomial(10, 0.5, 5000), np.zeros(5000, int)], 1)
    mean, dispersion = fit_negative_binomial(counts)
    assert dispersion[0] > 1e4
    assert mean[1] == pytest.approx(1e-6)
    assert np.isfinite(negative_binomial_log_density(np.array([[3, 2]]), mean, dispersion)).all()


def test_the_density_is_scipys_and_a_mixture_over_sizes():
    mean, dispersion = np.array([0.5, 4.0]), np.array([0.4, 2.0])
    counts = np.array([[0, 3], [7, 100]])
    expected = negative_binomial(mean, dispersion).logpmf(counts).sum(1)
    value = negative_binomial_log_density(counts, mean, dispersion)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    sizes = np.array([0.5, 2.0, 9.0])
    expected = logsumexp(
        [negative_binomial(s * mean, dispersion).logpmf(counts).sum(1) for s in sizes], axis=0
    ) - math.log(3)
    value = negative_binomial_log_density(counts, mean, dispersion, sizes)
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_each_family_is_normalised_and_bernoulli_rates_are_those_by_hand():
    rng = np.random.default_rng(2)
    binary = (rng.random((50, 1, 1, 3)) < 0.3).astype(np.uint8)
    every = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    log_p = independent_density(binary, "binary").log_density(every.reshape(8, 1, 1, 3))
    assert np.exp(log_p).sum() == pytest.approx(1)
    share = (binary.reshape(50, 3).sum(0) + 1) / 52
    assert log_p[5] == pytest.approx(np.log(share[0] * (1 - share[1]) * share[2]))
    grid = (np.arange(512) + 0.5) / 512
    on_unit = independent_density(rng.beta(2, 5, size=(100, 1)), "unit").log_density(grid[:, None])
    assert np.exp(on_unit).mean() == pytest.approx(1)
    counts = rng.negative_binomial(2, 0.2, size=(200, 1))
    free = independent_density(counts, "counts").log_density(np.arange(2000)[:, None])
    assert np.exp(free).sum() == pytest.approx(1)
    given = independent_density(rng.poisson(2, size=(50, 2)), "counts", given_total=True)
    pairs = np.stack([np.arange(8), 7 - np.arange(8)], 1)
    assert np.exp(given.log_density(pairs)).sum() == pytest.approx(1)
    real = rng.normal(2, 3, size=(4000, 1))
    line = np.linspace(-20, 24, 4401)
    assert np.exp(independent_density(real, "real").log_density(line[:, None])).sum() * 0.01 == pytest.approx(1)
