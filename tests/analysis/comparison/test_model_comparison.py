"""Paired differences by hand, in closed form and by ArviZ; true models, planted faults and equal ones."""

import json
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

from analysis.calibration.exact_models import LinearGaussian
from analysis.comparison.model_comparison import (
    HeldOut,
    ModelComparison,
    compare_models,
    elpd_data,
)
from analysis.comparison.paired_differences import plot_model_comparison
from analysis.plotting.style import shorten
from pyro_vae.evidence import importance_weighting

pytestmark = pytest.mark.arviz

RNG = np.random.default_rng(0)
EXACT = LinearGaussian((1, 4, 4))


def held_out(name, values, khat=None, num_samples=1000):
    khats = None if khat is None else np.full(len(values), float(khat))
    return HeldOut(name, np.asarray(values, np.float64), khats, num_samples)


def normal_log_prob(x, mean, covariance):
    return stats.multivariate_normal(mean, covariance).logpdf(x)


def marginal(*, noise_ratio=1.0, collapsed=False):
    """Mean and covariance of x under a faulty model."""
    weight = EXACT.weight.double().numpy()
    noise = (noise_ratio * EXACT.noise) ** 2 * np.eye(len(weight))
    return EXACT.bias.double().numpy(), noise if collapsed else weight @ weight.T + noise


def divergence(one, other):
    """KL(one || other) of normals with the same mean: the expected difference of log densities."""
    ratio = np.linalg.solve(other, one)
    return 0.5 * (np.trace(ratio) - len(one) - np.linalg.slogdet(ratio)[1])


@pytest.fixture(scope="module")
def three():
    x = EXACT.draw(2000, 1).flatten(1).double().numpy()
    return [
        held_out("wide", normal_log_prob(x, *marginal(noise_ratio=1.5))),
        held_out("true", EXACT.log_evidence(EXACT.draw(2000, 1)).numpy()),
        held_out("collapsed", normal_log_prob(x, *marginal(collapsed=True))),
    ]


def test_the_true_model_is_first_by_the_closed_form(three):
    comparison = compare_models(three)
    assert comparison.names == ("true", "wide", "collapsed")
    for rank, fault in ((1, marginal(noise_ratio=1.5)), (2, marginal(collapsed=True))):
        expected = divergence(marginal()[1], fault[1])
        error = comparison.difference_standard_errors[rank]
        assert comparison.differences[rank] == pytest.approx(expected, abs=4 * error)
        assert comparison.differences[rank] > 20 * error
        assert comparison.differs_from_best[rank]
    # Paired: better known than the means.
    error = comparison.difference_standard_errors[1]
    assert error < 0.7 * math.hypot(*comparison.standard_errors[:2])


def test_by_hand(three):
    comparison = compare_models(three)
    wide, true, collapsed = (model.log_evidence for model in three)
    for rank, other in ((1, wide), (2, collapsed)):
        assert comparison.differences[rank] == pytest.approx((true - other).mean())
        assert comparison.difference_standard_errors[rank] == pytest.approx(
            (true - other).std(ddof=1) / math.sqrt(2000)
        )
    assert comparison.pairwise[2, 1] == pytest.approx((collapsed - wide).mean())
    assert comparison.pairwise_standard_errors[2, 1] == pytest.approx(stats.sem(collapsed - wide))
    np.testing.assert_allclose(comparison.pairwise, -comparison.pairwise.T, atol=1e-12)
    np.testing.assert_allclose(comparison.means, [true.mean(), wide.mean(), collapsed.mean()])


def test_arviz_has_the_same_numbers_but_for_its_sign(three):
    """Its sign is another on each line; its deviation divides by n, ours by n - 1."""
    from arviz_stats import __version__, compare  # pyright: ignore[reportPrivateImportUsage]

    options = {} if __version__ < "1" else {"round_to": "none"}
    with _quiet():
        table = compare({m.name: elpd_data(m) for m in three}, **options)
    ours = compare_models(three)
    n = ours.n
    assert tuple(table.index) == ours.names
    np.testing.assert_allclose(table["elpd"], n * ours.means)
    sign = 1 if __version__ < "1" else -1
    np.testing.assert_allclose(sign * table["elpd_diff"], n * ours.differences, atol=1e-6)
    correction = math.sqrt((n - 1) / n)
    np.testing.assert_allclose(table["dse"], n * correction * ours.difference_standard_errors)
    np.testing.assert_allclose(table["se"], n * ours.standard_errors)
    np.testing.assert_allclose(table["weight"], ours.weights, atol=1e-4)


def _quiet():
    """ArviZ 0.8 uses what newer pandas deprecates."""
    return warnings.catch_warnings(action="ignore")


