"""Data sets from the model beside the real one: what ArviZ draws, and p-values that are calibrated."""

import numpy as np
import pytest
from scipy.stats import binom

from analysis.draws import new_data
from analysis.exact_models import LinearGaussian
from analysis.predictive_figures import (
    plot_distributions,
    plot_prior_predictive,
    plot_rootogram,
    plot_same_image,
    plot_test_statistics,
    predictive_tree,
    test_statistic_p_values,
)

pytestmark = pytest.mark.arviz

p_values = test_statistic_p_values


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


def test_a_true_model_is_rejected_at_the_nominal_rate_and_false_ones_are_found():
    exact, n, datasets, repetitions = LinearGaussian(), 10, 39, 200
    real = ink(exact.draw(n * repetitions, seed=1).numpy()).reshape(repetitions, n)
    new = ink(replicated(exact.vae(), exact.draw(1, seed=0), datasets * repetitions, n, seed=2))
    rejected = {"mean": 0, "sd": 0}
    for seed, (values, sets) in enumerate(
        zip(real, new.reshape(repetitions, datasets, n), strict=True)
    ):
        found = p_values({"ink": values}, {"ink": sets}, seed=seed)["ink"]
        rejected = {t: rejected[t] + (p < 0.05) for t, p in found.items()}
    low, high = binom.ppf([1e-4, 1 - 1e-4], repetitions, 0.05)
    assert all(low <= count <= high for count in rejected.values())
    for fault, t in (({"collapsed": True}, "sd"), ({"noise_ratio": 3.0}, "sd")):
        sets = ink(replicated(exact.vae(**fault), exact.draw(1, seed=0), 3999, 30, seed=2))
        assert p_values({"ink": real[:3].ravel()}, {"ink": sets})["ink"][t] < 1e-3


def test_ties_of_a_discrete_test_statistic_do_not_reject():
    constant = {"t": np.ones(5)}, {"t": np.ones((9, 5))}
    found = [p_values(*constant, seed=seed)["t"]["mean"] for seed in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


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


def test_test_statistics_stand_with_our_p_values(words, statistics):
    from matplotlib import pyplot

    real, generated = statistics
    found = p_values(real, generated)
    axes, text = words(plot_test_statistics(predictive_tree(real, generated)))
    assert "constant" not in text
    for name in ("ink", "counts"):
        for t in ("mean", "sd"):
            assert f"{name}\n{t}: p = {found[name][t]:.2g}" in text
    assert axes[0].lines[-1].get_xdata()[0] == pytest.approx(real["ink"].mean())
    x = np.asarray(axes[1].lines[0].get_xdata(), np.float64)
    assert np.nanmax(x[np.isfinite(x)]) == pytest.approx(generated["ink"].std(1).max())
    assert not pyplot.get_fignums()


def test_nothing_that_varies_is_nothing_to_draw():
    tree = predictive_tree({"t": np.ones(3)}, {"t": np.ones((4, 3))})
    for plot in (plot_distributions, plot_test_statistics):
        with pytest.raises(ValueError, match="no statistic varies"):
            plot(tree)


@pytest.mark.parametrize("rate", [2, 300])
def test_a_rootogram_marks_the_frequencies_of_counts(words, rate):
    from matplotlib import pyplot

    rng = np.random.default_rng(0)
    real, generated = rng.poisson(rate, (30, 8)), rng.poisson(rate, (12, 30, 8))
    axes, text = words(plot_rootogram(real, generated))
    assert "zeros: data" in text
    offsets = np.concatenate([np.asarray(c.get_offsets()) for c in axes[0].collections])
    if rate == 2:
        for count in range(4):
            frequency = (real == count).sum()
            assert ((offsets[:, 0] == count) & (offsets[:, 1] == frequency)).any()
    assert len(axes[0].get_xticklabels()) <= 32
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("shape", [(1, 8, 8), (9,), (200,)])
def test_data_stand_beside_new_data_and_replicates(words, shape):
    rng = np.random.default_rng(0)
    real, untrained, trained = rng.poisson(3, (3, 12, *shape))
    axes, text = words(plot_prior_predictive(real, untrained, trained))
    assert all(name in text for name in ("data", "untrained", "trained"))
    replicates = rng.poisson(3, (6, 12, *shape))
    axes, text = words(plot_same_image(real, replicates))
    assert "Descriptive only: they fail a calibrated test even for a true model" in text
    if shape == (1, 8, 8):
        shown = (real[0, 0] - real.min()) / (real.max() - real.min())
        assert np.allclose(axes[0].images[0].get_array(), shown)
