"""Densities without a network: they are normalised, and find the parameters that made the data."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from scipy.special import logsumexp

from pyro_vae import build
from pyro_vae.data import Dataset, PreparedData, array_file
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence.baseline_densities import (
    factor_analysis,
    fit_negative_binomial,
    histogram,
    independent_density,
    negative_binomial_log_density,
)
from pyro_vae.evidence.baselines import fit_baselines
from pyro_vae.likelihoods import LIKELIHOODS


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


def test_the_fit_without_sizes_finds_the_dispersion_of_dense_and_sparse_counts():
    rng = np.random.default_rng(0)
    mean, dispersion = np.array([0.5, 4.0, 30.0]), np.array([0.4, 2.0, 10.0])
    counts = negative_binomial(mean, dispersion).rvs((20_000, 3), rng)
    _, expected = fit_negative_binomial(counts, np.ones(len(counts)))
    for rows in (counts, sparse.csr_array(counts)):
        fitted = fit_negative_binomial(rows)
        np.testing.assert_allclose(fitted[0], counts.mean(0))
        np.testing.assert_allclose(fitted[1], dispersion, rtol=0.08)
        # As the general fit finds it.
        np.testing.assert_allclose(fitted[1], expected, rtol=1e-2)


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
    assert np.exp(
        independent_density(real, "real").log_density(line[:, None])
    ).sum() * 0.01 == pytest.approx(1)


def test_a_normal_and_a_student_t_of_known_data():
    rng = np.random.default_rng(0)
    normal = stats.norm([2.0, -1000.0, 0.0], [3.0, 50.0, 1e-7])
    train, test = normal.rvs((4000, 3), rng), normal.rvs((2000, 3), rng)
    found = independent_density(train, "real", validation=test)
    np.testing.assert_allclose(
        found.log_density(test).mean(), normal.logpdf(test).sum(1).mean(), atol=0.01
    )
    heavy = stats.t(3, [0.0, 5.0], [1.0, 0.1])
    train, test = heavy.rvs((4000, 2), rng), heavy.rvs((2000, 2), rng)
    found = independent_density(train, "real", validation=test, heavy_tailed=True)
    assert found.name == "a Student's t for each element (nu = 3)"
    np.testing.assert_allclose(
        found.log_density(test).mean(), heavy.logpdf(test).sum(1).mean(), atol=0.01
    )


def test_a_column_that_was_constant_has_a_finite_density():
    rng = np.random.default_rng(0)
    train = np.stack([np.full(200, 7.0), *rng.normal(size=(2, 200))], 1)
    test = train + np.array([0.5, 0, 0])
    for found in (independent_density(train, "real"), factor_analysis(train, train)):
        assert np.isfinite(found.log_density(test)).all()
        assert found.log_density(train).mean() < 10


def test_factor_analysis_finds_a_planted_covariance_in_any_unit():
    rng = np.random.default_rng(0)
    unit = 10.0 ** np.arange(-3, 3)
    loadings, noise = rng.normal(size=(6, 2)), np.full(6, 0.3)
    covariance = loadings @ loadings.T + np.diag(noise**2)
    truth = stats.multivariate_normal(np.arange(6.0), covariance)
    train, validation, test = (truth.rvs(4000, rng) for _ in range(3))
    found = factor_analysis(train * unit, validation * unit, minimum_scale=0.01)
    assert found.factors == 2
    expected = truth.logpdf(test) - np.log(unit).sum()
    np.testing.assert_allclose(found.log_density(test * unit).mean(), expected.mean(), atol=0.02)


def test_a_column_that_is_another_one_does_not_make_the_density_unbounded():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    x = np.concatenate([x, x[:, :1]], 1)
    floored, free = (factor_analysis(x, x, minimum_scale=scale) for scale in (0.01, 0.0))
    assert floored.log_density(x).mean() < free.log_density(x).mean() - 5


@pytest.mark.parametrize("concentration", [(2.0, 5.0), (2.0, 2000.0)])
def test_fractions_have_the_family_that_validation_prefers(concentration):
    rng = np.random.default_rng(0)
    truth = stats.beta(*concentration)
    train, validation, test = (truth.rvs((3000, 2), rng) for _ in range(3))
    found = independent_density(train, "unit", validation=validation, logit_normal=True)
    # Near 0, where a beta is a gamma, a histogram of 256 cells is too coarse.
    assert ("logit-normal" in found.name) == (concentration[1] > 100)
    assert found.log_density(test).mean() == pytest.approx(
        truth.logpdf(test).sum(1).mean(), abs=0.2
    )


def test_few_rows_of_many_levels_are_smoothed():
    rng = np.random.default_rng(0)
    draw = stats.binom(255, 0.4)
    train, validation, test = (draw.rvs((60, 3), random_state=rng) for _ in range(3))
    options = {"support": "integers", "levels": 256}
    rough = independent_density(train, **options).log_density(test).mean()
    smooth = independent_density(train, **options, validation=validation).log_density(test).mean()
    assert rough + 0.5 < smooth < draw.logpmf(test).sum(1).mean()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_each_likelihood_has_a_baseline_of_its_support(name):
    likelihood = LIKELIHOODS[name]
    raw = {
        "binary": (torch.rand(40, 3) < 0.5).byte(),
        "unit": torch.rand(40, 3),
        "real": torch.randn(40, 3),
        "integers": torch.randint(4, (40, 3)),
        "counts": torch.randint(9, (40, 3)),
    }[likelihood.support]
    levels = 4 if likelihood.support == "integers" else None
    dataset = Dataset.from_array(raw, support=likelihood.support, levels=levels)
    data = PreparedData(dataset, likelihood.support)
    part = build((3,), 2, likelihood=likelihood, levels=4).likelihood
    before = torch.get_rng_state()
    found = fit_baselines(data, part)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == 1 + (likelihood.support == "real")
    for each in found:
        assert np.isfinite(each.log_density(data.fixed("test").numpy())).all()
    if name == "multinomial":
        assert found[0].name == "a multinomial of the pooled proportions"


def test_sparse_rows_give_what_dense_ones_do(monkeypatch):
    monkeypatch.setattr("pyro_vae.data.sparse_rows.MINIMUM_DENSE_BYTES", 0)
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.1, (200, 30))
    kept = Dataset.from_array(sparse.csr_array(counts), support="counts")
    assert isinstance(kept.train, SparseRows)
    dense = Dataset.from_array(counts, support="counts")
    test = dense.test.numpy()
    for given in (False, True):
        likelihood = type("Likelihood", (), {"given_total": given})()
        (one,), (other,) = (
            fit_baselines(PreparedData(d, "counts"), likelihood) for d in (kept, dense)
        )
        np.testing.assert_allclose(one.log_density(test), other.log_density(test))


def test_rows_on_the_disk_give_what_those_in_memory_do(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    dataset = array_file(tmp_path / "x.npy", memory_map=True)
    kept, held = PreparedData(dataset, "real"), PreparedData(dataset.in_memory(), "real")
    assert isinstance(kept.train, MemoryMapped)
    test = held.fixed("test").numpy()
    for one, other in zip(fit_baselines(kept), fit_baselines(held), strict=True):
        np.testing.assert_allclose(one.log_density(test), other.log_density(test), rtol=1e-6)
    # Of a part of the rows, the same to the precision of a part.
    monkeypatch.setattr("pyro_vae.evidence.baselines._ELEMENTS", 3000)
    one, other = (fit_baselines(each)[0].log_density(test).mean() for each in (kept, held))
    assert one == pytest.approx(other, abs=0.05)


def test_values_without_a_finite_density_have_no_baseline():
    table = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    table[7] = 1e38
    found = fit_baselines(PreparedData(Dataset.from_array(table), "real"))
    assert all(np.isfinite(each.log_density(table[:5])).all() for each in found)
