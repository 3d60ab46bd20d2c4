"""Inference gaps where both are known: the linear-Gaussian VAE."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import networks, posteriors
from pyro_vae.evidence import InferenceGaps, inference_gaps
from pyro_vae.evidence.inference_gaps import _columns
from pyro_vae.model import VAE, build


class WrongEncoder(nn.Module):
    """The same answer, whatever x: outputs of 0 but for a mean of 0.3."""

    def __init__(self, shape):
        super().__init__()
        outputs = torch.zeros(shape)
        outputs[..., 0, :] = 0.3
        self.outputs = nn.Parameter(outputs)

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], *self.outputs.shape)


def with_guide(case, posterior):
    guide = posterior(case.vae.posterior.latent_dim, WrongEncoder)
    return VAE(case.vae.prior, case.vae.likelihood, guide)


def exact_posterior(case):
    """p(z | x), from its gain and covariance."""
    return case.vae.posterior(case.x)


def test_of_a_family_that_holds_the_posterior_all_is_amortisation(linear_gaussian):
    case = linear_gaussian(n=5)
    vae = with_guide(case, posteriors.FullNormal)
    result = inference_gaps(vae, case.x, steps=450, lr=0.2, num_samples=4000)
    with torch.no_grad():
        q = vae.posterior(case.x)
        q = MultivariateNormal(q.mean, q.covariance_matrix)
        expected = kl_divergence(q, exact_posterior(case)).numpy()
    assert result.approximation.mean() == pytest.approx(0, abs=0.02)
    assert result.last_third.mean() == pytest.approx(0, abs=0.02)
    # The wrong guide's ELBO has the larger noise.
    assert np.all(np.abs(result.amortisation - expected) < 5 * result.amortisation_error + 0.03)
    np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=0.02)
    np.testing.assert_allclose(
        result.inference, result.approximation + result.amortisation, rtol=1e-12
    )
    assert result.trust().startswith("The local optimum is reached")


def test_of_a_diagonal_normal_the_approximation_gap_is_the_mean_fields(linear_gaussian):
    """The best diagonal normal has the precision's diagonal: its KL is known."""
    case = linear_gaussian(n=5)
    vae = with_guide(case, posteriors.DiagonalNormal)
    result = inference_gaps(vae, case.x, steps=450, lr=0.2, num_samples=4000)
    precision = exact_posterior(case).covariance_matrix[0].inverse()
    expected = (precision.diagonal().log().sum() - precision.logdet()).item() / 2
    assert expected > 0.1
    # Importance weighting finds the evidence; with the exact one the gap is the known one, too.
    # Of 4,000 draws from a guide narrower than the posterior, a datum's has an error near 0.1 nats.
    np.testing.assert_allclose(result.log_evidence, case.log_evidence, atol=0.3)
    exact = replace(result, log_evidence=case.log_evidence)
    for gap, slack in ((result.approximation, 0.3), (exact.approximation, 0.05)):
        assert gap.mean() == pytest.approx(expected, abs=0.05)
        assert np.all(np.abs(gap - expected) < 5 * result.approximation_error + slack)
    assert result.amortisation.min() > 0


def test_a_given_evidence_is_used(linear_gaussian):
    case = linear_gaussian(n=3)
    vae = with_guide(case, posteriors.DiagonalNormal)
    result = inference_gaps(
        vae, case.x, log_evidence=case.log_evidence, steps=3, num_samples=30, max_elements=150
    )
    np.testing.assert_array_equal(result.log_evidence, case.log_evidence)
    assert result.evidence == "given"
    assert "the given log p(x)" in result.trust()