def test_equal_models_are_within_two_errors_at_the_nominal_rate():
    """Two wrong models, as far from the truth as each other: the interval holds 0 in 95 %."""
    repeats, n = 400, 100
    deviation = RNG.normal(size=(repeats, n, 1)) * 0.3
    x = RNG.normal(size=(repeats, n))
    inside = 0
    for values, shift in zip(x, deviation[..., 0], strict=True):
        common = stats.norm.logpdf(values)
        # Means of 0.2 and -0.2 where the truth is 0, with noise of estimation of their own.
        models = [
            held_out("left", stats.norm.logpdf(values, -0.2) + common),
            held_out("right", stats.norm.logpdf(values, 0.2) + common + shift),
        ]
        models.sort(key=lambda model: -model.log_evidence.mean())
        inside += not ModelComparison(tuple(models), np.ones(2) / 2).differs_from_best[1]
    low, high = stats.binom.ppf([5e-5, 1 - 5e-5], repeats, stats.t(n - 1).cdf([2])[0] * 2 - 1)
    assert low <= inside <= high


@pytest.mark.parametrize("offset", [-900.0, 2000.0])
def test_weights_do_not_depend_on_the_size_of_the_densities(offset):
    """At -900 and 2000 nats, exp(log p(x)) is 0 and infinite, and ArviZ's weights by themselves are equal."""
    values = np.stack([np.random.default_rng(1).normal(-0.5 * i, 2, 300) for i in range(3)])
    comparison = compare_models([held_out(str(i), offset + row) for i, row in enumerate(values)])
    weights = comparison.weights
    order = [int(name) for name in comparison.names]
    np.testing.assert_allclose(weights, _mixture_weights(values[order]), atol=2e-3)
    assert weights.sum() == pytest.approx(1)
    assert np.ptp(weights) > 0.2


def _mixture_weights(values):
    """By expectation maximisation, which needs no care."""
    densities = np.exp(values - values.max(0))
    weights = np.full(len(values), 1 / len(values))
    for _ in range(3000):
        shares = weights[:, None] * densities
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def test_identical_models():
    values = RNG.normal(-90, 10, 200)
    comparison = compare_models([held_out(name, values) for name in "abc"])
    assert comparison.differences.tolist() == [0, 0, 0]
    assert comparison.difference_standard_errors.tolist() == [0, 0, 0]
    assert not comparison.differs_from_best.any()
    assert comparison.weights.sum() == pytest.approx(1)
    assert "not distinguishable" in comparison.reading()
    assert "not distinguishable" in comparison.title()


def test_twelve_models_that_differ_by_chance():
    """Half of them a little better than the others, and none than its half."""
    values = RNG.normal(-90, 1, 200)
    models = [held_out(str(i), values + 0.01 * (i % 2)) for i in range(12)]
    comparison = compare_models(models)
    assert comparison.perhaps_by_chance
    assert "by chance" in comparison.reading()


@pytest.mark.slow
def test_loo_of_the_decoder_ranks_the_worst_guide_first():
    """The trap: with the image as observation, PSIS-LOO on log p(x | z) likes the guide that is off.

    All these models have the same p(x), and ours says so.
    """
    from arviz_base import from_dict
    from arviz_stats import loo as leave_one_out  # pyright: ignore[reportPrivateImportUsage]

    x = EXACT.draw(200, 3)
    loo, models = {}, []
    for scale in (1.0, 0.3, 3.0):
        vae = EXACT.vae(guide_scale=scale)
        torch.manual_seed(0)
        with torch.no_grad():
            z = vae.posterior(x).sample(torch.Size([400]))
            log_likelihood = vae.likelihood(z).log_prob(x).double().numpy()
        tree = from_dict(
            {"posterior": {"a": np.zeros((1, 400))}, "log_likelihood": {"x": log_likelihood[None]}}
        )
        with _quiet():
            loo[scale] = leave_one_out(tree).elpd / len(x)  # pyright: ignore[reportAttributeAccessIssue]
        pyro.set_rng_seed(0)
        result = importance_weighting(vae.model, vae.guide, x, num_samples=2000, compile="off")
        models.append(HeldOut(str(scale), result.log_evidence, result.khat, 2000))
    truth = float(EXACT.log_evidence(x).mean())
    assert max(loo, key=lambda scale: loo[scale]) == 0.3
    assert loo[0.3] > truth + 1
    comparison = compare_models(models)
    good = [rank for rank, model in enumerate(comparison.models) if not model.too_low]
    assert len(good) >= 1
    exact = comparison.models[comparison.names.index("1.0")]
    assert exact.log_evidence.mean() == pytest.approx(truth, abs=1e-4)
    # The guide that is too narrow gives a bound that is too low, and k-hat says so.
    assert comparison.names[-1] == "0.3"
    assert comparison.models[-1].too_low


@pytest.mark.parametrize(
    ("best", "next_best", "words"),
    [
        (0.2, 0.2, ""),
        (None, None, "No k-hat is known for a and b"),
        (None, 0.2, "No k-hat is known for a."),
        (0.9, 0.2, "the lead of a is, if anything, too small"),
        (0.2, 0.9, "the lead of a may be too large, and the order wrong"),
        (0.9, 0.9, "the lead of a may be too large or too small"),
    ],
)
def test_the_reading_says_in_which_direction_it_may_be_wrong(best, next_best, words):
    values = RNG.normal(-90, 10, 200)
    comparison = compare_models(
        [held_out("b", values - 1, next_best), held_out("a", values, best)]
    )
    reading = comparison.reading()
    assert words in reading
    assert ("--methods annealing" in reading) == (0.9 in (best, next_best))


