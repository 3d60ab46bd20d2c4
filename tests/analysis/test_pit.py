"""The PITs of a statistic: uniform and rejected at the nominal rate under a true model, and not under a false one."""

import json
import math

import numpy as np
import pytest
from scipy.stats import betabinom, binom, kstest

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.predictive.model_samples import new_data
from analysis.predictive.pit import pit_band, pit_check, plot_pit, randomised_pit


def ink(x):
    return np.asarray(x, np.float64).reshape(len(x), -1).mean(1)


def spread(x):
    return np.asarray(x, np.float64).reshape(len(x), -1).std(1)


def check(exact, vae, statistic, *, n=600, seed=0, **faults):
    real = exact.draw(n, seed=seed + 100, **faults)
    new = new_data(vae, real, n, seed=seed).x
    return pit_check("statistic", statistic(real.numpy()), statistic(new), seed=seed)


def test_a_pit_is_its_random_rank_and_a_random_place_within():
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
    counts = [
        (randomised_pit(rng.poisson(1, n), rng.poisson(1, m), seed=seed) < level / (m + 1)).sum()
        for seed in range(2000)
    ]
    for count in (2, 5, 8):
        share, expected = np.mean(np.array(counts) <= count), betabinom.cdf(count, n, 3, 7)
        assert share == pytest.approx(
            expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000)
        )


@pytest.mark.parametrize("exact", [LinearGaussian(), BernoulliMixture()])
@pytest.mark.parametrize("m", [60, 240])
def test_a_true_model_is_rejected_at_the_nominal_rate(exact, m):
    """Ink of 64 binary pixels takes few values: it ties."""
    n, repetitions = 80, 200
    real = ink(exact.draw(n * repetitions, seed=7)).reshape(repetitions, n)
    new = ink(new_data(exact.vae(), exact.draw(1, seed=0), m * repetitions, seed=8).x)
    new = new.reshape(repetitions, m)
    checks = [
        pit_check("ink", *pair, seed=i) for i, pair in enumerate(zip(real, new, strict=True))
    ]
    rejected = sum(c.p_value < 0.05 for c in checks)
    low, high = binom.ppf([1e-4, 1 - 1e-4], repetitions, 0.05)
    assert low <= rejected <= high
    # One PIT of each repetition: they are independent, and exactly uniform.
    assert kstest([c.pit[0] for c in checks], "uniform").pvalue > 1e-3


def test_independent_pits_would_reject_a_true_model_and_plain_ranks_always():
    exact, n, repetitions = BernoulliMixture(), 200, 100
    real = ink(exact.draw(n * repetitions, seed=7)).reshape(repetitions, n)
    new = ink(exact.draw(n * repetitions, seed=8)).reshape(repetitions, n)
    pairs = list(enumerate(zip(real, new, strict=True)))
    naive = [kstest(randomised_pit(*pair, seed=i), "uniform").pvalue < 0.05 for i, pair in pairs]
    plain = [
        kstest((pair[1] <= pair[0][:, None]).mean(1), "uniform").pvalue < 0.05 for _, pair in pairs
    ]
    assert 0.15 < np.mean(naive) < 0.6
    assert np.mean(plain) > 0.8


@pytest.mark.arviz
def test_the_curve_leaves_the_band_just_where_the_test_rejects():
    n, m = 80, 120
    levels, lowest, highest = pit_band(n, m)
    rng = np.random.default_rng(0)
    rejected = []
    for seed in range(150):
        c = pit_check("t", 1.2 * rng.normal(size=n), rng.normal(size=m), seed=seed)
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
def test_a_false_model_is_found_and_what_is_wrong_is_named(faults, statistic, departure):
    exact = LinearGaussian()
    found = check(exact, exact.vae(**faults), statistic)
    assert found.p_value < 1e-3
    assert found.departure == departure
    assert check(exact, exact.vae(), statistic).departure == "none"


