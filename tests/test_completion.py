"""Completions: exact conditionals of linear-Gaussian and discrete models, units, bad input."""

import math

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, build, conditional_draws, fit, likelihoods, posteriors, priors
from pyro_vae.data import digits
from pyro_vae.programs import (
    clustering,
    conditional,
    hierarchical,
    missing,
    semi_supervised,
    sequence,
)

NAN = math.nan
LOADINGS = torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.2, 1.2], [0.6, -0.7], [0.0, 0.4]])
MEAN, SCALE = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0]), 0.4
ROW = torch.tensor([[NAN, -0.3, NAN, 0.8, NAN]])
GAPS = ROW[0].isnan()


class Linear(nn.Module):
    """W z + m, as a likelihood's decoder."""

    def __init__(self, output_shape):
        super().__init__()
        self.weight = nn.Parameter(LOADINGS.clone())
        self.output_shape = output_shape

    def forward(self, z):
        return (z @ self.weight.T + MEAN).reshape(*z.shape[:-1], *self.output_shape)


class Guide(nn.Module):
    """N(m + shift, width V), where N(m, V) is the exact p(z | x) of a complete x."""

    support, latent_dim = "real", 2

    def __init__(self, width=1.0, shift=0.0):
        super().__init__()
        self.width, self.shift = width, shift
        self.covariance = torch.linalg.inv(torch.eye(2) + LOADINGS.T @ LOADINGS / SCALE**2)

    def forward(self, x):
        loc = (x - MEAN) @ LOADINGS @ self.covariance / SCALE**2
        return dist.MultivariateNormal(loc + self.shift, self.width * self.covariance)

    def embed(self, x):
        return self(x).loc


def linear(**options):
    likelihood = likelihoods.Normal((5,), Linear, scale="fixed", initial_scale=SCALE)
    return VAE(priors.StandardNormal(2), likelihood, Guide(**options))


def exact():
    """Mean and covariance of the missing elements of ROW given the observed ones."""
    covariance = LOADINGS @ LOADINGS.T + SCALE**2 * torch.eye(5)
    gain = covariance[GAPS][:, ~GAPS] @ torch.linalg.inv(covariance[~GAPS][:, ~GAPS])
    mean = MEAN[GAPS] + gain @ (ROW[0, ~GAPS] - MEAN[~GAPS])
    return mean, covariance[GAPS][:, GAPS] - gain @ covariance[~GAPS][:, GAPS]


def statistics_of_rows(found):
    """The difference from the exact mean and covariance, of the draws of each row."""
    mean, covariance = exact()
    deviation = found.values[:, :, GAPS].double() - mean
    products = deviation[..., None] * deviation[..., None, :] - covariance
    return torch.cat([deviation.mean(1), products.mean(1).flatten(1)], 1)


def largest_z(statistics):
    """The largest of their means, in standard errors over independent rows."""
    return float((statistics.mean(0) / statistics.std(0) * len(statistics) ** 0.5).abs().max())


GUIDES = {"exact": {}, "narrow": {"width": 0.5}, "wide": {"width": 4.0}, "shifted": {"shift": 0.3}}
ROWS = ROW.expand(40, -1)


@pytest.mark.parametrize("method", ["importance", "gibbs"])
@pytest.mark.parametrize("guide", GUIDES)
def test_draws_have_the_exact_mean_and_covariance(method, guide):
    vae = linear(**GUIDES[guide])
    found = vae.complete(ROWS, draws=1000, method=method, num_samples=1200, seed=0)
    assert torch.equal(found.values[:, :, ~GAPS], ROW[0, ~GAPS].expand(40, 1000, -1))
    statistics = statistics_of_rows(found)
    assert largest_z(statistics) < 4
    assert statistics.mean(0).abs().max() < 0.06
    mean, covariance = exact()
    assert largest_z(found.mean[:, GAPS] - mean) < 4
    assert (
        largest_z(
            found.sd[:, GAPS] ** 2 + (found.mean[:, GAPS] - mean) ** 2 - covariance.diagonal()
        )
        < 4
    )
    assert (found.sd[:, ~GAPS] == 0).all()
    assert torch.equal(found.mean[:, ~GAPS], ROWS[:, ~GAPS])


