"""The curve of IWAE-k bounds from one set of draws, and how far log p(x) is to be trusted."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from pyro_vae.evidence import ImportanceWeighting, importance_weighting
from pyro_vae.log_densities import log_densities
from pyro_vae.statistics import log_mean_exp


def weighted(case, num_samples, x=None, **options):
    torch.manual_seed(0)
    x = case.x if x is None else x
    return importance_weighting(
        case.vae.model, case.vae.guide, x, num_samples=num_samples, **options
    )


@pytest.mark.parametrize(
    ("num_samples", "points"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (7, [1, 2, 3, 5, 7]),
        (1000, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        (5000, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 2500, 5000]),
    ],
)
def test_points_are_1_2_5_with_the_last_doubling(linear_gaussian, num_samples, points):
    result = weighted(linear_gaussian(n=2, latent_dim=1), num_samples)
    assert result.curve_samples.tolist() == points
    assert result.curve.shape == (len(points), 2)
    assert result.curve.dtype == np.float64


@pytest.mark.parametrize(("num_samples", "half"), [(2, 1), (3, 1), (7, 3), (150, 75), (1000, 500)])
def test_the_last_doubling_is_from_half_of_the_draws(linear_gaussian, num_samples, half):
    """Other points may lie between: of 150 draws, 100 is one."""
    result = weighted(linear_gaussian(n=3, widen=1.5), num_samples)
    at = result.curve_samples.tolist().index(half)
    np.testing.assert_array_equal(result.last_doubling, result.curve[-1] - result.curve[at])


def test_points_are_means_over_disjoint_blocks(linear_gaussian):
    """Brute force, from the weights of the same draws; 103 draws leave some over at most k."""
    case = linear_gaussian(n=4, widen=1.6)
    result = weighted(case, 103)
    torch.manual_seed(0)
    log_weights = log_densities(
        case.vae.model, case.vae.guide, case.x, num_particles=103
    ).log_weight.numpy()
    for k, point in zip(result.curve_samples, result.curve, strict=True):
        blocks = [log_mean_exp(log_weights[i * k : (i + 1) * k]) for i in range(103 // k)]
        np.testing.assert_allclose(point, np.mean(blocks, 0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.curve[0], log_weights.mean(0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.curve[-1], result.log_evidence, rtol=0, atol=1e-9)


def test_exact_posterior_has_a_flat_curve(linear_gaussian):
    case = linear_gaussian(n=3)
    result = weighted(case, 200)
    np.testing.assert_allclose(
        result.curve, np.broadcast_to(case.log_evidence, result.curve.shape), atol=1e-9
    )


def test_the_curve_rises_from_the_elbo_to_log_evidence(linear_gaussian):
    """In one dimension L_1 and L_2 of a widened normal guide are known, L_2 by quadrature."""
    widen = 1.8
    case = linear_gaussian(n=4000, latent_dim=1, widen=widen)
    result = weighted(case, 200)
    gap = case.log_evidence[None] - result.curve
    mean, error = gap.mean(1), gap.std(1, ddof=1) / math.sqrt(gap.shape[1])

    # With t = (z - mean) / scale, log w - log p(x) = log N(t | 0, 1) - log N(t | 0, widen^2).
    t, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    log_ratio = math.log(widen) - (widen * t) ** 2 / 2 + t**2 / 2
    two = np.logaddexp(log_ratio[:, None], log_ratio[None]) - math.log(2)
    assert mean[0] == pytest.approx(-(weights @ log_ratio), abs=4 * error[0])
    assert mean[1] == pytest.approx(-(weights @ two @ weights), abs=4 * error[1])
    assert 4 * error[1] < mean[0] - mean[1]
    # Monotone but for the noise of its own differences.
    for looser, tighter in pairwise(result.curve):
        rise = tighter - looser
        assert rise.mean() > -3 * rise.std(ddof=1) / math.sqrt(len(rise))
    np.testing.assert_allclose(result.curve_means(), result.curve.mean(1))
    standard_errors = result.curve_standard_errors()
    assert standard_errors is not None
    assert standard_errors[-1] == pytest.approx(result.log_evidence_se)


def test_chunks_joined_are_the_whole(linear_gaussian):
    case = linear_gaussian(n=7, widen=1.3)
    parts = [weighted(case, 40, x=part) for part in case.x.split(3)]
    joined = ImportanceWeighting.concatenate(parts)
    assert joined.curve.shape == (6, 7)
    for column in ("log_evidence", "reconstruction", "kl", "ess", "khat"):
        expected = np.concatenate([getattr(part, column) for part in parts])
        np.testing.assert_array_equal(getattr(joined, column), expected)
    np.testing.assert_array_equal(joined.curve[-1], joined.log_evidence)
    with pytest.raises(ValueError, match="one num_samples, got"):
        ImportanceWeighting.concatenate([parts[0], weighted(case, 30)])
    with pytest.raises(ValueError, match="no results"):
        ImportanceWeighting.concatenate([])


def test_trust_of_each_kind(linear_gaussian):
    healthy = weighted(linear_gaussian(widen=1.1), 1000)
    assert healthy.trust().startswith(
        "To be trusted to about 0.01 nats per datum: k-hat is above 0.67"
    )
    narrow = weighted(linear_gaussian(latent_dim=1, widen=0.3), 1000)
    assert narrow.trust().startswith("Not to be trusted")
    assert "annealed importance sampling rather than more draws" in narrow.trust()
    curve = healthy.curve.copy()
    curve[-2] -= 0.3
    rising = replace(healthy, curve=curve)
    assert rising.trust().startswith("A lower bound that has not converged, too low by 0.30")
    few = replace(healthy, ess=np.full_like(healthy.ess, 5.0))
    assert few.trust().startswith("To be trusted to about 0.10 nats per datum at best")
    assert weighted(linear_gaussian(), 24).trust().startswith("No verdict: 24 draws")
    lost = replace(healthy, log_evidence=np.full_like(healthy.log_evidence, -np.inf))
    assert lost.trust().startswith("Not to be trusted: log p(x) is not finite for 100.0%")
    for result in (healthy, narrow, rising, few):
        assert result.trust().count(". ") == 0


def test_summary_is_plain(linear_gaussian):
    result = weighted(linear_gaussian(widen=1.3), 100)
    summary = result.summary()
    assert summary["log_evidence"] == result.mean_log_evidence
    assert summary["last_doubling"] == pytest.approx((result.curve[-1] - result.curve[-2]).mean())
    assert all(isinstance(value, float | int | str) for value in summary.values())
    one = weighted(linear_gaussian(n=1), 1).summary()
    for undefined in ("log_evidence_se", "khat_share_above", "last_doubling"):
        assert one[undefined] is None


def test_data_of_density_zero_warn_of_nothing():
    """-inf of log p(x) leaves no number, and no warning."""
    weighted = ImportanceWeighting(
        log_evidence=np.array([-np.inf, -1.0]),
        reconstruction=np.array([-np.inf, -1.0]),
        kl=np.zeros(2),
        ess=np.array([0.0, 2.0]),
        khat=None,
        num_samples=2,
        kl_estimate="analytic",
        curve_samples=np.array([1, 2]),
        curve=np.array([[-np.inf, -2.0], [-np.inf, -1.0]]),
    )
    summary = weighted.summary()
    assert summary["log_evidence"] is None
    assert summary["last_doubling"] is None
    assert weighted.curve_standard_errors() is not None
