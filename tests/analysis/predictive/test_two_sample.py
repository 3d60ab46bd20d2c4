"""Two samples of a score: PITs and p-values are calibrated under a true model, and faults are named."""

import json
import math

import numpy as np
import pytest
from scipy.stats import betabinom, binom, ks_2samp, kstest

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import new_data
from analysis.predictive.two_sample import compare_scores, pit_band, randomised_pit


def ink(x):
    return np.asarray(x, np.float64).reshape(len(x), -1).mean(1)


def spread(x):
    return np.asarray(x, np.float64).reshape(len(x), -1).std(1)


def compare(exact, vae, statistic, *, n=600, seed=0, **faults):
    real = exact.draw(n, seed=seed + 100, **faults)
    new = new_data(vae, real, n, seed=seed).x
    return compare_scores("statistic", statistic(real.numpy()), statistic(new), seed=seed)


def rejections(comparisons):
    return sum(c.p_value < 0.05 for c in comparisons)


def test_a_pit_is_a_random_rank_and_a_random_place_within():
    pit = randomised_pit(np.array([-1.0, 0.5, 9.0]), np.arange(4.0), seed=0)
    assert (np.floor(5 * pit) == [0, 1, 4]).all()


def test_ties_are_broken_at_random_and_alike_for_all_pairs():
    both, four = np.full(2, 2), np.full(4, 2)
    ranks = np.array([5 * randomised_pit(both, four, seed=seed) for seed in range(900)])
    counts = np.histogram(ranks[:, 0], bins=5, range=(0, 5))[0]
    assert (np.abs(counts - 180) < 4 * math.sqrt(180 * 0.8)).all()
    # Polya's urn: the second falls into the first one's place with probability 2 / (m + 2). If each
    # broke its own ties it would be 1 / (m + 1).
    same = (np.floor(ranks[:, 0]) == np.floor(ranks[:, 1])).mean()
    assert same == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / 900))


def test_the_count_below_a_level_is_beta_binomial():
    n, m, level = 20, 9, 3
    rng = np.random.default_rng(0)
    counts = np.array(
        [
            (
                randomised_pit(rng.poisson(1, n), rng.poisson(1, m), seed=seed) < level / (m + 1)
            ).sum()
            for seed in range(2000)
        ]
    )
    for count in (2, 5, 8):
        expected = betabinom.cdf(count, n, 3, 7)
        error = 4 * math.sqrt(expected * (1 - expected) / 2000)
        assert (counts <= count).mean() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("continuous", (60, 90)), ("count", (80, 80)), ("zeros", (80, 80)), ("count", (600, 600))],
)
def test_p_values_are_uniform_with_ties_and_without(kind, sizes):
    rng = np.random.default_rng(1)
    draw = {
        "continuous": rng.normal,
        "count": lambda size: rng.binomial(64, 0.3, size),
        "zeros": lambda size: rng.binomial(1, 0.2, size),
    }[kind]
    found = [compare_scores("s", *(draw(size=n) for n in sizes), seed=seed) for seed in range(250)]
    low, high = binom.ppf([1e-4, 1 - 1e-4], 250, 0.05)
    assert low <= rejections(found) <= high
    assert np.mean([c.p_value for c in found]) == pytest.approx(0.5, abs=0.09)
    assert 0.87 < np.std([c.standard_errors for c in found]) < 1.13
    # One PIT of each repetition: they are independent, and exactly uniform.
    assert kstest([c.pit[0] for c in found], "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("exact", "m"), [(LinearGaussian(), 240), (BernoulliMixture(), 60)], ids=["real", "binary"]
)
def test_a_true_model_is_rejected_at_the_nominal_rate(exact, m):
    n, repetitions = 80, 200
    real = ink(exact.draw(n * repetitions, seed=7)).reshape(repetitions, n)
    new = ink(new_data(exact.vae(), exact.draw(1, seed=0), m * repetitions, seed=8).x)
    pairs = zip(real, new.reshape(repetitions, m), strict=True)
    low, high = binom.ppf([1e-4, 1 - 1e-4], repetitions, 0.05)
    found = [compare_scores("ink", *pair, seed=i) for i, pair in enumerate(pairs)]
    assert low <= rejections(found) <= high


def test_tests_for_independent_pits_reject_a_true_model():
    """Of plain ranks nearly always."""
    exact, n, repetitions = BernoulliMixture(), 200, 100
    real, new = (
        ink(exact.draw(n * repetitions, seed=seed)).reshape(repetitions, n) for seed in (7, 8)
    )
    pairs = list(zip(real, new, strict=True))
    naive = [
        kstest(randomised_pit(*pair, seed=i), "uniform").pvalue for i, pair in enumerate(pairs)
    ]
    plain = [kstest((b <= a[:, None]).mean(1), "uniform").pvalue for a, b in pairs]
    assert 0.15 < (np.array(naive) < 0.05).mean() < 0.6
    assert (np.array(plain) < 0.05).mean() > 0.8


def test_power_is_that_of_kolmogorov_and_smirnov_for_shifts_and_higher_for_widths():
    """Over 200 pairs each, with standard errors of about 0.035."""
    rng = np.random.default_rng(0)
    real, new = rng.normal(size=(2, 200, 200))

    def power(changed):
        ours = rejections([compare_scores("s", *pair) for pair in zip(changed, new, strict=True)])
        theirs = sum(ks_2samp(*pair).pvalue < 0.05 for pair in zip(changed, new, strict=True))
        return ours / 200, theirs / 200

    ours, theirs = power(real + 0.25)
    assert ours > theirs - 0.1
    ours, theirs = power(1.2 * real)
    assert ours > theirs + 0.1


