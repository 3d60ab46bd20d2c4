"""Scores of rows: equal to evaluate's of each row alone, calibrated errors, and typicality."""

import importlib
import math
from functools import partial
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

from pyro_vae import build, fit, networks, posteriors, priors
from pyro_vae.data import Dataset
from pyro_vae.evidence import RowScores, evaluate, row_scores, typicality
from pyro_vae.evidence.row_scores import RowScorer, reconstruction_errors
from pyro_vae.log_densities import NoDensityError

# Guides with noise that rows cannot share.
ALONE = ("gamma", "beta", "dirichlet", "power_spherical")
COLUMNS = ("log_p", "elbo", "reconstruction", "kl", "ess", "khat")
QUICK = ("diagonal_normal", "coupling_flow", "one_hot", "gamma")
OPTIONS = {"num_samples": 60, "seed": 3}


def binary(n: int = 7) -> torch.Tensor:
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def a_vae(name: str = "diagonal_normal"):
    pyro.set_rng_seed(0)
    part = posteriors.POSTERIORS[name]
    prior = next(p for p in priors.PRIORS.values() if p.support == part.support)
    network = partial(networks.MLP, hidden=(8,))
    return build((1, 8, 8), 4, posterior=part, prior=prior, network=network).eval()


def alone(program, x, y=None, **options):
    """The columns of `evaluate` of each row alone."""
    rows = [
        evaluate(program, x[i : i + 1], y=None if y is None else y[i : i + 1], **options).weights
        for i in range(len(x))
    ]
    names = {"log_p": "log_evidence"}
    return {
        name: np.concatenate([getattr(row, names.get(name, name)) for row in rows])
        for name in COLUMNS
    }


def assert_equal(scores, expected, tolerance):
    for name in COLUMNS:
        np.testing.assert_allclose(
            getattr(scores, name), expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in posteriors.WITH_DENSITY
    ],
)
def test_a_row_has_the_scores_that_evaluate_gives_it_alone(name):
    vae, x = a_vae(name).double(), binary().double()
    scorer = RowScorer(vae, **OPTIONS)
    assert_equal(scorer(x), alone(vae, x, **OPTIONS), 1e-9)
    assert scorer.shares_noise == (name not in ALONE)


def test_scores_in_float64_are_those_of_the_program_in_float64():
    vae, x = a_vae(), binary()
    expected = alone(a_vae().double(), x.double(), **OPTIONS)
    assert_equal(row_scores(vae, x, dtype=torch.float64, **OPTIONS), expected, 1e-12)
    assert next(vae.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["diagonal_normal", "gamma"])
@pytest.mark.parametrize("max_elements", [64 * 50, 64 * 130])
def test_a_row_does_not_depend_on_the_others(name, max_elements, set_compiler):
    """Blocks of any size, order or content; with draws in parts and in graphs, too."""
    set_compiler()
    vae, x = a_vae(name), binary(12)
    options = {**OPTIONS, "dtype": torch.float64, "max_elements": max_elements}
    together = row_scores(vae, x, **options)
    scorer = RowScorer(vae, **options, compile="on")
    # Large blocks first, as their form is the one that is compiled.
    parts = [scorer(x[a:b]) for a, b in ((0, 8), (8, 9), (9, 12))]
    joined = RowScores.concatenate(parts)
    assert_equal(joined, {name: getattr(together, name) for name in COLUMNS}, 1e-9)
    backwards = row_scores(vae, x.flip(0), **options)
    np.testing.assert_allclose(backwards.log_p[::-1], together.log_p, atol=1e-9)
    other = row_scores(vae, x, **{**options, "seed": 4})
    assert np.abs(other.log_p - together.log_p).min() > 1e-6


def test_scores_leave_modes_and_random_streams_alone():
    vae, x = a_vae().train(), binary()
    before = torch.get_rng_state()
    row_scores(vae, x, **OPTIONS)
    assert (torch.get_rng_state() == before).all()
    assert vae.training


class Careful(posteriors.DiagonalNormal):
    """A guide that draws as often as a row's content says."""

    def forward(self, x):
        if self.encoder(x).sum() > -math.inf:
            pass
        return super().forward(x)