def test_a_collapsed_mixture_and_shifted_data_are_found():
    mixture, gaussian = BernoulliMixture(), LinearGaussian()
    contrast = (mixture.logits[0] - mixture.logits[1]).numpy()
    collapsed = check(
        mixture, mixture.vae(collapsed=True), lambda x: x.reshape(len(x), -1) @ contrast
    )
    assert collapsed.departure == "too narrow"
    assert collapsed.p_value < 1e-3
    assert check(gaussian, gaussian.vae(), ink, shift=0.15).departure == "too low"
    assert check(gaussian, gaussian.vae(), ink, shift=-0.15).departure == "too high"


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
def test_a_shift_is_no_wrong_width(shift, scale, departure):
    rng = np.random.default_rng(1)
    real, new = rng.normal(size=(2, 2000))
    found = pit_check("t", shift + scale * real, new, seed=0)
    assert found.departure == departure
    if scale == 1:
        assert "varies" not in found.reading()
    if " and " in departure:
        assert "is too" in found.reading()
        assert " and varies too" in found.reading()


def test_too_wide_and_another_form_are_named():
    rng = np.random.default_rng(0)
    real, new = rng.normal(size=(2, 1000))
    assert pit_check("t", 0.7 * real, new, seed=0).departure == "too wide"
    heaps = rng.choice([-1.6, -0.5, 0.5, 1.6], 1000, p=[0.1, 0.4, 0.4, 0.1])
    assert pit_check("t", heaps, new, seed=0).departure == "another form"


def test_a_summary_is_plain_and_its_reading_says_what_to_look_at():
    rng = np.random.default_rng(0)
    c = pit_check("ink", rng.normal(size=200), rng.normal(size=300), seed=0, label="mean pixel")
    summary = c.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["mean_pit"] == pytest.approx(c.pit.mean())
    assert summary["mean_pit_se"] == pytest.approx(math.sqrt((1 / 200 + 1 / 300) / 12))
    assert c.reading().startswith(
        "mean pixel: no departure found among 200 real and 300 generated"
    )


def test_a_constant_statistic_or_one_datum_is_no_error():
    assert pit_check("t", np.zeros(300), np.zeros(300), seed=0).departure == "none"
    assert pit_check("t", np.zeros(1), np.ones(1), seed=0).p_value > 0.5


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan])])
def test_what_cannot_be_ranked_is_refused(bad):
    with pytest.raises(ValueError, match="reference must be numbers, at least one, got"):
        pit_check("t", np.ones(2), bad, seed=0)


@pytest.mark.arviz
def test_the_figure_shows_the_curve_of_each_statistic_with_its_p_value(words):
    from matplotlib import pyplot

    rng = np.random.default_rng(0)
    real, new = rng.normal(size=(2, 400))
    checks = [
        pit_check("a", real, new, seed=0, label="ink"),
        pit_check("b", 1.5 * real, new, seed=0, label="total variation"),
    ]
    figure = plot_pit(checks)
    axes, text = words(figure)
    assert "1 of 2 statistics" in text
    p = f"p = {checks[1].p_value:.2g}" if checks[1].p_value > 1e-4 else "p < 0.0002"
    assert f"total variation\n{p}\ntoo narrow" in text
    assert f"ink\np = {checks[0].p_value:.2g}" in text
    for ax, c in zip(axes, checks, strict=True):
        x, y = ax.lines[0].get_data()
        # ArviZ's lines differ in where they evaluate the curve, by up to a step of 1 / 200.
        share = (c.pit <= np.asarray(x)[:, None]).mean(1)
        assert np.abs(np.asarray(y) - (share - x)).max() < 0.02
    assert not pyplot.get_fignums()


def test_a_figure_needs_checks_of_one_size():
    checks = [pit_check(str(n), np.arange(n), np.arange(9), seed=0) for n in (3, 4)]
    with pytest.raises(ValueError, match="the same number of data"):
        plot_pit(checks)