def test_without_its_weights_the_test_fails(monkeypatch):
    draws = conditional_draws.ConditionalDraws
    weigh = draws.weigh

    def unweighted(self, *arguments, **options):
        found = weigh(self, *arguments, **options)
        found.log_weight = torch.zeros_like(found.log_weight)
        return found

    monkeypatch.setattr(draws, "weigh", unweighted)
    found = linear(shift=0.3).complete(ROWS, draws=1000, num_samples=2000, seed=0)
    assert largest_z(statistics_of_rows(found)) > 20


@pytest.mark.parametrize("num_samples", [1, 2, 5, 9, 24, 100])
def test_few_draws_are_right_on_average(num_samples):
    # Of one draw the weight is 1, and a completion the guide's.
    rows = ROW.expand(2000, -1)
    found = linear(width=1.3).complete(rows, num_samples=num_samples, seed=0)
    assert found.values.shape == (2000, 1, 5)
    assert (found.khat is None) == (num_samples < 25)
    assert (found.ess <= num_samples + 1e-9).all()
    if num_samples == 100:
        draws = found.values[:, 0, GAPS]
        mean, covariance = exact()
        # Self-normalised weights have a bias of the order of 1 / K.
        torch.testing.assert_close(draws.mean(0), mean, atol=0.1, rtol=0)
        torch.testing.assert_close(draws.T.cov(), covariance, atol=0.12, rtol=0)


def test_a_bad_proposal_is_reported():
    sizes = {}
    for method in ("importance", "gibbs"):
        good, bad = (
            linear(**options).complete(ROW, method=method, num_samples=2000, seed=0)
            for options in ({}, {"width": 1e-3, "shift": 3.0})
        )
        sizes[method] = good.ess[0], bad.ess[0]
        assert bad.ess[0] < good.ess[0] / 2
    assert sizes["importance"][0] > 1000
    assert bad.acceptance[0] < 0.01
    assert good.acceptance[0] > 0.5
    assert bad.ess[0] < 100


def test_rows_with_nothing_or_everything_missing_are_exact():
    x = torch.cat([MEAN[None] + 0.1, torch.full((1, 5), NAN), ROW])
    for method in ("importance", "gibbs"):
        found = linear(shift=2.0).complete(x, draws=4000, method=method, num_samples=4000, seed=1)
        assert torch.equal(found.values[0], x[:1].expand(4000, -1))
        assert (found.ess[:2] == found.num_samples).all()
        assert found.ess[2] < found.num_samples
        covariance = LOADINGS @ LOADINGS.T + SCALE**2 * torch.eye(5)
        torch.testing.assert_close(found.values[1].mean(0), MEAN, atol=0.1, rtol=0)
        torch.testing.assert_close(found.values[1].T.cov(), covariance, atol=0.12, rtol=0)
        torch.testing.assert_close(found.mean[1], MEAN, atol=0.1, rtol=0)


def test_draws_in_blocks_and_rows_in_chunks(monkeypatch):
    monkeypatch.setattr(conditional_draws, "_ELEMENTS", 20 * 5 * 150)
    monkeypatch.setattr(conditional_draws, "_PAIRS", 20 * 300)
    found = linear(width=2.0).complete(ROWS, draws=300, num_samples=300, seed=0)
    assert largest_z(statistics_of_rows(found)) < 4


# ---- discrete codes -----------------------------------------------------------------------------


