"""New data against real ones: 5 % of p-values below 0.05 under a true model, and planted faults found."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binom

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.data_statistics import nearest_training, statistics_for
from analysis.model_samples import guide_blocks, new_data
from analysis.predictive.checks import compare_statistics, predictive_checks
from analysis.predictive.figures import (
    plot_comparisons,
    plot_nearest,
    plot_profiles,
    plot_spectrum,
)
from analysis.predictive.two_sample import compare_scores
from analysis.result import UndefinedCheckError

N = 300
MODELS = {"real": LinearGaussian(), "binary": BernoulliMixture()}


def data_of(support, n, seed, **faults):
    return MODELS[support].draw(n, seed, **faults).numpy()


def checked(support, *, data=None, seed=0, **faults):
    """The checks of a model with faults, on true data or on others."""
    model = MODELS[support]
    real = data_of(support, N, 1 + seed) if data is None else data
    new = new_data(model.vae(**faults), torch.as_tensor(real[:1]), N, seed=2 + seed).x
    return predictive_checks(real, new, data_of(support, 600, 3), support=support, seed=seed)


@pytest.mark.parametrize("support", ["real", "binary"])
def test_a_true_model_is_rejected_in_five_percent(support):
    """Each statistic, its ties included, and the distance to the training data."""
    repeats, n = 50, 50
    model = MODELS[support]
    real = data_of(support, repeats * n, 0)
    new = new_data(model.vae(), torch.as_tensor(real[:1]), repeats * n, seed=1).x
    train = data_of(support, 100, 2)
    near = [nearest_training(data, train).distance for data in (real, new)]
    rejected = {}
    for i in range(repeats):
        rows = slice(i * n, (i + 1) * n)
        found = compare_statistics(
            real[rows], new[rows], statistics_for(real.shape[1:], support), seed=i
        )
        distances = compare_scores("nearest_training", *(d[rows] for d in near), seed=i)
        for c in (*found, distances):
            rejected[c.name] = rejected.get(c.name, 0) + (c.p_value < 0.05)
    low, high = binom.interval(1 - 1e-5, repeats, 0.05)
    assert len(rejected) == 9
    assert all(low <= count <= high for count in rejected.values()), rejected


def test_the_summary_has_every_p_value():
    checks = checked("real")
    summary = checks.summary()
    named = [c.p_value for c in checks.comparisons] + [p.p_value for p in checks.profiles]
    named += [checks.spectrum.p_value, checks.classifier.p_value]
    assert sorted(summary["p_values"].values()) == sorted(named)
    assert summary["num_p_values"] == len(named) == 13
    assert summary["smallest_holm_p_value"] == pytest.approx(min(1, 13 * min(named)), abs=0.5)
    assert checks.smallest_holm > 0.05
    assert checks.verdicts()[0].answer == "yes"
    # Neither new nor training data are told from held-out ones.
    assert max(summary["classifier_auroc"], summary["classifier_auroc_training"]) < 0.58
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("support", "faults", "moved", "found_by"),
    [
        ("real", {"noise_ratio": 1.4}, {}, "total_variation"),
        ("real", {}, {"shift": 0.5}, "ink"),
        pytest.param("real", {"collapsed": True}, {}, "nearest_training", marks=pytest.mark.slow),
        pytest.param("binary", {"missing": 3}, {}, "spectrum", marks=pytest.mark.slow),
        ("binary", {}, {"flipped": 0.15}, "nearest_training"),
    ],
    ids=["noise", "shifted", "collapsed", "missing", "flipped"],
)
def test_planted_faults_are_found(support, faults, moved, found_by):
    data = data_of(support, N, 1, **moved)
    checks = checked(support, data=data, **faults)
    assert checks.p_values[found_by] <= 1e-3
    assert checks.smallest_holm < 0.02
    assert checks.verdicts()[0].answer == "no"
    assert checks.classifier.best > (0.5 if "flipped" in moved else 0.6)
    # Sorted eigenvalues tell of directions that are lost, or noisier; not of a shift.
    if not moved.get("shift"):
        assert checks.p_values["spectrum"] <= 0.002
    else:
        assert checks.p_values["spectrum"] > 0.01
        assert checks.p_values["row_means"] <= 0.002


def test_a_model_that_copies_its_training_data_is_found_by_the_distance():
    train = data_of("real", 600, 3)
    rng = np.random.default_rng(0)
    copies = train[:N] + 0.05 * rng.normal(size=train[:N].shape).astype(np.float32)
    checks = predictive_checks(data_of("real", N, 1), copies, train, support="real")
    assert checks.furthest.name == "nearest_training"
    assert checks.furthest.ks_distance > 0.9
    assert (checks.nearest.row == np.arange(N)).all()
    assert "may copy its training data" in checks.reading()
    others = [p for name, p in checks.p_values.items() if name != "nearest_training"]
    assert min(others) > 1e-3
    assert "copy" not in checked("real").reading()


def test_replicates_of_the_same_images_fail_a_true_model():
    """Why z comes from the prior: z ~ q(z | x) has seen x, and its noise twice is a wrong test.

    The score of a replicate under its own code is on another footing than the score of the image
    under a code inferred from it, though every part of the model and its guide is exact.
    """
    model = MODELS["real"]
    x = model.draw(400, 5)
    vae = model.vae()

    def fit(data, codes):
        return -((data - vae.decode(codes)) ** 2).flatten(1).sum(1).detach().numpy()

    (_, terms), *_ = guide_blocks(vae, x, 1, seed=0)
    codes = terms.guide_trace.nodes["z"]["value"][0]
    replicate = vae.likelihood(codes).sample()
    same = compare_scores("fit", fit(x, codes), fit(replicate, codes))
    means = vae.embed(x)
    same_mean = compare_scores("fit", fit(x, means), fit(vae.likelihood(means).sample(), means))
    assert same_mean.p_value < 0.01
    assert same_mean.standard_errors < -3
    # The same score, of new data and with codes of their own, does not tell them apart.
    new = torch.as_tensor(new_data(vae, x[:1], 400, seed=1).x)
    fair = compare_scores("fit", fit(x, means), fit(new, vae.embed(new)))
    assert fair.p_value > 0.05
    assert same.ks_distance < same_mean.ks_distance


def test_scores_and_their_names():
    real, new, train = (data_of("real", 40, seed) for seed in (1, 2, 3))
    pair = (real.mean((1, 2, 3)), new.mean((1, 2, 3))[:30])
    checks = predictive_checks(real, new, train, support="real", scores={"elbo": pair})
    assert checks.p_values["elbo"] == checks.comparisons[-1].p_value
    with pytest.raises(ValueError, match="names of their own, got ink"):
        predictive_checks(real, new, train, support="real", scores={"ink": pair})
    with pytest.raises(ValueError, match="real and generated must hold data"):
        predictive_checks(real[:0], new, train, support="real")


KINDS = [((1, 8, 8), "binary"), ((12,), "real"), ((200,), "counts")]


@pytest.mark.parametrize(("shape", "support"), KINDS, ids=["image", "short", "long"])
def test_figures(words, shape, support):
    rng = np.random.default_rng(0)
    draw = {
        "binary": lambda n, p: rng.binomial(1, p, (n, *shape)).astype(np.uint8),
        "real": lambda n, p: rng.normal(p, 1, (n, *shape)),
        "counts": lambda n, p: rng.poisson(p, (n, *shape)),
    }[support]
    real, new, train = draw(16, 0.3), draw(18, 0.6), draw(30, 0.3)
    checks = predictive_checks(real, new, train, support=support)
    axes, text = words(plot_comparisons(checks.comparisons))
    for word in ("16 test data", "18 new, z ~ p(z)", "KS distance", "share of"):
        assert word in text
    panels = [ax for ax in axes if ax.get_xlabel()]
    assert len(panels) == len(checks.comparisons)
    # Both distributions are whole: nothing falls outside the bins.
    for ax in panels:
        edges = [p.get_path().vertices[:, 1].max() for p in ax.patches]
        assert min(edges) > 0
    axes, text = words(plot_profiles(checks.profiles))
    assert "urthest off" in text
    assert all(ax.get_xlabel() for ax in axes)
    _, text = words(plot_spectrum(checks.spectrum))
    assert "times the variance" in text
    _, text = words(plot_nearest(new, train, checks.nearest, checks.nearest_real))
    assert "Does the model copy?" in text
    assert "16 test data" in text
    _, text = words(plot_nearest(new, train, checks.nearest))
    assert "test data" not in text


def test_data_that_do_not_vary(words):
    zeros = np.zeros((16, 1, 8, 8))
    checks = predictive_checks(zeros, zeros, zeros, support="binary")
    assert set(checks.p_values.values()) == {1.0}
    assert checks.spectrum is None
    assert all(c.standard_errors is None for c in checks.comparisons)
    json.dumps(checks.summary(), allow_nan=False)
    _, text = words(plot_comparisons(checks.comparisons))
    assert "nan" not in text
    with pytest.raises(UndefinedCheckError, match="no spectrum"):
        plot_spectrum(checks.spectrum)


def test_scores_that_are_not_finite_are_said_in_the_figure(words):
    scores = np.array([1.0, 2, np.nan, 3, -np.inf])
    _, text = words(plot_comparisons([compare_scores("s", scores, scores[:2])]))
    assert "not finite: 2 test, 0 new" in text
