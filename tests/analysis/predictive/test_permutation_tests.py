"""Permutation tests are calibrated, and find faults."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from analysis.predictive.permutation_tests import compare_profiles, compare_spectra


def has_nominal_rate(p_values):
    """Whether about 5 % of the p-values are below 0.05, to 1 in 10,000."""
    low, high = binom.interval(1 - 1e-4, len(p_values), 0.05)
    return low <= (np.array(p_values) < 0.05).sum() <= high


def test_permutations_are_calibrated():
    rng = np.random.default_rng(0)
    profiles, spectra = [], []
    mixing = rng.normal(size=(12, 12))
    for seed in range(125):
        real, generated = (
            rng.exponential(size=(50, 12)) @ mixing,
            rng.exponential(size=(70, 12)) @ mixing,
        )
        options = {"seed": seed, "permutations": 39}
        profiles.append(compare_profiles("elements", real, generated, **options).p_value)
        spectra.append(compare_spectra(real, generated, **options).p_value)
    assert has_nominal_rate(profiles)
    assert has_nominal_rate(spectra)


def test_a_profile_names_the_element_that_is_off():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(2, 200, 30))
    generated[:, 7] -= 0.6
    found = compare_profiles("row_means", real, generated)
    assert found.p_value == pytest.approx(0.001)
    assert found.worst == 7
    assert found.t[7] < -4
    # With the variance of all data, which includes the shift, t is a little smaller than Welch's.
    welch = (generated[:, 3].mean() - real[:, 3].mean()) / np.sqrt(
        (real[:, 3].var() + generated[:, 3].var()) / 200
    )
    assert found.t[3] == pytest.approx(welch, rel=0.02)
    assert "element 7" in found.reading()
    constant = compare_profiles("row_means", np.ones((5, 3)), np.ones((6, 3)))
    assert constant.p_value == 1
    assert not constant.t.any()


def test_a_spectrum_finds_a_lost_direction():
    """Each element keeps its mean and variance: only the covariance differs."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(300, 1))
    real = 0.8 * common + 0.6 * rng.normal(size=(300, 20))
    generated = rng.normal(size=(300, 20))
    found = compare_spectra(real, generated)
    assert found.p_value == pytest.approx(0.001)
    assert found.log_ratio[0] < -1
    assert found.total_ratio == pytest.approx(1, abs=0.1)
    # On all axes the eigenvalues are those of the covariance.
    expected = np.linalg.eigvalsh(np.cov(real.T, bias=True))[::-1]
    assert found.real == pytest.approx(expected, rel=1e-6)
    assert found.explained == pytest.approx(1)
    assert compare_spectra(real, real.copy()).p_value == 1
    assert compare_spectra(np.ones((50, 4)), np.ones((50, 4))) is None
    assert compare_spectra(real[:3], generated) is None
    # Data that do not vary have no variance, and no logarithm of it.
    flat = compare_spectra(real, np.zeros((300, 20)))
    assert np.isfinite(flat.log_ratio).all()
    json.dumps(flat.summary(), allow_nan=False)


def test_samples_must_fit():
    for compare in (compare_spectra, lambda a, b: compare_profiles("rows", a, b)):
        with pytest.raises(ValueError, match="equally many elements"):
            compare(np.zeros((3, 2)), np.zeros((3, 4)))


def test_units_of_elements_do_not_matter():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 1
    units = np.array([1e-8, 1e10])
    found = compare_profiles("elements", units * real, units * generated)
    np.testing.assert_allclose(found.t, compare_profiles("elements", real, generated).t)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_refused(value):
    real, generated = np.ones((20, 3)), np.ones((20, 3))
    generated[4, 1] = value
    for compare in (compare_spectra, lambda a, b: compare_profiles("rows", a, b)):
        with pytest.raises(ValueError, match="0 real and 1 generated"):
            compare(real, generated)