def test_one_hot_codes_give_the_exact_mixture():
    torch.manual_seed(0)
    vae = build((6,), 4, prior="one_hot", posterior="one_hot", likelihood="bernoulli")
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.mul_(3.0)
    x = torch.tensor([[1.0, 0.0, NAN, NAN, 1.0, NAN]])
    gaps = x[0].isnan()
    with torch.no_grad():
        probs = vae.likelihood(torch.eye(4)).mean
    mass = (probs[:, ~gaps] ** x[0, ~gaps] * (1 - probs[:, ~gaps]) ** (1 - x[0, ~gaps])).prod(1)
    weight = mass / mass.sum()
    assert weight.max() < 0.95
    joint = torch.zeros(2, 2, 2)
    for w, p in zip(weight, probs[:, gaps], strict=True):
        a, b, c = (torch.stack([1 - each, each]) for each in p)
        joint += w * a[:, None, None] * b[:, None] * c
    for method in ("importance", "gibbs"):
        found = vae.complete(x, draws=20_000, method=method, num_samples=5000, seed=0)
        assert found.ess[0] > 300
        tolerance = {"atol": 4 * 0.5 / found.ess[0] ** 0.5, "rtol": 0}
        torch.testing.assert_close(found.mean[0, gaps], weight @ probs[:, gaps], **tolerance)
        codes = (found.values[0][:, gaps] @ torch.tensor([4.0, 2.0, 1.0])).long()
        share = codes.bincount(minlength=8) / len(codes)
        torch.testing.assert_close(share, joint.flatten(), **tolerance)
        p = found.mean[0, gaps]
        torch.testing.assert_close(found.sd[0, gaps], (p * (1 - p)).sqrt())


WITH_DENSITY = {**posteriors.WITH_DENSITY}
EASY = [
    *((prior, None) for prior in priors.PRIORS),
    *((None, posterior) for posterior in WITH_DENSITY),
]


@pytest.mark.parametrize(("prior", "posterior"), EASY)
def test_every_prior_and_guide(prior, posterior):
    torch.manual_seed(0)
    support = (priors.PRIORS[prior] if prior else WITH_DENSITY[posterior]).support
    prior = prior or next(n for n, p in priors.PRIORS.items() if p.support == support)
    posterior = posterior or next(n for n, q in WITH_DENSITY.items() if q.support == support)
    x = torch.randint(0, 2, (3, 6)).float()
    train = torch.randint(0, 2, (40, 6)).float()
    options = {"train_data": train, "train_size": 40}
    vae = build((6,), 4, prior=prior, posterior=posterior, likelihood="bernoulli", **options)
    x[:, 3:] = NAN
    for method in ("importance", "gibbs"):
        found = vae.complete(x, draws=2, method=method, num_samples=49, seed=0)
        assert torch.equal(found.values[:, :, :3], x[:, None, :3].expand(-1, 2, -1))
        assert set(found.values.flatten().tolist()) <= {0.0, 1.0}
        assert (found.ess > 1 - 1e-9).all()
        assert ((found.mean > -1e-6) & (found.mean < 1 + 1e-6)).all()


DATA = {"binary": 2, "unit": None, "integers": 5, "counts": None, "real": None}


@pytest.mark.parametrize("likelihood", likelihoods.LIKELIHOODS)
def test_every_likelihood(likelihood):
    torch.manual_seed(0)
    support = likelihoods.LIKELIHOODS[likelihood].support
    x = torch.rand(3, 6) if support in ("unit", "real") else torch.randint(0, 2, (3, 6)).float()
    vae = build((6,), 2, likelihood=likelihood, levels=DATA[support], train_data=x)
    x[:, 3:] = NAN
    if likelihood in (
        "autoregressive_bernoulli",
        "low_rank_normal",
        "logistic_mixture",
        "multinomial",
    ):
        with pytest.raises(ValueError, match=r"independent given z.*such as bernoulli"):
            vae.complete(x)
        return
    found = vae.complete(x, draws=20_000, num_samples=2000, seed=0)
    draws = found.values[:, :, 3:]
    # The mean and the spread, from p(x | z), are those of the draws.
    error = 6 * found.sd[:, 3:] / torch.from_numpy(found.ess)[:, None] ** 0.5 + 1e-3
    assert ((draws.mean(1) - found.mean[:, 3:]).abs() < error.float()).all()
    torch.testing.assert_close(draws.std(1), found.sd[:, 3:], rtol=0.15, atol=0.02)


