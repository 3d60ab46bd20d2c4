"""Densities without a network: they are normalised, and find the parameters that made the data."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from analysis.baselines import (
    fit_negative_binomial,
    histogram_log_density,
    negative_binomial_log_density,
)


def test_a_histogram_by_hand_and_its_mass():
    train = np.array([[0, 2], [0, 1], [1, 1]])
    (value,) = histogram_log_density(train, np.array([[0, 2]]), 3)
    assert value == pytest.approx(math.log(3 / 6 * 2 / 6))
    everything = np.array(list(itertools.product(range(3), repeat=2)))
    assert logsumexp(histogram_log_density(train, everything, 3)) == pytest.approx(0)
    # An image is its elements in a row.
    images = histogram_log_density(train.reshape(3, 1, 2), everything.reshape(9, 1, 2), 3)
    assert np.array_equal(images, histogram_log_density(train, everything, 3))
    with pytest.raises(ValueError, match="from 0 to 1"):
        histogram_log_density(train, everything, 2)


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