class Flattened(dist.TorchDistribution):
    """A normal whose draws have no axis of rows."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.independent(dist.constraints.real, 1)
    has_rsample = True

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Flattened(self.loc.expand(*batch_shape, self.loc.shape[-1]))

    def rsample(self, sample_shape=()):
        shape = self._extended_shape(sample_shape)
        return self.loc + torch.randn(shape.numel()).view(shape)

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value).sum(-1)


class Unshaped(posteriors.DiagonalNormal):
    """A guide with them."""

    def forward(self, x):
        return Flattened(self.encoder(x)[..., 0, :])


@pytest.mark.parametrize("part", [Careful, Unshaped])
def test_rows_that_cannot_share_noise_are_scored_one_by_one(part):
    pyro.set_rng_seed(0)
    vae, x = build((1, 8, 8), 4, posterior=part), binary()
    scorer = RowScorer(vae, **OPTIONS)
    assert_equal(scorer(x), alone(vae, x, **OPTIONS), 1e-9)
    assert scorer.shares_noise is False


@pytest.mark.parametrize("name", ["semi_supervised", "clustering", "hierarchical", "conditional"])
def test_programs_of_other_sites(name):
    module = importlib.import_module(f"pyro_vae.programs.{name}")
    pyro.set_rng_seed(0)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    network = partial(networks.MLP, hidden=(8,))
    given = {"conditional": {"train_labels": y}, "hierarchical": {}}.get(name, {"classes": 3})
    program = module.build((1, 8, 8), 4, network=network, **given).eval()
    x, y = binary(), y if name == "conditional" else None
    assert_equal(row_scores(program, x, y=y, **OPTIONS), alone(program, x, y, **OPTIONS), 1e-3)


def test_the_log_density_of_an_exact_posterior_is_exact(linear_gaussian):
    case = linear_gaussian()
    scores = row_scores(case.vae, case.x, num_samples=100)
    np.testing.assert_allclose(scores.log_p, case.log_evidence, atol=1e-9)
    assert scores.log_p_se.max() < 1e-7
    assert scores.khat is not None
    assert (scores.khat == -np.inf).all()


def test_the_standard_error_is_that_of_repeated_estimates(linear_gaussian):
    case = linear_gaussian(n=5, widen=1.3)
    found = [row_scores(case.vae, case.x, num_samples=400, seed=s) for s in range(60)]
    spread = np.std([each.log_p for each in found], axis=0, ddof=1)
    claimed = np.mean([each.log_p_se for each in found], axis=0)
    # The spread of 60 estimates is known to 9 %.
    np.testing.assert_allclose(claimed, spread, rtol=0.35)
    scores = found[0]
    single = row_scores(case.vae, case.x, num_samples=1)
    assert np.isnan(single.log_p_se).all()
    assert single.khat is None
    k, ess = scores.num_samples, scores.ess
    np.testing.assert_allclose(scores.log_p_se, np.sqrt((k / ess - 1) / (k - 1)))


def test_typicality_is_uniform_for_rows_of_the_reference_distribution(linear_gaussian):
    case = linear_gaussian(n=3000)
    reference = row_scores(case.vae, case.x[:1000], num_samples=20).log_p
    new = typicality(row_scores(case.vae, case.x[1000:], num_samples=20).log_p, reference)
    # At the 1 % level, with both sets at random.
    distance = scipy.stats.kstest(new, "uniform").statistic
    assert distance < 1.63 * math.sqrt(1 / 1000 + 1 / 2000)
    # Rows from elsewhere are less typical, and so are rows that are too typical to be true.
    far = typicality(row_scores(case.vae, 3 * case.x[:100], num_samples=20).log_p, reference)
    assert np.median(far) < 0.1
    center = case.vae.likelihood(torch.zeros(50, 3)).mean
    near = typicality(row_scores(case.vae, center, num_samples=20).log_p, reference)
    assert near.max() < 0.2


def test_typicality_by_hand():
    reference = np.array([0.0, 1.0, 2.0, 3.0, 4.0, np.nan])
    scores = np.array([2.0, 3.0, 0.5, 4.0, 9.0, -np.inf, np.nan])
    expected = np.array([6, 5, 3, 3, 1, 1, np.nan]) / 6
    np.testing.assert_allclose(typicality(scores, reference), expected)
    with pytest.raises(ValueError, match="at least one reference score, got none"):
        typicality(scores, np.array([np.nan]))


def test_reconstruction_errors_are_in_the_units_of_the_data():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (60, 1, 4, 4)).astype(np.uint8)
    vae = build((1, 4, 4), 2, likelihood="normal", kind="levels", levels=256)
    fit(vae, Dataset.from_array(grey), max_steps=2)
    x = grey[:5]
    expected = np.sqrt(np.square(x - vae.reconstruct(x)).reshape(5, -1).mean(1))
    found = reconstruction_errors(vae, vae.prepare(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.mean() > 10
    # Columns in different units are divided by their spreads.
    table = rng.normal(size=(100, 2)) * [1.0, 1e6]
    vae = build((2,), 2, likelihood="normal")
    fit(vae, Dataset.from_array(table), max_steps=2)
    x = vae.prepare(table[:5])
    ratio = (table[:5] - vae.reconstruct(x).numpy()) / table.std(0)
    expected = np.sqrt(np.square(ratio).mean(1))
    np.testing.assert_allclose(reconstruction_errors(vae, x), expected, rtol=0.1)


def test_bad_input():
    vae, x = a_vae(), binary()
    for options, message in (
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"max_elements": 0}, "max_elements must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            row_scores(vae, x, **options)
    with pytest.raises(ValueError, match="at least one example, got none"):
        row_scores(vae, x[:0])
    with pytest.raises(ValueError, match="x must have the shape"):
        row_scores(vae, x[:, :, 1:])
    x[-1, 0, 0, 0] = 0.5
    with pytest.raises(ValueError, match="support"):
        row_scores(vae, x, **OPTIONS)
    with pytest.raises(TypeError, match="has no method `prepare`"):
        row_scores(nn.Linear(2, 2), [[1.0]])
    with pytest.raises(NoDensityError, match=r"log p\(x\) needs a guide with a density"):
        row_scores(a_vae("point"), binary())