# ---- programs -----------------------------------------------------------------------------------


LABELS = torch.arange(40) % 3
SMALL = {"latent_dim": 2, "likelihood": "bernoulli"}
PROGRAMS = {
    "clustering": lambda: clustering.build((6,), classes=3, **SMALL),
    "one_step": lambda: clustering.build((6,), classes=3, form="one_step", **SMALL),
    "bottom_up": lambda: hierarchical.build((6,), inference="bottom_up", **SMALL),
    "top_down": lambda: hierarchical.build((6,), inference="top_down", **SMALL),
    "missing": lambda: missing.build((6,), **SMALL),
    "sequence": lambda: sequence.build((3, 2), **SMALL),
    "semi_supervised": lambda: semi_supervised.build((6,), train_labels=LABELS, **SMALL),
    "conditional": lambda: conditional.build((6,), train_labels=LABELS, **SMALL),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_agree_with_brute_force(name):
    torch.manual_seed(0)
    program = PROGRAMS[name]()
    with torch.no_grad():
        for parameter in program.likelihood.parameters():
            parameter.mul_(3.0)
    x = torch.tensor([1.0, 0.0, NAN, 1.0, NAN, NAN]).reshape(1, *program.likelihood.event_shape)
    gaps = x[0].isnan()
    y = torch.tensor([1]) if name == "conditional" else None
    # p(x_missing | x_observed) by draws from the prior, weighted by p(x_observed | z).
    torch.manual_seed(1)
    with torch.no_grad():
        parts = program._conditionals(y, 1)(torch.arange(1))
        p = parts.likelihood(parts.prior.sample((20_000, 1))).mean[:, 0]
        likelihood = torch.where(x[0] == 1, p, 1 - p)[:, ~gaps].prod(1)
        expected = (likelihood[:, None] * p[:, gaps]).sum(0) / likelihood.sum()
    for method in ("importance", "gibbs"):
        found = program.complete(x, y=y, method=method, num_samples=2000, seed=0)
        error = 6 * found.sd[0][gaps] / found.ess[0] ** 0.5 + 0.01
        assert ((found.mean[0][gaps] - expected).abs() < error).all()


def test_covariates_are_those_of_their_rows():
    y = torch.arange(40) % 2
    torch.manual_seed(0)
    program = conditional.build((6,), 2, likelihood="bernoulli", train_labels=y)
    x = torch.full((4, 6), NAN)
    x[1:3, 0] = 1.0
    with torch.no_grad():
        program.likelihood.decoder.network(torch.zeros(1, 4))
        for parameter in program.parameters():
            parameter.mul_(3.0)
    found = program.complete(x, y=torch.tensor([0, 0, 1, 1]), num_samples=20_000, seed=0)
    for row, label in ((0, 0), (3, 1)):
        alone = program.sample(20_000, y=label, seed=0).mean(0)
        np.testing.assert_allclose(found.mean[row], alone, atol=0.02)
    assert ((found.mean[1] - found.mean[2]).abs() > 0.05).any()


def test_what_programs_cannot_is_refused():
    y = torch.arange(40) % 2
    counts = conditional.build((4,), 2, likelihood="poisson", train_labels=y)
    with pytest.raises(ValueError, match=r"size factor.*--size-factor false"):
        counts.complete(torch.tensor([[1.0, NAN, 2.0, 3.0]]), y=0)
    with pytest.raises(ValueError, match="y is for programs with covariates"):
        linear().complete(ROW, y=0)
    point = build((6,), 2, posterior="point", likelihood="bernoulli")
    with pytest.raises(ValueError, match=r"density.*Point.*mass at one point"):
        point.complete(torch.full((1, 6), NAN))


# ---- units and forms ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    z = rng.normal(size=400)
    frame = pd.DataFrame(
        {
            "price": 3e6 + 1e6 * (z + 0.1 * rng.normal(size=400)),
            "share": 0.01 * (z + 0.1 * rng.normal(size=400)),
        },
        index=[f"row {i}" for i in range(400)],
    )
    torch.manual_seed(0)
    vae = build((2,), 2, likelihood="normal")
    fit(vae, frame, epochs=60)
    return frame, vae


@pytest.mark.parametrize("likelihood", ["student_t", "normal", "laplace"])
@pytest.mark.parametrize("method", ["importance", "gibbs"])
def test_a_large_offset_is_completed_in_float64(likelihood, method):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(100, 1))
    # float32 has steps of 128 here.
    frame = pd.DataFrame(1.7e9 + z + 0.1 * rng.normal(size=(100, 2)), columns=["start", "end"])
    torch.manual_seed(0)
    vae = build((2,), 1, likelihood=likelihood)
    fit(vae, frame, epochs=2)
    gaps = frame.mask(np.array([[False, True]]).repeat(100, 0))
    found = vae.complete(gaps, method=method, draws=20, num_samples=100, seed=0)
    assert found.values.dtype == np.float64
    np.testing.assert_array_equal(found.values[..., 0], frame[["start"]].to_numpy().repeat(20, 1))
    assert np.abs(found.mean["end"] - 1.7e9).max() < 5
    assert found.sd["end"].between(0.1, 5).all()
    assert 0.1 < found.values[..., 1].std() < 5