@pytest.mark.parametrize(
    ("best", "next_best", "words"),
    [
        (0.3, 0.8, "may be too large, and the order wrong"),
        (0.8, 0.3, "is, if anything, too small"),
    ],
)
def test_which_of_two_suffers_more(best, next_best, words):
    values, place = RNG.normal(-90, 10, 200), np.arange(200) / 200
    models = [
        HeldOut(name, v, np.where(place < share, 0.9, 0.1), 1000)
        for name, v, share in (("a", values, best), ("b", values - 1, next_best))
    ]
    assert words in compare_models(models).reading()


def test_different_numbers_of_draws_are_said():
    values = RNG.normal(-90, 10, 200)
    models = [held_out("a", values), held_out("b", values - 1, num_samples=100)]
    assert "from 100 to 1000 draws" in compare_models(models).reading()


def test_summary_is_plain_and_finite(three):
    summary = compare_models(three).summary()
    json.dumps(summary, allow_nan=False)
    assert [model["name"] for model in summary["models"]] == ["true", "wide", "collapsed"]
    assert summary["models"][1]["difference_sum"] == pytest.approx(
        2000 * summary["models"][1]["difference"]
    )
    assert summary["models"][0]["difference"] == 0
    assert summary["sign"] == "best minus model"


def test_elpd_data():
    values = RNG.normal(-90, 10, 300)
    khat = np.r_[np.full(100, 0.9), np.full(190, 0.1), np.full(5, np.inf), np.full(5, -np.inf)]
    data = elpd_data(HeldOut("a", values, khat, 1000))
    assert data.elpd == pytest.approx(values.sum())
    assert data.se == pytest.approx(300 * stats.sem(values))
    assert data.good_k == pytest.approx(2 / 3)
    assert data.warning
    np.testing.assert_array_equal(data.elpd_i, values)
    np.testing.assert_array_equal(data.pareto_k, khat)
    few = elpd_data(HeldOut("a", values, None, 10))
    assert not few.warning
    assert few.pareto_k is None


def test_bad_arguments():
    values = RNG.normal(size=50)
    with pytest.raises(ValueError, match="at least two models, got a"):
        compare_models([held_out("a", values)])
    with pytest.raises(ValueError, match="got none"):
        compare_models([])
    with pytest.raises(ValueError, match="'a' more than once"):
        compare_models([held_out("a", values), held_out("a", values)])
    with pytest.raises(ValueError, match="a 50, b 49"):
        compare_models([held_out("a", values), held_out("b", values[1:])])
    with pytest.raises(ValueError, match="at least two data"):
        compare_models([held_out("a", values[:1]), held_out("b", values[:1])])


@pytest.mark.parametrize("bad", [-np.inf, np.nan])
def test_what_is_not_finite_is_refused_or_counted(bad):
    values = RNG.normal(size=50)
    broken = values - 1
    broken[[3, 7]] = bad
    models = [held_out("a", values, 0.1), held_out("b", broken, 0.1)]
    with pytest.raises(
        ValueError, match=r"2 of b \(rows 3, 7\) of 50 data.*likelihood.*leave_out_non_finite"
    ):
        compare_models(models)
    comparison = compare_models(models, leave_out_non_finite=True)
    assert (comparison.n, comparison.left_out) == (48, 2)
    assert comparison.summary()["left_out"] == 2
    assert comparison.differences[1] == pytest.approx(1)
    assert comparison.summary()["left_out_rows"] == [3, 7]
    assert "2 of 50 data (rows 3, 7)" in comparison.reading()


def test_figure(words):
    count = 3
    common = RNG.normal(-90, 10, 200)
    models = [
        held_out(f"model {i}", common + RNG.normal(-i, 1, 200), 0.9 if i == 1 else 0.1)
        for i in range(count)
    ]
    comparison = compare_models(models)
    figure = plot_model_comparison(comparison)
    axes, text = words(figure)
    assert "leads" in text
    assert "nats per datum" in text
    assert "k-hat high 100%" in text
    for model, mean in zip(comparison.models, comparison.means, strict=True):
        assert model.name in text
        assert f"{mean:.2f} nats" in text
    points = axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(sorted(points[:, 0]), sorted(-comparison.differences))
    bar = axes[0].lines[1].get_xdata()
    assert np.ptp(bar) == pytest.approx(4 * comparison.difference_standard_errors[1])


def test_no_figure_stays_open(three):
    from matplotlib import pyplot

    plot_model_comparison(compare_models(three))
    assert not pyplot.get_fignums()


def test_long_names_lose_their_middle():
    assert shorten("short") == "short"
    long = shorten("runs/mnist-standard_normal-0-and-so-on")
    assert len(long) == 28
    assert long.startswith("runs/")
    assert long.endswith("so-on")
