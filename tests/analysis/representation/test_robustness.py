"""Robustness of codes: measures by hand on a linear model, areas by hand on curves."""

import json
import re
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.representation.corruptions import CORRUPTIONS
from analysis.representation.robustness import (
    Robustness,
    plot_corruptions,
    plot_robustness,
    robustness,
    typical_distance,
)
from analysis.result import UndefinedCheckError

EXACT = LinearGaussian((1, 6, 6), latent_dim=3)
X = EXACT.draw(60, 1)
LABELS = (X.mean((1, 2, 3)) > X.mean()).long()


class Sign:
    """Says whether the first coordinate of a code is positive."""

    def predict(self, codes):
        return (codes[:, 0] > 0).astype(np.int64)


def moved(x, strength, seed, **_):
    return x + strength


def test_measures_by_hand():
    """A shift of all elements by s moves the code by s G 1, whatever the datum."""
    vae = EXACT.vae()
    codes = vae.embed(X).double().numpy()
    labels = torch.as_tensor((codes[:, 0] > 0).astype(np.int64))
    found = robustness(
        vae,
        X,
        labels=labels,
        classifier=Sign(),
        corruptions={"moved": moved},
        strengths=(0.5, 1.0),
        num_samples=5,
    )
    assert found.strengths == (0.0, 0.5, 1.0)
    step = vae.posterior.gain.double().sum(1).numpy()
    pairs = np.linalg.norm(codes[:, None] - codes[None], axis=-1).sum() / (60 * 59)
    assert typical_distance(codes) == pytest.approx(pairs, rel=0.02)
    np.testing.assert_allclose(
        found.mean("latent_shift")[0],
        np.array([0, 0.5, 1]) * np.linalg.norm(step) / typical_distance(codes),
        rtol=1e-4,
        atol=1e-12,
    )
    accuracies = [
        np.mean((codes[:, 0] > 0) == (codes[:, 0] + s * step[0] > 0)) for s in (0, 0.5, 1)
    ]
    np.testing.assert_allclose(found.mean("accuracy")[0], accuracies)
    clean = X.double().numpy()
    means = [vae.decode(torch.as_tensor(codes + s * step).float()).numpy() for s in (0, 0.5, 1)]
    least = ((clean - clean.mean(0)) ** 2).sum()
    errors = [((mean - clean) ** 2).sum() / least for mean in means]
    np.testing.assert_allclose(found.mean("reconstruction")[0], errors, rtol=1e-4)
    # The guide is exact for any x: each weight is p(x).
    np.testing.assert_allclose(
        found.values["log_evidence"][0],
        np.stack([EXACT.log_evidence(X + s).numpy() for s in (0, 0.5, 1)]),
        rtol=1e-3,
    )


def test_strength_0_changes_nothing_and_the_seed_everything():
    vae = BernoulliMixture().vae()
    x = BernoulliMixture().draw(40, 0).byte()
    first, again, other = (
        robustness(vae, x, strengths=(0.0, 0.3), num_samples=4, seed=seed) for seed in (0, 0, 1)
    )
    assert first.corruptions == tuple(name for name in CORRUPTIONS if name != "masking")
    assert (first.values["latent_shift"][:, 0] == 0).all()
    for measure, values in first.values.items():
        np.testing.assert_array_equal(values, again.values[measure])
        assert (values[:, 0] == values[:1, 0]).all()
        assert not np.array_equal(values[:, 1], other.values[measure][:, 1])


def by_hand():
    accuracy = np.zeros((2, 3, 20))
    for row, column, right in (
        (0, 0, 16),
        (1, 0, 16),
        (0, 1, 16),
        (0, 2, 14),
        (1, 1, 12),
        (1, 2, 4),
    ):
        accuracy[row, column, :right] = 1
    shift = np.zeros((2, 3, 20))
    shift[0, 1:], shift[1, 1:] = 0.2, 0.8
    evidence = np.full((2, 3, 20), -5.0)
    evidence[0, 1:] += 3
    values = {"accuracy": accuracy, "latent_shift": shift, "log_evidence": evidence}
    return Robustness(("mild", "harsh"), (0.0, 0.2, 0.4), values, 0.2)


def test_areas_by_hand():
    found = by_hand()
    assert found.area("accuracy", "mild")[0] == pytest.approx(15 / 16)
    assert found.area("accuracy", "harsh")[0] == pytest.approx(8 / 16)
    assert found.area("accuracy")[0] == pytest.approx(23 / 32)
    assert found.area("latent_shift")[0] == pytest.approx(0.5)
    assert found.area("log_evidence", "mild")[0] == pytest.approx(3)
    assert found.by_harm == ["harsh", "mild"]
    # From 0.8, the level 0.5 lies a fourth of the way from 0.6 to 0.2.
    assert found.half_lost("harsh") == pytest.approx(0.25)
    assert found.half_lost("mild") is None
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["area"]["reconstruction"] is None
    assert summary["worst"] == "harsh"
    reading = found.reading()
    assert found.verdicts()[0].answer == "no"
    assert "The most harmful corruption, harsh," in reading
    assert "is lost at strength 0.25" in reading
    # 0.8 is hardly above a chance of 0.78: to keep it is no merit.
    assert replace(found, chance=0.78).verdicts()[0].answer == "not known"
    # 16 of 20 are right by chance where 0.7 is.
    assert replace(found, chance=0.7).verdicts()[0].answer == "not known"


