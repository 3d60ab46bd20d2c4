"""Ranks of true codes: an exact guide passes at its nominal rate, and each planted fault is found."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.calibration.simulated_ranks import Ranks, simulated_ranks
from analysis.calibration.simulation_based_calibration import (
    plot_calibration_by_dimension,
    plot_coverage,
    plot_sbc,
    simulation_based_calibration,
)

# Three nearly equal loadings and much noise: z is known along one direction alone.
CORRELATED = LinearGaussian((4,), latent_dim=3, noise=0.3, seed=2)
GAUSSIAN = LinearGaussian((1, 4, 4), latent_dim=3)
MIXTURE = BernoulliMixture((1, 4, 4))


def checked(exact, n=600, seed=0, num_draws=99, **faults):
    ranks = simulated_ranks(
        exact.vae(**faults), exact.draw(2, 0), n, num_draws=num_draws, seed=seed
    )
    return simulation_based_calibration(ranks, seed=seed)


def p_values(check):
    return dict(zip(check.names, check.p_value, strict=True))


@pytest.mark.parametrize(
    "exact", [CORRELATED, pytest.param(MIXTURE, marks=pytest.mark.slow)], ids=["real", "binary"]
)
def test_exact_guide_fails_at_its_nominal_rate(exact):
    """Each quantity of 60 repetitions: p below 0.05 in about 5 % of them, never in far more."""
    repetitions = 60
    vae, like = exact.vae(), exact.draw(2, 0)
    ranks = simulated_ranks(vae, like, 40 * repetitions, num_draws=19)
    parts = np.split(ranks.ranks, repetitions)
    rates = np.split(ranks.rate, repetitions)
    low, smallest = np.zeros(len(ranks.names)), 0
    for seed, (part, rate) in enumerate(zip(parts, rates, strict=True)):
        check = simulation_based_calibration(Ranks(part, ranks.names, 19, rate), seed=seed)
        low += check.p_value < 0.05
        smallest += check.adjusted.min() < 0.05
    assert low.max() <= binom.isf(1e-5, repetitions, 0.05)
    assert smallest <= binom.isf(1e-5, repetitions, 0.05)
    # Over all quantities, which are not independent: neither too many nor none.
    assert 0.01 < low.mean() / repetitions < 0.1


def test_exact_guide_covers():
    check = checked(GAUSSIAN, n=2000)
    for level in (0.5, 0.8, 0.9, 0.95):
        for coverage, error in (check.pooled_coverage(level), check.joint_coverage(level)):
            assert coverage == pytest.approx(level, abs=4 * error)
        error = math.sqrt(level * (1 - level) / 2000)
        np.testing.assert_allclose(check.coverage(level), level, atol=4.5 * error)
    assert check.told_apart == pytest.approx(0.5, abs=4 * check.told_apart_se)
    assert check.verdicts()[0].answer == "yes"


@pytest.mark.parametrize(("scale", "word"), [(0.7, "too narrow"), (1.4, "too wide")])
def test_wrong_width_is_found_and_measured(scale, word):
    check = checked(GAUSSIAN, guide_scale=scale, num_draws=199)
    found = p_values(check)
    assert max(found[name] for name in ("z[0]", "z[1]", "z[2]", "log q(z | x)")) < 1e-3
    np.testing.assert_allclose(check.spread[:3], 1 / scale, rtol=0.12)
    np.testing.assert_allclose(check.shift[:3], 0, atol=4 / scale / math.sqrt(600))
    # Of a normal guide: P(|N(0, 1)| < 1.645 scale).
    expected = 1 - 2 * norm.sf(norm.isf(0.05) * scale)
    np.testing.assert_allclose(check.coverage(0.9), expected, atol=0.05)
    assert f"3 {word}" in check.reading()


def test_shift_is_found_and_measured():
    check = checked(GAUSSIAN, guide_shift=0.5)
    assert check.p_value[:3].max() < 1e-3
    np.testing.assert_allclose(check.shift[:3], -0.5, atol=0.15)
    assert "3 shifted" in check.reading()
    # The chi-square is blind to neither.
    assert p_values(check)["log weight"] < 1e-3


def test_missing_correlations_show_in_joint_quantities_alone():
    check = checked(CORRELATED, n=2000, diagonal=True)
    found = p_values(check)
    assert min(found[f"z[{index}]"] for index in range(3)) > 0.01
    assert max(found[name] for name in ("log q(z | x)", "log p(x | z)", "log weight")) < 1e-3
    assert "how they depend on one another" in check.reading()


def test_collapsed_code_passes_and_is_said_to():
    check = checked(GAUSSIAN, collapsed=True)
    assert check.adjusted.min() > 0.05
    assert check.rate == pytest.approx(0, abs=1e-6)
    assert check.verdicts()[0].answer == "yes"
    assert "0.00 nats" in check.reading()


def test_one_hot_guide_too_sure_is_found():
    check = checked(MIXTURE, n=2000, guide_sharpness=2.0)
    assert check.adjusted.min() < 1e-3
    assert p_values(check)["log weight"] < 1e-3
    assert check.verdicts()[0].answer in ("no", "nearly")


def test_told_apart_is_the_area_under_the_curve():
    """q = N(m + d s, s^2) against N(m, s^2) in one dimension: Phi(d / sqrt 2)."""
    exact = LinearGaussian((3,), latent_dim=1)
    check = checked(exact, n=4000, guide_shift=1.0)
    expected = norm.cdf(1 / math.sqrt(2))
    assert check.told_apart == pytest.approx(expected, abs=4 * check.told_apart_se)


def test_ranks_by_hand():
    """Rank 0 of 1 always: u is uniform on (0, 1/2)."""
    names = ("z[0]", "log q(z | x)", "log p(x | z)", "log p(x, z)", "log weight")
    check = simulation_based_calibration(
        Ranks(np.zeros((200, 5), np.int64), names, 1, np.ones(200))
    )
    assert check.pit.max() < 0.5
    assert check.told_apart == 0
    assert check.joint_coverage(0.5)[0] == 0
    assert check.adjusted.max() < 1e-10


def test_holm():
    check = simulation_based_calibration(simulated_ranks(GAUSSIAN.vae(), GAUSSIAN.draw(1, 0), 20))
    object.__setattr__(check, "p_value", np.array([0.01, 0.04, 0.03, 0.005, 0.9, 0.9, 0.9]))
    np.testing.assert_allclose(check.adjusted, [0.06, 0.16, 0.15, 0.035, 1, 1, 1])


def test_blocks_do_not_matter_and_seeds_do(monkeypatch):
    vae, like = GAUSSIAN.vae(), GAUSSIAN.draw(2, 0)
    one = simulated_ranks(vae, like, 30, num_draws=29)
    again = simulated_ranks(vae, like, 30, num_draws=29)
    other = simulated_ranks(vae, like, 30, num_draws=29, seed=1)
    np.testing.assert_array_equal(one.ranks, again.ranks)
    assert (one.ranks != other.ranks).any()
    monkeypatch.setattr("analysis.calibration.simulated_ranks.block_size", lambda *_: 7)
    blocks = simulated_ranks(vae, like, 30, num_draws=29)
    assert blocks.ranks.shape == (30, 7)
    assert blocks.ranks.max() <= 29
    assert one.rate.mean() == pytest.approx(blocks.rate.mean(), abs=0.5)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        simulated_ranks(GAUSSIAN.vae(), GAUSSIAN.draw(1, 0), 5, num_draws=0)


def test_summary_is_plain():
    summary = checked(GAUSSIAN, n=50).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert len(summary["quantities"]) == summary["tests"] == 7


@pytest.mark.arviz
def test_figures(words):
    check = checked(CORRELATED, n=200, diagonal=True)
    axes, text = words(plot_sbc(check))
    assert sum(bool(ax.lines) for ax in axes) == 7
    for ax in axes[:7]:
        curve = max((line.get_xydata() for line in ax.lines), key=len)
        np.testing.assert_array_equal(curve[[0, -1]], [[0, 0], [1, 0]])
    assert "log weight" in text
    assert "z[0]" in text
    axes, text = words(plot_calibration_by_dimension(check))
    assert "of 3 dimensions fail" in text
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)
    axes, text = words(plot_coverage(check))
    assert "the whole code" in text
    assert axes[0].get_xlabel()
