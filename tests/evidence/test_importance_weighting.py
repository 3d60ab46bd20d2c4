"""Importance weighting and its curve of bounds where log p(x) is known: the linear-Gaussian VAE."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_vae.evidence import ImportanceWeighting, importance_weighting
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO
from pyro_vae.priors import GaussianMixture
from pyro_vae.statistics import khat_threshold, log_mean_exp


def test_one_sample_elbo_of_exact_posterior_is_log_evidence(
    linear_gaussian,
):
    case = linear_gaussian()
    terms = log_densities(case.vae.model, case.vae.guide, case.x, num_particles=7)
    every_draw = np.broadcast_to(case.log_evidence, (7, len(case.x)))
    np.testing.assert_allclose(terms.log_weight.numpy(), every_draw, atol=1e-9, rtol=0)
    elbo = ELBO(kl="monte_carlo")(terms).values["elbo"].numpy()
    np.testing.assert_allclose(elbo, case.log_evidence, atol=1e-9, rtol=0)


@pytest.mark.parametrize("breakage", ["prior scale 2", "data halved", "posterior widened"])
def test_one_sample_elbo_of_broken_model_is_not_log_evidence(linear_gaussian, breakage):
    """The equality above is no accident of the test: each breakage costs over 0.1 nats."""
    case = linear_gaussian(
        prior_scale=2.0 if breakage == "prior scale 2" else 1.0,
        widen=1.5 if breakage == "posterior widened" else 1.0,
    )
    x = case.x / 2 if breakage == "data halved" else case.x
    torch.manual_seed(0)
    log_weight = log_densities(case.vae.model, case.vae.guide, x).log_weight.numpy()
    assert np.abs(log_weight - case.log_evidence).mean() > 0.1


def test_exact_posterior_has_perfect_diagnostics(linear_gaussian):
    case = linear_gaussian()
    result = importance_weighting(case.vae.model, case.vae.guide, case.x, num_samples=200)
    np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=1e-9, rtol=0)
    np.testing.assert_allclose(result.ess, 200)
    assert result.khat is not None
    assert np.all(result.khat == -np.inf)


def test_exact_posterior_in_float32_has_perfect_diagnostics(
    linear_gaussian,
):
    case = linear_gaussian()
    vae, posterior = case.vae.float(), case.vae.posterior
    for name in ("gain", "bias", "scale_tril"):
        setattr(posterior, name, getattr(posterior, name).float())
    torch.set_default_dtype(torch.float32)  # The fixture puts it back.
    result = importance_weighting(vae.model, vae.guide, case.x.float(), num_samples=200)
    np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=1e-4)
    assert result.khat is not None
    assert np.all(result.khat == -np.inf)


def test_bounds_are_ordered_and_grow_with_the_number_of_samples(
    linear_gaussian,
):
    """ELBO < IWAE-K < log p(x), growing in K, each step beyond four standard errors."""
    widen, latent_dim = 1.6, 3
    case = linear_gaussian(n=2000, latent_dim=latent_dim, widen=widen)
    torch.manual_seed(0)
    gaps = []
    for num_samples in (1, 4, 16, 256):
        result = importance_weighting(
            case.vae.model, case.vae.guide, case.x, num_samples=num_samples
        )
        gap = case.log_evidence - result.log_evidence
        gaps.append((gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap))))

    # IWAE-1 is the ELBO, below log p(x) by KL(q || p(z | x)), known here.
    kl = latent_dim * ((widen**2 - 1) / 2 - math.log(widen))
    assert gaps[0][0] == pytest.approx(kl, abs=4 * gaps[0][1])
    for (looser, looser_se), (tighter, tighter_se) in pairwise(gaps):
        assert looser - tighter > 4 * math.hypot(looser_se, tighter_se)
    gap, se = gaps[-1]
    assert -4 * se < gap < 0.02


def test_elbo_is_reconstruction_minus_kl(linear_gaussian):
    """All terms have closed forms; the analytic KL leaves only the reconstruction to chance."""
    case = linear_gaussian(widen=1.6)
    torch.manual_seed(0)
    result = importance_weighting(case.vae.model, case.vae.guide, case.x, num_samples=4000)
    posterior = case.vae.posterior
    covariance = posterior.scale_tril @ posterior.scale_tril.mT
    loc = posterior.embed(case.x)
    kl = (covariance.trace() + loc.square().sum(-1) - 3 - covariance.logdet()) / 2
    assert result.kl_estimate == "analytic"
    np.testing.assert_allclose(result.kl, kl.numpy(), rtol=1e-9)
    np.testing.assert_array_equal(result.elbo, result.reconstruction - result.kl)
    gap = (case.log_evidence - result.elbo).mean()
    assert gap == pytest.approx(3 * ((1.6**2 - 1) / 2 - math.log(1.6)), abs=0.05)


def test_too_narrow_guide_has_the_khat_of_its_tail(linear_gaussian):
    """A normal guide with r times the scale of a normal p(z | x) has weights with k = 1 - r^2."""
    healthy, narrow = (linear_gaussian(n=200, latent_dim=1, widen=r) for r in (0.9, 0.4))
    khats = []
    for case in (healthy, narrow):
        torch.manual_seed(0)
        result = importance_weighting(case.vae.model, case.vae.guide, case.x, num_samples=1000)
        assert result.khat is not None
        khats.append(result.khat)
    assert (khats[0] > khat_threshold(1000)).mean() == 0
    assert (khats[1] > khat_threshold(1000)).mean() > 0.5
    assert khats[0].mean() == pytest.approx(1 - 0.9**2, abs=0.15)
    assert khats[1].mean() == pytest.approx(1 - 0.4**2, abs=0.15)


@pytest.mark.parametrize("max_elements", [1, 5 * 30, 5 * 100 * 3, 10**9])
def test_chunks_leave_the_answer_alone(linear_gaussian, max_elements):
    """One draw at a time, draws in parts, a few data at a time, all at once."""
    case = linear_gaussian(n=7)
    result = importance_weighting(
        case.vae.model, case.vae.guide, case.x, num_samples=100, max_elements=max_elements
    )
    np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=1e-9)
    np.testing.assert_allclose(result.ess, 100)
    assert result.num_samples == 100
    for column in (result.reconstruction, result.kl, result.khat):
        assert column is not None
        assert column.shape == (7,)


def test_chunks_stay_within_max_elements(linear_gaussian):
    case = linear_gaussian(n=12)
    likelihood, sizes = case.vae.likelihood, []
    likelihood.register_forward_hook(lambda *call: sizes.append(call[2].mean.numel()))
    importance_weighting(
        case.vae.model, case.vae.guide, case.x, num_samples=30, max_elements=5 * 70
    )
    assert max(sizes) <= 5 * 70
    assert sum(sizes) == 12 * 30 * 5


def test_standard_error_over_data(linear_gaussian):
    case = linear_gaussian()
    result = importance_weighting(case.vae.model, case.vae.guide, case.x, num_samples=10)
    assert result.mean_log_evidence == pytest.approx(case.log_evidence.mean())
    assert result.log_evidence_se == pytest.approx(np.std(case.log_evidence, ddof=1) / 40**0.5)
    one = importance_weighting(case.vae.model, case.vae.guide, case.x[:1], num_samples=10)
    assert one.log_evidence_se is None


def test_kl_without_closed_form_is_monte_carlo():
    torch.manual_seed(0)
    vae = build((4, 4), latent_dim=2, prior=GaussianMixture)
    x = torch.bernoulli(torch.full((5, 4, 4), 0.3))
    result = importance_weighting(vae.model, vae.guide, x, num_samples=50)
    assert result.kl_estimate == "Monte Carlo"
    # The ELBO of the same draws, whose exponential mean is the IWAE bound: Jensen's inequality.
    assert np.all(result.elbo <= result.log_evidence)


def test_integers_give_what_floats_give():
    vae = build((4, 4), latent_dim=2)
    x = torch.bernoulli(torch.full((5, 4, 4), 0.3))
    results = []
    for data in (x, x.byte()):
        torch.manual_seed(0)
        results.append(importance_weighting(vae.model, vae.guide, data, num_samples=30))
    np.testing.assert_array_equal(results[0].log_evidence, results[1].log_evidence)


def test_fewer_draws_than_a_khat_needs_have_none():
    vae = build((4, 4), latent_dim=2)
    result = importance_weighting(vae.model, vae.guide, torch.ones(3, 4, 4), num_samples=24)
    assert result.khat is None


def test_any_pair_with_nested_plates():
    """A program of its own: two latents, one of them in a plate inside the data's, exact guide."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            scale = pyro.sample("s", dist.LogNormal(torch.zeros(1), 1.0))
            with pyro.plate("pixels", x.shape[-1], dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + 0 * scale, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("s", dist.LogNormal(torch.zeros(1), 1.0))
            with pyro.plate("pixels", x.shape[-1], dim=-1):
                pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(6, 3)
    result = importance_weighting(model, guide, x, num_samples=40, max_plate_nesting=2)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
    np.testing.assert_allclose(result.log_evidence, exact.numpy(), atol=1e-4)


def test_validation_watches_the_first_chunk_and_comes_back():
    vae = build((4, 4), latent_dim=2)
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(pyro.infer.is_validation_enabled())
        return vae.model(x)

    with pyro.validation_enabled(True):
        importance_weighting(model, vae.guide, torch.ones(3, 4, 4), num_samples=30, max_elements=1)
        assert pyro.infer.is_validation_enabled()
        with pytest.raises(ValueError, match="support"):
            importance_weighting(vae.model, vae.guide, torch.full((3, 4, 4), 0.5))
        assert pyro.infer.is_validation_enabled()
    assert seen[0]
    assert not any(seen[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"max_elements": 0}, "max_elements must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message):
    vae = build((4, 4), latent_dim=2)
    with pytest.raises(ValueError, match=message):
        importance_weighting(vae.model, vae.guide, torch.ones(3, 4, 4), **options)


def test_no_data_are_refused():
    vae = build((4, 4), latent_dim=2)
    with pytest.raises(ValueError, match="at least one example"):
        importance_weighting(vae.model, vae.guide, torch.ones(0, 4, 4))


# ---- curve of bounds, and trust -----------------------------------------------------------------


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
    np.testing.assert_allclose(joined.curve[-1], joined.log_evidence, rtol=1e-14)
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