def test_of_one_damage_none_is_the_most_harmful():
    """Of a single damage there is no comparison to make: the two means say it."""
    found = by_hand()
    values = {name: each[1:] for name, each in found.values.items()}
    one = Robustness(("masking",), found.strengths, values, found.chance)
    bare = {"latent_shift": values["latent_shift"]}
    unlabelled = Robustness(("masking",), found.strengths, bare, None)
    assert "masking moves a code by 0.80" in unlabelled.reading()
    for each in (one, unlabelled):
        assert not re.search("most harmful|least|worst", each.reading())
        assert "most" not in plot_robustness({"run": each}).get_suptitle()


def test_errors_of_areas_by_hand():
    """By the delta method: a proportional loss has no error, however data differ."""
    rng = np.random.default_rng(0)
    clean, noise = rng.uniform(1, 3, 50), rng.normal(size=50)
    values = np.stack([clean, 0.5 * clean, 0.5 * clean + 0.1 * noise])[None]
    both = {"reconstruction": values, "log_evidence": values}
    found = Robustness(("a",), (0.0, 0.2, 0.4), both, None)
    exact = Robustness(("a",), (0.0, 0.2), {"reconstruction": values[:, :2]}, None)
    assert exact.area("reconstruction") == pytest.approx((0.5, 0), abs=1e-12)
    harmed = values[0, 1:].mean(0)
    ratio = harmed.mean() / clean.mean()
    rest = (harmed - ratio * clean).std(ddof=1) / np.sqrt(50) / clean.mean()
    assert found.area("reconstruction") == pytest.approx((ratio, rest))
    difference = harmed - clean
    expected = (difference.mean(), difference.std(ddof=1) / np.sqrt(50))
    assert found.area("log_evidence") == pytest.approx(expected)


def test_impossible_data_are_said_plainly():
    """A datum of probability 0, clean and damaged, leaves no number and no warning."""
    evidence = np.full((1, 2, 20), -5.0)
    evidence[0, :, 3] = -np.inf
    shift = by_hand().values["latent_shift"][:1, :2]
    found = Robustness(("a",), (0.0, 0.2), {"latent_shift": shift, "log_evidence": evidence}, None)
    assert found.summary()["area"]["log_evidence"] == {"value": None, "standard_error": None}


def test_without_labels_the_shift_ranks():
    values = {"latent_shift": by_hand().values["latent_shift"]}
    found = Robustness(("mild", "harsh"), (0.0, 0.2, 0.4), values, None)
    assert "corruption, harsh, moves a code by 0.80" in found.reading()
    assert found.half_lost("harsh") is None


def test_a_point_has_no_log_evidence():
    vae = EXACT.vae()
    vae.posterior.forward = lambda x: dist.Delta(vae.posterior.embed(x)).to_event(1)
    found = robustness(vae, X, strengths=(0.2,))
    assert set(found.values) == {"latent_shift", "reconstruction"}
    assert found.summary()["area"]["log_evidence"] is None


def test_figures(words, images_in):
    vae = EXACT.vae()
    options = {"labels": LABELS, "classifier": Sign(), "strengths": (0.3, 0.6), "num_samples": 3}
    options["corruptions"] = ["salt", "shift"]
    found = robustness(vae, X, **options)
    axes, text = words(plot_robustness({"run": found}))
    assert len(axes) == 4 * 2
    assert f"{found.by_harm[0]} hurts most" in text.replace("\n", " ")
    bare = Robustness(
        found.corruptions, found.strengths, {"latent_shift": found.values["latent_shift"]}, None
    )
    _, text = words(plot_robustness({"a": found, "b": bare}))
    assert "shift of codes" in text.replace("\n", " ")
    axes, text = words(
        plot_corruptions(
            vae, X, corruptions=["salt", "blur", "shift"], strengths=(0.2,), limits=(-3.0, 3.0)
        )
    )
    assert "blur, by strength" in text
    assert [len(images_in(ax)) for ax in axes] == 3 * [2 * 2]
    with pytest.raises(ValueError, match="at least one"):
        plot_robustness({})


def test_bad_arguments():
    vae = EXACT.vae()
    with pytest.raises(ValueError, match="at least two data, got 1"):
        robustness(vae, X[:1])
    with pytest.raises(ValueError, match="go together"):
        robustness(vae, X, labels=LABELS)
    with pytest.raises(ValueError, match="60 data and 59 labels"):
        robustness(vae, X, labels=LABELS[:-1], classifier=Sign())
    with pytest.raises(ValueError, match="got sleet"):
        robustness(vae, X, corruptions=["sleet"])
    collapsed = EXACT.vae(collapsed=True)
    with pytest.raises(UndefinedCheckError, match="all codes are the same"):
        robustness(collapsed, X)
