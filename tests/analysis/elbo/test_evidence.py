"""The IWAE curve: healthy, collapsed, not finite, a single point."""

import numpy as np
import pytest

from analysis.elbo.evidence import EvidenceCurve, plot_evidence_curves, plot_iwae_curve

RNG = np.random.default_rng(0)
SAMPLES = np.array([1, 2, 5, 10, 50, 100])


def curve(n: int = 40) -> np.ndarray:
    """Bounds that rise by one nat to log p(x), which differs much from datum to datum."""
    evidence = -90 + 10 * RNG.standard_normal(n)
    return evidence - 1 / SAMPLES[:, None]


def test_bounds_and_what_they_miss(words):
    bounds = curve()
    axes, text = words(plot_iwae_curve(SAMPLES, bounds, bounds[-1] + 0.01, 16))
    assert "means over 40 data" in text
    assert "annealed importance sampling, 16 chains" in text
    assert "log p(x), nats per datum" in text
    assert [ax.get_xscale() for ax in axes] == ["log", "log"]
    level, drawn = axes[0].lines
    assert np.allclose(level.get_ydata(), bounds[-1].mean() + 0.01)
    assert np.allclose(drawn.get_ydata(), bounds.mean(1))
    # Paired: the spread over data is 10 nats, and none of it is in the difference.
    missed, _ = axes[1].lines
    assert np.allclose(missed.get_ydata(), 1 / SAMPLES)
    (band,) = axes[1].collections
    assert np.ptp(band.get_paths()[0].vertices[:, 1]) == pytest.approx(0.99, abs=1e-6)
    # The bands on the left are one standard error wide.
    (band,) = axes[0].collections
    error = bounds[0].std(ddof=1) / np.sqrt(40)
    at_one = band.get_paths()[0].vertices
    at_one = at_one[at_one[:, 0] == 1, 1]
    assert at_one.min() == pytest.approx(bounds[0].mean() - error)
    assert at_one.max() == pytest.approx(bounds[0].mean() + error)
    (span,) = axes[0].patches
    assert span.get_height() == pytest.approx(2 * bounds[-1].std(ddof=1) / np.sqrt(40))


def test_without_annealing():
    gap = plot_iwae_curve(SAMPLES, curve()).axes[1].lines[0]
    assert gap.get_label() == "IWAE-100 minus IWAE-k"
    assert gap.get_ydata()[-1] == 0


def test_what_is_not_finite_is_counted():
    bounds = curve()
    bounds[2, 3] = -np.inf
    annealed = bounds[-1].copy()
    annealed[5] = np.nan
    figure = plot_iwae_curve(SAMPLES, bounds, annealed)
    assert "means over 38 data; 2 not finite, and left out" in figure.get_suptitle()
    assert np.isfinite(figure.axes[0].lines[1].get_ydata()).all()
    figure = plot_iwae_curve(SAMPLES, np.full((6, 3), -np.inf))
    assert figure.axes[0].get_title() == "no datum has a finite bound"


def test_one_draw_and_one_datum(words):
    """A collapsed model's bounds are all the same, too."""
    axes, text = words(plot_iwae_curve(np.array([1]), np.full((1, 1), -3.0), np.full(1, -3.0)))
    assert "means over 1 data" in text
    assert axes[0].get_xlim()[0] < 1 < axes[0].get_xlim()[1]


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"6 points and at least one example, got \(6, 0\)"):
        plot_iwae_curve(SAMPLES, np.zeros((6, 0)))
    with pytest.raises(ValueError, match=r"annealed must be of the curve's 40 data, got \(3,\)"):
        # Past the shapes' check, which would see it first.
        plot_iwae_curve.__wrapped__(SAMPLES, curve(), np.zeros(3))


def test_the_figure_of_several_models():
    curves = {
        "elbo": EvidenceCurve([1, 10, 100], [-100.0, -97.0, -96.0], -95.5),
        "iwae": EvidenceCurve([1, 10, 100], [-101.0, -96.0, -95.0], -94.9),
    }
    (ax,) = plot_evidence_curves(curves).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["elbo, IWAE-k", "elbo, AIS", "iwae, IWAE-k", "iwae, AIS"]
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="curves must hold at least one model"):
        plot_evidence_curves({})
