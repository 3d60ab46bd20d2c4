"""Rounding errors of log densities: no verdict is read off them."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from analysis.comparison.model_comparison import HeldOut, compare_models
from analysis.guide.psis_diagnostics import GuideQuality
from pyro_vae import build, likelihoods
from pyro_vae.evidence import importance_weighting
from pyro_vae.log_densities import log_densities
from pyro_vae.statistics import rounding_error, withheld

RNG = np.random.default_rng(0)


def normal_vae(event_shape):
    torch.manual_seed(0)
    return build(event_shape, 2, likelihood=partial(likelihoods.Normal, scale="fixed"))


@pytest.mark.parametrize(("elements", "spread"), [(20, 1.0), (20_000, 1.0), (4, 1e4)])
def test_the_bound_holds_against_float64(elements, spread):
    """The same draws in float64: log p(x | z) is off by about so much, and not by twice or a tenth of it."""
    vae = normal_vae((elements,))
    x = torch.as_tensor(spread * RNG.normal(size=(8, elements)), dtype=torch.float32)
    z = torch.randn(50, 1, 2)
    with torch.no_grad():
        single = vae.likelihood(z)
        loc, scale = single.base_dist.loc.double(), single.base_dist.scale.double()
        exact = torch.distributions.Normal(loc, scale).log_prob(x.double()).sum(-1)
        error = (single.log_prob(x).double() - exact).abs().numpy()
    bound = rounding_error(exact.numpy())
    # An element whose parts cancel is off by as much as one of a nat.
    assert (error <= 2 * bound + 1e-6).all()
    assert error.max() > 0.1 * bound.max()


def test_small_errors_and_few_large_ones_are_no_reason():
    size = np.full(100, -1e3)
    assert withheld(rounding_error(size), size) is None
    size[:5] = -1e8
    assert withheld(rounding_error(size), size) is None
    size[:20] = -1e8
    reason = withheld(rounding_error(size), size)
    assert reason.startswith(
        "Withheld: log densities of about 1e+08 nats have rounding errors of about 11.9 nats"
    )
    assert "--data.scale standard" in reason


def weights_of(vae, x):
    return importance_weighting(vae.model, vae.guide, x, num_samples=200)


def test_weights_of_millions_of_nats_have_no_verdict_and_the_ways_out_help():
    """Columns in their own units: withheld, but neither once standardised nor in float64."""
    x = torch.as_tensor(RNG.normal(size=(40, 4)) * [2e4, 9.0, 3e-5, 8.0] + [6e4, 40, 1e-4, 2000])
    vae = normal_vae((4,))
    found = weights_of(vae, x.float())
    assert found.trust().startswith("Withheld: ")
    summary = found.summary()
    assert summary["khat_share_above"] is None
    json.dumps(summary, allow_nan=False)
    quality = GuideQuality(found.khat, found.ess, found.num_samples, found.withheld)
    assert quality.reading() == found.trust()
    assert quality.summary()["khat_share_above"] is None
    standard = weights_of(vae, ((x - x.mean(0)) / x.std(0)).float())
    assert standard.withheld is None
    assert not standard.trust().startswith("Withheld")
    double = weights_of(vae.double(), x.double())
    assert double.rounding.dtype == np.float64
    assert double.withheld is None
    assert double.khat_share_above is not None


def test_the_rounding_is_that_of_the_weights_that_count():
    """Of the largest log weight: draws of no weight may be as far off as they like."""
    vae = normal_vae((4,))
    x = torch.zeros(3, 4)
    found = weights_of(vae, x)
    terms = log_densities(vae.model, vae.guide, x)
    assert (found.rounding < 1e-5 * terms.log_likelihood.abs().max().item()).all()


def test_a_difference_within_rounding_errors_is_not_told_apart():
    base = RNG.normal(-2e7, 1e3, 200)
    models = [HeldOut("a", base + 0.5, None, 10), HeldOut("b", base, None, 10)]
    found = compare_models(models)
    assert not found.differs_from_best[1]
    assert found.reading().startswith("Withheld: ")
    exact = [HeldOut(m.name, m.log_evidence, None, 10, np.full(200, 1e-9)) for m in models]
    assert compare_models(exact).differs_from_best[1]
    far = [HeldOut("a", base + 500.0, None, 10), HeldOut("b", base, None, 10)]
    assert compare_models(far).differs_from_best[1]
