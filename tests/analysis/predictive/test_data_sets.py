"""The real data set among data sets from the model: ArviZ's figures, and calibrated p-values."""

import json

import numpy as np
import pytest
from scipy.stats import binom

from analysis.calibration.exact_models import LinearGaussian
from analysis.model_samples import new_data
from analysis.predictive.data_sets import (
    data_set_checks,
    plot_distributions,
    plot_test_statistics,
    predictive_tree,
)
from analysis.result import UndefinedCheckError

pytestmark = pytest.mark.arviz


def ink(x):
    return np.asarray(x, np.float64).reshape(*x.shape[:-3], -1).mean(-1)


def replicated(vae, like, datasets, n, seed):
    x = new_data(vae, like, datasets * n, seed=seed).x
    return x.reshape(datasets, n, *x.shape[1:])


@pytest.fixture
def statistics():
    rng = np.random.default_rng(0)
    real = {"ink": rng.normal(size=60), "counts": rng.poisson(2, 60), "constant": np.ones(60)}
    generated = {
        "ink": rng.normal(size=(20, 60)),
        "counts": rng.poisson(2, (20, 60)),
        "constant": np.ones((20, 60)),
    }
    return real, generated


@pytest.mark.slow
def test_a_true_model_is_rejected_at_the_nominal_rate_and_false_ones_are_found():
    """With 39 data sets p takes the values 0.05, 0.1 and so on, and is at most a with probability a."""
    exact, n, datasets, repetitions = LinearGaussian(), 10, 39, 200
    real = ink(exact.draw(n * repetitions, seed=1).numpy()).reshape(repetitions, n)
    new = ink(replicated(exact.vae(), exact.draw(1, seed=0), datasets * repetitions, n, seed=2))
    p = np.array(
        [
            [check.p_value for check in data_set_checks({"ink": values}, {"ink": sets}).checks]
            for values, sets in zip(real, new.reshape(repetitions, datasets, n), strict=True)
        ]
    )
    assert p.min() == pytest.approx(0.05)
    for level in (0.05, 0.5):
        low, high = binom.ppf([1e-4, 1 - 1e-4], repetitions, level)
        assert ((low <= (p <= level + 1e-9).sum(0)) & ((p <= level + 1e-9).sum(0) <= high)).all()
    for false in (exact.vae(collapsed=True), exact.vae(noise_ratio=3.0)):
        sets = ink(replicated(false, exact.draw(1, seed=0), 3999, 30, seed=2))
        _, deviation = data_set_checks({"ink": real[:3].ravel()}, {"ink": sets}).checks
        assert deviation.p_value < 1e-3
        assert deviation.deviations is not None
        assert abs(deviation.deviations) > 3


def test_how_far_it_is_comes_first_and_p_is_the_bound_that_is_certain():
    generated = {"ink": np.arange(20.0)[:, None] * np.ones((20, 5))}
    (mean, deviation) = data_set_checks({"ink": np.full(5, 100.0)}, generated).checks
    off = (100 - 9.5) / np.std(np.arange(20))
    assert mean.deviations == pytest.approx(off)
    assert mean.words() == (
        f"{mean.real:.4g} against {mean.generated.mean():.4g} of the model's, p ≤ {2 / 21:.2g}"
    )
    assert (mean.outside, deviation.outside) == (True, False)
    # Of a tie on both sides nothing is said.
    assert (deviation.p_value, deviation.deviations) == (1.0, None)
    (mean, _) = data_set_checks({"ink": np.full(5, 17.5)}, generated).checks
    assert mean.p_value == pytest.approx(2 * 3 / 21)
    assert mean.words().endswith("p = 0.29")


def test_a_summary_is_plain_and_names_the_furthest(statistics):
    real, generated = statistics
    real["ink"] = real["ink"] + 3
    found = data_set_checks(real, generated)
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["data_sets"] == 20
    assert f"the mean of ink: {found.ranked[0].words()}" in summary["reading"]


def test_a_tree_has_the_dimensions_that_arviz_reads(statistics):
    tree = predictive_tree(*statistics)
    assert tree["observed_data"]["ink"].dims == ("image",)
    assert tree["prior_predictive"]["ink"].dims == ("chain", "draw", "image")
    assert tree["prior_predictive"]["ink"].shape == (1, 20, 60)
    with pytest.raises(ValueError, match="data sets must be of the real data's statistics"):
        predictive_tree({"ink": np.ones(3)}, {"zeros": np.ones((2, 3))})


def test_distributions_are_the_ecdfs_of_the_real_and_the_new_data(words, statistics):
    from matplotlib import pyplot

    real, _ = statistics
    axes, text = words(plot_distributions(predictive_tree(*statistics)))
    assert "ink" in text
    assert "counts" in text
    assert "constant" not in text
    assert [len(ax.lines) for ax in axes] == [21, 21]
    for ax, name in zip(axes, ("ink", "counts"), strict=True):
        # The real data's line is drawn last.
        x, y = (np.asarray(values, np.float64) for values in ax.lines[-1].get_data())
        inner = np.isfinite(x)
        assert (x[inner].min(), x[inner].max()) == (real[name].min(), real[name].max())
        expected = (real[name] <= x[inner][:, None]).mean(1)
        assert np.abs(y[inner] - expected).max() < 0.02
    assert not pyplot.get_fignums()


def test_test_statistics_stand_with_their_distance_and_p(words, statistics):
    from matplotlib import pyplot

    found = data_set_checks(*statistics)
    axes, text = words(plot_test_statistics(found))
    assert "constant" not in text
    assert len(found.ranked) == 4
    for ax, check in zip(axes, found.ranked, strict=True):
        values = f"{check.real:.4g}, generated {check.generated.mean():.4g}\n{check.p_words()}"
        assert f"{check.name}: {check.measure}\n{values}" in text
        assert ax.lines[-1].get_xdata()[0] == pytest.approx(check.real)
        x = np.asarray(ax.lines[0].get_xdata(), np.float64)
        assert np.nanmax(x[np.isfinite(x)]) == pytest.approx(check.generated.max())
    assert not pyplot.get_fignums()


def test_nothing_that_varies_is_nothing_to_draw():
    nothing = {"t": np.ones(3)}, {"t": np.ones((4, 3))}
    with pytest.raises(UndefinedCheckError, match="no statistic varies"):
        plot_distributions(predictive_tree(*nothing))
    with pytest.raises(UndefinedCheckError, match="no statistic varies"):
        plot_test_statistics(data_set_checks(*nothing))
