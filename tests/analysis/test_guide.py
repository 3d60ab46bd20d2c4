"""k-hat and ESS, from both sides: good guides, bad ones, and no k-hat at all."""

import numpy as np
import pytest

from analysis.guide import plot_guide_quality

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("centre", "above"), [(0.2, "0.0%"), (1.2, "100.0%")])
def test_good_and_bad(words, centre, above):
    khat = RNG.uniform(centre - 0.1, centre + 0.1, 50)
    axes, text = words(plot_guide_quality(khat, RNG.uniform(1, 1000, 50), 1000))
    assert f"{above} of 50 images above the threshold" in text
    assert "threshold 0.67" in text
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)
    assert sum(bar.get_height() for bar in axes[1].patches) == 50


def test_what_is_not_finite_is_counted(words):
    khat = np.r_[np.full(7, -np.inf), RNG.uniform(0, 0.5, 40), np.full(3, np.inf)]
    axes, text = words(plot_guide_quality(khat, np.r_[RNG.uniform(1, 100, 47), 0, 0, 0], 100))
    assert "7 images not drawn: constant weights" in text
    assert "3 images not drawn: no tail to fit" in text
    assert "6.0% of 50 images above" in text
    drawn = np.concatenate([line.get_ydata() for line in axes[0].lines[:2]])
    assert len(drawn) == 40
    assert sum(bar.get_height() for bar in axes[1].patches) == 50


def test_constant_weights(words):
    """The exact posterior, or a collapsed latent: nothing but -inf."""
    _, text = words(plot_guide_quality(np.full(9, -np.inf), np.full(9, 100.0), 100))
    assert "0.0% of 9 images above the threshold" in text
    assert "Median ESS, the line: 100 of 100 draws" in text


def test_too_few_draws(words):
    axes, text = words(plot_guide_quality(None, np.full(9, 7.0), 10))
    assert "10 draws are too few for a k-hat" in text
    assert axes[0].get_ylabel()