def test_the_curve_leaves_the_band_where_the_test_rejects():
    n, m = 80, 120
    levels, lowest, highest = pit_band(n, m)
    rng = np.random.default_rng(0)
    rejected = []
    for seed in range(150):
        c = compare_scores("t", 1.2 * rng.normal(size=n), rng.normal(size=m), seed=seed)
        curve = (c.pit[:, None] < levels).mean(0) - levels
        left = ((curve < lowest - 1e-9) | (curve > highest + 1e-9)).any()
        assert left == (c.p_value < 0.05)
        assert c.largest_departure == pytest.approx(np.abs(curve).max())
        rejected.append(left)
    assert 0.05 < np.mean(rejected) < 0.95


@pytest.mark.parametrize(
    ("faults", "statistic", "departure"),
    [
        ({"noise_ratio": 0.7}, spread, "too low"),
        ({"noise_ratio": 1.4}, spread, "too high"),
        # The mean of all elements varies with z, which a collapsed decoder ignores.
        ({"collapsed": True}, ink, "too narrow"),
    ],
)
def test_a_false_model_is_found_and_its_fault_is_named(faults, statistic, departure):
    exact = LinearGaussian()
    found = compare(exact, exact.vae(**faults), statistic)
    assert found.p_value < 1e-3
    assert found.departure == departure
    assert compare(exact, exact.vae(), statistic).departure == "none"


def test_a_collapsed_mixture_is_found():
    mixture = BernoulliMixture()
    contrast = (mixture.logits[0] - mixture.logits[1]).numpy()
    collapsed = compare(
        mixture, mixture.vae(collapsed=True), lambda x: x.reshape(len(x), -1) @ contrast
    )
    assert collapsed.departure == "too narrow"


@pytest.mark.parametrize(
    ("shift", "scale", "departure"),
    [
        (0.5, 1.0, "too low"),
        (-0.5, 1.0, "too high"),
        # Nearly all PITs are in one tail.
        (-3.0, 1.0, "too high"),
        (3.0, 0.5, "too low"),
        (0.0, 2.0, "too narrow"),
        (0.0, 0.5, "too wide"),
        (0.5, 2.0, "too low and too narrow"),
        (-0.2, 0.5, "too high and too wide"),
    ],
)
def test_a_shift_is_told_from_a_wrong_width(shift, scale, departure):
    real, new = np.random.default_rng(1).normal(size=(2, 2000))
    found = compare_scores("t", shift + scale * real, new, seed=0)
    assert found.departure == departure
    assert ("varies" in found.pit_reading()) == (" and " in departure or shift == 0)


def test_another_form_is_named():
    rng = np.random.default_rng(0)
    new = rng.normal(size=1000)
    heaps = rng.choice([-1.6, -0.5, 0.5, 1.6], 1000, p=[0.1, 0.4, 0.4, 0.1])
    assert compare_scores("t", heaps, new, seed=0).departure == "another form"


def test_numbers_by_hand():
    c = compare_scores("s", np.array([0.0, 2.0]), np.array([3.0, 5.0]), label="score: of both")
    assert c.ks_distance == 1
    assert c.difference == 3
    assert c.difference_se == pytest.approx(np.sqrt(2))
    assert c.deviations == pytest.approx(3)
    # Both below both of the others: 2 of 4! / (2! 2!) orders are as improbable.
    assert c.p_value == pytest.approx(1 / 3, abs=0.02)
    assert "mean 4 against 1 of real data" in c.reading()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(0.3, size=70)
    assert compare_scores("s", a, b).ks_distance == pytest.approx(ks_2samp(a, b).statistic)
    with pytest.raises(
        ValueError, match="s must have scores of real and of generated data, got 2"
    ):
        compare_scores("s", np.zeros(2), np.zeros(0))


def test_non_finite_scores_count_by_their_rank():
    real, generated = np.random.default_rng(0).normal(size=(2, 100))
    generated[:40] = np.nan
    generated[40:50] = -np.inf
    c = compare_scores("elbo", real, generated)
    assert c.non_finite == (0, 50)
    assert c.p_value < 1e-3
    assert c.ks_distance == pytest.approx(
        ks_2samp(real, np.nan_to_num(generated, nan=-9)).statistic
    )
    assert c.summary()["non_finite_generated"] == 50
    assert "0 real, 50 generated" in c.reading()
    json.dumps(c.summary(), allow_nan=False)
    assert compare_scores("elbo", generated, generated.copy()).p_value > 0.05
    all_bad = compare_scores("elbo", np.full(5, np.nan), np.full(5, np.nan))
    assert all_bad.p_value == 1
    assert all_bad.summary()["real_mean"] is None


def test_a_constant_score_has_no_deviation():
    zeros = np.zeros(20)
    c = compare_scores("s", zeros, zeros)
    assert (c.p_value, c.standard_errors, c.deviations, c.departure) == (1, None, None, "none")
    # The difference is known where only the real ones are constant.
    shifted = compare_scores("s", zeros, np.arange(20.0))
    assert shifted.deviations is None
    assert shifted.standard_errors is not None
    assert compare_scores("t", np.zeros(1), np.ones(1)).p_value > 0.5


def test_summaries_are_json():
    rng = np.random.default_rng(0)
    c = compare_scores("ink", rng.normal(size=200), rng.normal(size=300), label="mean pixel: x")
    for summary in (c.summary(), c.pit_summary()):
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert summary["reading"].startswith("mean pixel")
    assert c.pit_summary()["mean_pit"] == pytest.approx(c.pit.mean())
    assert c.pit_summary()["mean_pit_se"] == pytest.approx(math.sqrt((1 / 200 + 1 / 300) / 12))
    assert c.pit_summary()["extreme_share_se"] == pytest.approx(
        math.sqrt((1 / 200 + 1 / 300) * 0.16)
    )
