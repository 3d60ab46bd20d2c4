"""Rate and distortion by hand and in closed form; names that do not meet."""

import json

import numpy as np
import pyro
import pytest
from scipy import stats

from analysis.calibration.exact_models import LinearGaussian
from analysis.elbo.rate_decomposition import decompose_rate
from analysis.elbo.rate_distortion import (
    RateDistortion,
    plot_rate_distortion,
    rate_distortion_reading,
    rate_distortion_summary,
)
from pyro_vae.evidence import importance_weighting

RNG = np.random.default_rng(0)
HEALTHY = RateDistortion("healthy", 20.0, 80.0, 0.2, 0.5, 0.6)
SHARP = RateDistortion("sharp", 45.0, 65.0, 0.2, 0.5, 0.6)
COLLAPSED = RateDistortion("collapsed", 0.01, 150.0, 0.0, 0.5, 0.5)


def test_means_and_standard_errors():
    kl, reconstruction = RNG.uniform(0, 9, 50), RNG.normal(-80, 5, 50)
    point = RateDistortion.of("a", reconstruction, kl)
    assert point.rate == pytest.approx(kl.mean())
    assert point.distortion == pytest.approx(-reconstruction.mean())
    assert point.elbo == pytest.approx((reconstruction - kl).mean())
    assert point.rate_se == pytest.approx(stats.sem(kl))
    assert point.distortion_se == pytest.approx(stats.sem(reconstruction))
    assert point.elbo_se == pytest.approx(stats.sem(reconstruction - kl))
    assert RateDistortion.of("a", reconstruction[:1], kl[:1]).rate_se is None


def test_exact_guides_are_on_the_line_of_log_evidence():
    """With p(z | x) as guide, rate + distortion = -log p(x); collapsed, the rate is 0."""
    exact = LinearGaussian((1, 4, 4))
    x = exact.draw(400, 1)
    points = {}
    for name, options in (("true", {}), ("collapsed", {"collapsed": True})):
        vae = exact.vae(**options)
        pyro.set_rng_seed(0)
        result = importance_weighting(vae.model, vae.guide, x, num_samples=200, compile="off")
        points[name] = RateDistortion.of(name, result.reconstruction, result.kl)
    assert points["true"].elbo == pytest.approx(float(exact.log_evidence(x).mean()), abs=0.05)
    assert not points["true"].collapsed
    assert points["collapsed"].rate == pytest.approx(0, abs=1e-5)
    assert points["collapsed"].collapsed


def test_a_collapsed_latent_is_at_the_auto_decoding_limit():
    """A planted fault: no rate, no information, no active unit, and the best that no code can do."""
    exact = LinearGaussian((1, 4, 4))
    vae, x = exact.vae(collapsed=True), exact.draw(200, 1)
    pyro.set_rng_seed(0)
    result = importance_weighting(vae.model, vae.guide, x, num_samples=30, compile="off")
    point = RateDistortion.of("collapsed", result.reconstruction, result.kl)
    without = stats.norm.logpdf(x.flatten(1).double(), exact.bias.double(), exact.noise)
    assert point.distortion == pytest.approx(-without.sum(1).mean(), abs=1e-3)
    assert ": collapsed" in rate_distortion_reading([point, HEALTHY])
    found = decompose_rate(vae, x, num_draws=200)
    assert found.mutual_information == pytest.approx(0, abs=1e-6)
    assert found.summary()["active_units"] == 0
    assert "collapsed" in found.reading()
    assert not found.saturated
    healthy = decompose_rate(exact.vae(), x, num_draws=200)
    assert healthy.mutual_information > 1
    assert healthy.summary()["active_units"] == exact.latent_dim


def test_reading():
    reading = rate_distortion_reading([COLLAPSED, SHARP, HEALTHY])
    assert "healthy has the highest ELBO, -100.00 nats" in reading
    assert "sharp has the lowest distortion, 65.0" in reading
    assert ": collapsed" in reading
    assert "-100.00 nats" in rate_distortion_reading([HEALTHY])
    assert "collapsed" not in rate_distortion_reading([HEALTHY])


def test_summary_is_plain():
    summary = rate_distortion_summary([HEALTHY, RateDistortion("one", 1.0, 2.0)])
    json.dumps(summary, allow_nan=False)
    assert summary["models"][0]["elbo"] == -100
    assert summary["models"][1]["rate_se"] is None
    assert "reading" in summary


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least one model, got none"):
        plot_rate_distortion([])
    with pytest.raises(ValueError, match="'sharp' more than once"):
        rate_distortion_reading([SHARP, SHARP])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        RateDistortion.of("a", np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="1 of 2 data of a"):
        RateDistortion.of("a", np.array([-np.inf, 0.0]), np.zeros(2))


@pytest.mark.parametrize("count", [1, 9])
def test_lines_have_slope_minus_one_and_names_do_not_meet(words, count):
    points = [
        RateDistortion(f"a model, number {i}", 20 + 0.4 * i, 80 - 0.3 * i, 0.1, 0.1)
        for i in range(count)
    ]
    figure = plot_rate_distortion(points, log_evidence=-98.0)
    (ax,), text = words(figure)
    assert "nats per datum" in text
    assert "ELBO -1" in text
    lines = [
        line for line in ax.lines if line.get_linestyle() == "-" and line.get_color() == "0.72"
    ]
    assert len(lines) >= 3
    for line in lines:
        totals = line.get_xdata() + line.get_ydata()
        assert np.ptp(totals) == pytest.approx(0, abs=1e-9)
        assert f"ELBO {-totals[0]:g}" in text
    names = [note for note in ax.texts if note.get_text().startswith("a model")]
    boxes = [name.get_window_extent() for name in names]
    assert len(boxes) == count
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        frame = ax.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1


def test_a_collapsed_model_and_one_of_density_are_drawn():
    (ax,) = plot_rate_distortion([COLLAPSED, HEALTHY, RateDistortion("d", 30.0, -900.0)]).axes
    assert ax.get_xlim()[0] < 0.01