def test_a_table_is_completed_in_its_units(table):
    frame, vae = table
    gaps = frame.copy()
    gaps.iloc[::2, 1] = NAN
    gaps.iloc[1::4, 0] = NAN
    found = vae.complete(gaps, draws=40, num_samples=400, seed=0)
    assert list(found.mean.columns) == ["price", "share"]
    assert found.mean.index.equals(frame.index)
    missing = gaps.isna().to_numpy()
    assert (found.mean.to_numpy()[~missing] == frame.to_numpy()[~missing]).all()
    assert (
        found.values[~missing[:, None].repeat(40, 1)]
        == np.repeat(frame.to_numpy()[:, None], 40, 1)[~missing[:, None].repeat(40, 1)]
    ).all()
    # The columns rise together.
    for column in (0, 1):
        rows = missing[:, column]
        truth = frame.to_numpy()[rows, column]
        assert np.corrcoef(found.mean.to_numpy()[rows, column], truth)[0, 1] > 0.95
        inside = np.abs(truth - found.mean.to_numpy()[rows, column])
        sd = found.sd.to_numpy()[rows, column]
        np.testing.assert_allclose(
            found.values[rows, :, column].std(1).mean(), sd.mean(), rtol=0.1
        )
        assert (inside < sd).mean() > 0.5
    shuffled = gaps.assign(more="a")[["more", "share", "price"]]
    again = vae.complete(shuffled, draws=40, num_samples=400, seed=0)
    np.testing.assert_array_equal(again.values, found.values)
    mask = ~gaps.isna()
    masked = vae.complete(frame, mask, draws=40, num_samples=400, seed=0)
    np.testing.assert_array_equal(masked.values, found.values)
    array = vae.complete(gaps.to_numpy(), draws=40, num_samples=400, seed=0)
    np.testing.assert_array_equal(array.values, found.values)
    assert isinstance(array.mean, np.ndarray)
    summary = found.summary()
    assert summary["n"] == 400
    assert summary["draws"] == 40


