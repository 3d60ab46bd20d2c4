"""k-hat and ESS, from both sides: good guides, bad ones, and no k-hat at all."""

import json

import numpy as np
import pytest

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.guide.psis_diagnostics import GuideQuality, plot_guide_quality, plot_worst_images
from pyro_vae.evidence import importance_weighting
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import khat_threshold

RNG = np.random.default_rng(0)


def test_khat_above_the_threshold_is_counted(words):
    khat = np.r_[RNG.uniform(0.1, 0.3, 20), RNG.uniform(1.1, 1.3, 30)]
    axes, text = words(plot_guide_quality(khat, RNG.uniform(1, 1000, 50), 1000))
    assert "60.0% of 50 data above the threshold" in text
    assert "threshold 0.67" in text
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)
    assert sum(bar.get_height() for bar in axes[1].patches) == 50


def test_what_is_not_finite_is_counted(words):
    khat = np.r_[np.full(7, -np.inf), RNG.uniform(0, 0.5, 40), np.full(3, np.inf)]
    axes, text = words(plot_guide_quality(khat, np.r_[RNG.uniform(1, 100, 47), 0, 0, 0], 100))
    assert "7 data not drawn: constant weights" in text
    assert "3 data not drawn: no tail to fit" in text
    assert "6.0% of 50 data above" in text
    drawn = np.concatenate([line.get_ydata() for line in axes[0].lines[:2]])
    assert len(drawn) == 40
    assert sum(bar.get_height() for bar in axes[1].patches) == 50


def test_constant_weights():
    """The exact posterior, or a collapsed latent: nothing but -inf."""
    left, right = plot_guide_quality(np.full(9, -np.inf), np.full(9, 100.0), 100).axes
    assert left.get_title() == "0.0% of 9 data above the threshold"
    assert "100 of 100 draws" in right.get_title()


def test_too_few_draws():
    left, _ = plot_guide_quality(None, np.full(9, 7.0), 10).axes
    assert left.get_title() == "10 draws are too few for a k-hat"
    assert left.get_ylabel()


def test_worst_rows_by_hand():
    khat = np.array([0.1, 0.9, -np.inf, np.inf, np.inf, 0.5])
    ess = np.array([50.0, 3.0, 100.0, 2.0, 1.0, 20.0])
    quality = GuideQuality(khat, ess, 100)
    np.testing.assert_array_equal(quality.worst, [4, 3, 1, 5, 0, 2])
    summary = quality.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["khat_share_above"] == pytest.approx(3 / 6)  # 0.5 is the threshold, not above.
    assert (summary["khat_constant"], summary["khat_infinite"]) == (1, 2)
    assert summary["ess_median"] == 11.5
    assert [row["row"] for row in summary["worst"]] == [4, 3, 1, 5, 0, 2]
    assert summary["worst"][0]["khat"] is None
    assert summary["verdicts"][0]["answer"] == "no"


def test_without_khat_the_lowest_ess_is_worst():
    quality = GuideQuality(None, np.array([3.0, 1.0, 2.0]), 5)
    np.testing.assert_array_equal(quality.worst, [1, 2, 0])
    assert quality.summary()["khat_share_above"] is None
    assert "at least 25 draws" in quality.reading()


@pytest.mark.parametrize(
    ("khat", "ess", "said"),
    [
        (0.9, 200.0, "trusted? No"),
        (0.2, 5.0, "trusted? Nearly"),
        (0.2, 200.0, "trusted? Yes"),
        (-np.inf, 300.0, "60 data have constant weights"),
    ],
)
def test_readings_pair_khat_with_ess(khat, ess, said):
    assert said in GuideQuality(np.full(60, khat), np.full(60, ess), 300).reading()


def measured(exact, num_samples=1000, **faults):
    vae = exact.vae(**faults)
    with evaluation_mode(vae, seed=0):
        found = importance_weighting(
            vae.model, vae.guide, exact.draw(50, 1), num_samples=num_samples
        )
    return GuideQuality(found.khat, found.ess, num_samples)


def test_a_wide_guide_has_a_low_khat_and_a_low_ess():
    """4 times too wide in 3 dimensions: ESS = S (sqrt(2 - 1 / 16) / 4)^3 = 42; k-hat falls to -2 / 3.

    With a thousand draws its tail is still of draws near the posterior's edge: k-hat is about 1/2.
    """
    exact = LinearGaussian((1, 4, 4), latent_dim=3)
    quality = measured(exact, guide_scale=4.0)
    assert np.median(quality.ess) == pytest.approx(42, rel=0.15)
    assert np.median(quality.khat) < khat_threshold(1000)
    wide = GuideQuality(quality.khat - 0.3, quality.ess, 1000)  # As of more draws.
    assert wide.verdicts()[0].answer == "nearly"
    few = measured(exact, guide_scale=5.0)
    assert (few.khat > khat_threshold(1000)).mean() > 0.9
    assert few.verdicts()[0].answer == "no"


@pytest.mark.parametrize("sharpness", [1.0, 0.98])
def test_a_code_of_few_values_next_to_exact_is_not_warned_of(sharpness):
    quality = measured(BernoulliMixture((1, 4, 4)), guide_sharpness=sharpness)
    assert quality.verdicts()[0].answer == "yes"
    assert quality.summary()["khat_share_above"] == 0
    assert quality.unfitted == 0


@pytest.mark.parametrize(
    ("khat", "ess", "message"),
    [
        (None, np.zeros(0), "at least one, got None and 0"),
        (None, np.array([11.0]), "from 0 to 10, got 11 to 11"),
    ],
)
def test_bad_numbers_are_refused(khat, ess, message):
    with pytest.raises(ValueError, match=message):
        GuideQuality(khat, ess, 10)


def test_worst_images(words, images_in):
    khat = np.r_[np.linspace(0, 1, 19), np.inf]
    quality = GuideQuality(khat, RNG.uniform(1, 100, 20), 100)
    images = RNG.uniform(size=(20, 1, 8, 8))
    axes, text = words(plot_worst_images(images, images, quality, columns=2))
    worst, best = map(images_in, axes)
    np.testing.assert_allclose(worst[0], images[19, 0])
    np.testing.assert_allclose(best, images[[0, 1, 0, 1], 0])
    assert "datum 19\nk-hat inf" in text
    assert "datum 0\nk-hat 0.00" in text
    with pytest.raises(ValueError, match="got 19, 19 and 20"):
        plot_worst_images(images[1:], images[1:], quality)


def test_a_khat_that_is_no_number_vouches_for_nothing():
    quality = GuideQuality(np.array([0.1, np.nan, 0.2, np.nan]), np.full(4, 60.0), 100)
    assert quality.worst.tolist() == [1, 3, 2, 0]
    assert quality.summary()["khat_share_above"] == 0.5
