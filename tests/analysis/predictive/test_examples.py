"""Figures of examples: generated before and after training, and replicated from their codes."""

import numpy as np
import pytest

from analysis.calibration.exact_models import LinearGaussian
from analysis.predictive.examples import (
    BeforeTraining,
    plot_prior_predictive,
    plot_same_image,
    replicates,
)


@pytest.mark.parametrize("shape", [(1, 8, 8), (9,), (200,)])
def test_data_stand_beside_new_data_and_replicates(words, images_in, shape):
    rng = np.random.default_rng(0)
    real, untrained, trained = rng.poisson(3, (3, 4, *shape))
    axes, text = words(plot_prior_predictive(real, untrained, trained))
    assert all(name in text.replace("\n", " ") for name in ("before training", "after training"))
    axes, text = words(plot_same_image(real, rng.poisson(3, (2, 4, *shape))))
    assert "Descriptive only" in text
    if shape == (1, 8, 8):
        shown = (real[0, 0] - real.min()) / (real.max() - real.min())
        assert np.allclose(images_in(axes[0])[0], shown)


def test_replicates_are_of_their_own_codes():
    exact = LinearGaussian(noise=0.1)
    x = exact.draw(3, 0)
    drawn = replicates(exact.vae(), x, 200, seed=0)
    assert drawn.shape == (200, *x.shape)
    # Each differs from its original by the noise of both, about 0.1 times sqrt(2).
    assert np.square(drawn - x.numpy()).mean() == pytest.approx(0.02, rel=0.1)


def test_training_that_helped_is_counted():
    found = BeforeTraining(
        {"a": {"before": 0.9, "after": 0.1}, "b": {"before": 0.2, "after": 0.3}}
    )
    assert found.summary()["median_ks_distance"] == pytest.approx({"before": 0.55, "after": 0.2})
    assert "in 1 of 2 statistics" in found.reading()