@pytest.mark.parametrize("known", [True, False])
def test_errors_are_the_spread_over_draws(known):
    """Of 400 data that are the same, each with draws of its own."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((300, 400))
    local = -100 + 0.3 * noise
    amortised = local - 0.5 * noise**2 - 0.1 * rng.standard_normal((300, 400))
    first = local - 0.02 * rng.standard_normal((300, 400))
    columns = _columns(amortised, first, local, np.full(400, -99.0) if known else None)
    gaps = {
        "approximation_error": columns["log_evidence"] - columns["elbo_local"],
        "amortisation_error": columns["elbo_local"] - columns["elbo_amortised"],
        "last_third_error": columns["last_third"],
    }
    for name, gap in gaps.items():
        assert gap.std(ddof=1) == pytest.approx(columns[name].mean(), rel=0.15)


def test_chunks_and_parts_leave_the_answer_alone(linear_gaussian):
    case = linear_gaussian(n=6)
    vae = with_guide(case, posteriors.DiagonalNormal)
    one, other = (
        inference_gaps(vae, case.x, steps=3, lr=1e-9, num_samples=300, max_elements=max_elements)
        for max_elements in (5 * 100, 10**6)
    )
    # The guide stays as it is, and only the draws differ.
    np.testing.assert_allclose(one.amortisation, 0, atol=1e-5)
    error = np.hypot(one.approximation_error, other.approximation_error)
    assert np.all(np.abs(one.approximation - other.approximation) < 5 * error)
    assert one.khat is not None
    assert one.khat.shape == one.log_evidence.shape == (6,)
    # In chunks of data by hand.
    halves = [inference_gaps(vae, part, steps=6, num_samples=30) for part in case.x.split(4)]
    joined = InferenceGaps.concatenate(halves)
    for name in ("approximation", "amortisation", "inference", "last_third_error", "khat"):
        expected = np.concatenate([getattr(half, name) for half in halves])
        np.testing.assert_array_equal(getattr(joined, name), expected)
    with pytest.raises(ValueError, match="one steps, got"):
        InferenceGaps.concatenate([halves[0], replace(halves[1], steps=7)])
    with pytest.raises(ValueError, match="no results"):
        InferenceGaps.concatenate([])


def test_nothing_is_touched():
    pyro.set_rng_seed(0)
    vae = build((4, 4), 2, network=partial(networks.MLP, hidden=(8,)))
    x = torch.bernoulli(torch.full((5, 4, 4), 0.3)).byte()
    vae.guide(x.float())
    vae.train()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    stream = torch.get_rng_state()
    result = inference_gaps(vae, x, steps=6, num_samples=30)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(module.training for module in vae.modules())
    assert all(parameter.requires_grad for parameter in vae.parameters())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    again = inference_gaps(vae, x, steps=6, num_samples=30)
    np.testing.assert_array_equal(result.inference, again.inference)


def test_trust_of_each_kind():
    n = 50
    columns = dict.fromkeys(
        ("approximation_error", "amortisation_error", "last_third_error"), np.full(n, 0.01)
    )
    good = InferenceGaps(
        log_evidence=np.full(n, -10.0),
        elbo_amortised=np.full(n, -12.0),
        elbo_local=np.full(n, -10.5),
        last_third=np.zeros(n),
        khat=np.full(n, 0.2),
        num_samples=1000,
        steps=900,
        evidence="importance weighting",
        **columns,
    )
    assert good.trust().startswith(
        "The local optimum is reached (the last third of 900 steps gained 0.000"
    )
    assert "is a lower bound (k-hat is above the threshold for 0.0% of the data" in good.trust()
    far = replace(good, last_third=np.full(n, 0.3)).trust()
    assert far.startswith("The local optimum is not reached")
    loose = replace(good, khat=np.full(n, 0.9)).trust()
    assert "give log_evidence from annealed importance sampling" in loose
    noisy = replace(good, amortisation_error=np.full(n, 10.0)).trust()
    assert "the amortisation gap is within its Monte Carlo error of 1.414 nats" in noisy
    wrong = replace(good, log_evidence=np.full(n, -11.0)).trust()
    assert "the approximation gap is negative, -0.500 nats" in wrong
    lost = replace(good, elbo_local=np.full(n, -np.inf)).trust()
    assert lost == "Not to be trusted: a log density is not finite."


def test_summary_is_plain(linear_gaussian):
    case = linear_gaussian(n=4)
    vae = with_guide(case, posteriors.DiagonalNormal)
    result = inference_gaps(vae, case.x, steps=30, num_samples=100)
    summary = result.summary()
    assert all(isinstance(value, float | int | str) for value in summary.values())
    assert summary["amortisation"] == pytest.approx(result.amortisation.mean())
    assert summary["amortisation_se"] == pytest.approx(result.amortisation.std(ddof=1) / 2)
    assert summary["amortisation_error"] == pytest.approx(
        np.sqrt((result.amortisation_error**2).sum()) / 4
    )
    one = inference_gaps(vae, case.x[:1], steps=3, num_samples=24).summary()
    assert one["inference_se"] is None
    assert one["khat_share_above"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 2}, "steps must be at least 3, got 2"),
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"log_evidence": np.array([0.0, np.nan])}, "with 1 that are not finite"),
        ({"lr": -1.0}, "lr must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(linear_gaussian, options, message):
    case = linear_gaussian(n=2)
    with pytest.raises(ValueError, match=message):
        inference_gaps(with_guide(case, posteriors.DiagonalNormal), case.x, **options)
