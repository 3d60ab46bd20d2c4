"""Two samples of a score or of vectors: calibrated where they are alike, with ties and without."""

import json

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

from analysis.comparison.resampling_tests import compare_profiles, compare_spectra
from analysis.predictive.two_sample import compare_scores

REPEATS = 250


def in_five_percent(p_values):
    """Whether so many of them are below 0.05, to 1 in 10,000."""
    low, high = binom.interval(1 - 1e-4, len(p_values), 0.05)
    return low <= (np.array(p_values) < 0.05).sum() <= high


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("continuous", (60, 90)), ("count", (80, 80)), ("zeros", (80, 80)), ("count", (600, 600))],
)
def test_p_values_of_scores_are_uniform(kind, sizes):
    """Ink of a small binary image is a count, holes are mostly 0: without ties broken p is too large."""
    rng = np.random.default_rng(1)
    draw = {
        "continuous": rng.normal,
        "count": lambda size: rng.binomial(64, 0.3, size),
        "zeros": lambda size: rng.binomial(1, 0.2, size),
    }[kind]
    found = [
        compare_scores("s", *(draw(size=n) for n in sizes), seed=seed) for seed in range(REPEATS)
    ]
    p = np.array([c.p_value for c in found])
    assert in_five_percent(p)
    assert abs(p.mean() - 0.5) < 4.5 * np.sqrt(1 / 12 / REPEATS) + 0.01
    z = [c.standard_errors for c in found]
    assert 0.87 < np.std(z) < 1.13


def test_numbers_by_hand():
    c = compare_scores("s", np.array([0.0, 2.0]), np.array([3.0, 5.0]), label="score: of both")
    assert c.ks_distance == 1
    assert c.difference == 3
    assert c.difference_se == pytest.approx(np.sqrt(2))
    assert c.deviations == pytest.approx(3)
    assert c.p_value == pytest.approx(1 / 3)
    assert "a mean of 4 against 1 of real data" in c.reading()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(0.3, size=70)
    assert compare_scores("s", a, b).p_value == pytest.approx(ks_2samp(a, b, method="exact")[1])
    with pytest.raises(ValueError, match="must have scores of both, got 2 of real and 0"):
        compare_scores("s", np.zeros(2), np.zeros(0))


def test_scores_that_are_not_finite_count_by_their_rank():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(2, 100))
    generated[:40] = np.nan
    generated[40:50] = -np.inf
    c = compare_scores("elbo", real, generated)
    assert c.non_finite == (0, 50)
    assert c.p_value < 1e-3
    assert c.summary()["non_finite_generated"] == 50
    assert "50 of generated" in c.reading()
    json.dumps(c.summary(), allow_nan=False)
    # Alike in both, they say nothing.
    assert compare_scores("elbo", generated, generated.copy()).p_value > 0.05
    all_bad = compare_scores("elbo", np.full(5, np.nan), np.full(5, np.nan))
    assert all_bad.p_value == 1
    assert all_bad.summary()["real_mean"] is None


def test_a_constant_score_has_no_deviation():
    zeros = np.zeros(20)
    c = compare_scores("s", zeros, zeros)
    assert c.p_value == 1
    assert c.standard_errors is None
    assert c.deviations is None
    # Where only the real ones are constant, the difference is still said.
    shifted = compare_scores("s", zeros, np.arange(20.0))
    assert shifted.deviations is None
    assert shifted.standard_errors is not None
    assert "a mean of 9.5 against 0 of real data" in shifted.reading()


def test_permutations_are_calibrated():
    rng = np.random.default_rng(0)
    profiles, spectra = [], []
    mixing = rng.normal(size=(12, 12))
    for seed in range(REPEATS // 2):
        real, generated = (
            rng.exponential(size=(50, 12)) @ mixing,
            rng.exponential(size=(70, 12)) @ mixing,
        )
        options = {"seed": seed, "permutations": 39}
        profiles.append(compare_profiles("elements", real, generated, **options).p_value)
        spectra.append(compare_spectra(real, generated, **options).p_value)
    assert in_five_percent(profiles)
    assert in_five_percent(spectra)


def test_a_profile_names_the_element_that_is_off():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(2, 200, 30))
    generated[:, 7] -= 0.6
    found = compare_profiles("row_means", real, generated)
    assert found.p_value == pytest.approx(0.001)
    assert found.worst == 7
    assert found.t[7] < -4
    # With the variance of all data, which knows of the shift, t is a little smaller than Welch's.
    welch = (generated[:, 3].mean() - real[:, 3].mean()) / np.sqrt(
        (real[:, 3].var() + generated[:, 3].var()) / 200
    )
    assert found.t[3] == pytest.approx(welch, rel=0.02)
    assert "element 7 differs most" in found.reading()
    constant = compare_profiles("row_means", np.ones((5, 3)), np.ones((6, 3)))
    assert constant.p_value == 1
    assert not constant.t.any()


def test_a_spectrum_finds_a_lost_direction():
    """Each element keeps its mean and variance: only the covariance of all tells."""
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


def test_elements_in_other_units_are_compared_alike():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 1
    units = np.array([1e-8, 1e10])
    found = compare_profiles("elements", units * real, units * generated)
    np.testing.assert_allclose(found.t, compare_profiles("elements", real, generated).t)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_p_value_of_zero(value):
    real, generated = np.ones((20, 3)), np.ones((20, 3))
    generated[4, 1] = value
    for compare in (compare_spectra, lambda a, b: compare_profiles("rows", a, b)):
        with pytest.raises(ValueError, match="0 real and 1 generated"):
            compare(real, generated)