@pytest.mark.parametrize(
    ("likelihood", "largest"),
    [("bernoulli", 1), ("discretized_logistic", 16), ("beta", 16), ("normal", None)],
)
def test_grey_levels_come_back_as_the_model_reads_them(likelihood, largest):
    torch.manual_seed(0)
    vae = build((1, 8, 8), 3, likelihood=likelihood, levels=17)
    fit(vae, digits(), epochs=1)
    x = digits().test.numpy()[:4, 0]
    observed = np.ones(x.shape, bool)
    observed[:, 4:] = False
    found = vae.complete(x, observed, draws=3, num_samples=50, seed=0)
    assert found.values.shape == (4, 3, 8, 8)
    assert found.mean.shape == (4, 8, 8)
    top = found.values[:, :, :4]
    if likelihood == "bernoulli":
        assert set(np.unique(found.values)) == {0, 1}
        assert (top[x[:, None, :4].repeat(3, 1) == 0] == 0).all()
        assert (top[x[:, None, :4].repeat(3, 1) == 16] == 1).all()
    else:
        assert (top == x[:, None, :4]).all()
    if largest:
        assert found.values.min() >= 0
        assert found.values.max() <= largest
        assert found.mean.min() >= 0
        assert found.mean.max() <= largest
    if likelihood in ("discretized_logistic", "beta"):
        assert (found.values == np.rint(found.values)).all()
    many = vae.complete(x, observed, draws=2000, num_samples=2000, seed=0)
    np.testing.assert_allclose(many.values.std(1)[:, 4:], many.sd[:, 4:], rtol=0.25, atol=0.3)


def test_impossible_and_unfit_data_are_refused(table):
    frame, vae = table
    with pytest.raises(ValueError, match=r"observed must be a mask of booleans .* \(400, 2\)"):
        vae.complete(frame, np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        vae.complete(frame, draws=0)
    with pytest.raises(ValueError, match="num_samples must be at least 16, got 9"):
        vae.complete(frame, method="gibbs", num_samples=9)
    with pytest.raises((ValueError, TypeError), match="decode"):
        vae.complete(frame, method="decode")
    with pytest.raises(ValueError, match="lacks 1 of the 2 columns"):
        vae.complete(frame[["price"]])
    binary = build((6,), 2, likelihood="bernoulli")
    with pytest.raises(ValueError, match="values from 0 to 7"):
        binary.complete(torch.tensor([[7.0, 0.0, 1.0, NAN, NAN, NAN]]))
    with pytest.raises(ValueError, match=r"x must have the shape \(n, 6\)"):
        binary.complete(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="no density at the observed elements of row 1"):
        linear().complete(torch.cat([ROW, ROW * 1e30]))


def test_a_large_offset_loses_nothing():
    x = 3e9 + np.random.default_rng(0).normal(size=(200, 1)) * [1.0, 2.0]
    torch.manual_seed(0)
    vae = build((2,), 1, likelihood="normal")
    fit(vae, x, epochs=40)
    gaps = x[:50].copy()
    gaps[:, 1] = NAN
    found = vae.complete(gaps, draws=200, num_samples=400, seed=0)
    assert (found.values[:, :, 0] == gaps[:, :1]).all()
    assert np.corrcoef(found.mean[:, 1] - 3e9, x[:50, 1] - 3e9)[0, 1] > 0.95
    np.testing.assert_allclose(
        found.values[:, :, 1].std(1).mean(), found.sd[:, 1].mean(), rtol=0.1
    )


def test_the_same_seed_gives_the_same_draws(table):
    frame, vae = table
    gaps = frame.iloc[:5].copy()
    gaps.iloc[:, 0] = NAN
    state = torch.random.get_rng_state()
    one, two = (vae.complete(gaps, draws=3, num_samples=100, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.values, two.values)
    assert torch.equal(state, torch.random.get_rng_state())
    other = vae.complete(gaps, draws=3, num_samples=100, seed=8)
    assert (other.values[:, :, 0] != one.values[:, :, 0]).all()
    assert not vae.training or vae.likelihood.training
