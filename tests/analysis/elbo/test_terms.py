"""The ELBO's terms, the data at their ends, and the figures."""

import json

import numpy as np
import pytest
import torch

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.elbo.rate_decomposition import (
    RateDecomposition,
    Spectrum,
    decompose_rate,
    plot_spectrum,
)
from analysis.elbo.terms import ElboTerms, elbo_terms, plot_elbo_terms, plot_extremes
from analysis.result import UndefinedCheckError
from pyro_vae.evidence import evaluate

RNG = np.random.default_rng(0)


def some_terms(n: int = 200, latent: int = 3) -> ElboTerms:
    return ElboTerms(
        RNG.normal(-50, 5, size=n), RNG.normal(10, 1, size=n), RNG.normal(size=(n, latent))
    )


def a_decomposition(
    latent: int = 3, *, mi: float = 3.0, tc: float | None = 1.0
) -> RateDecomposition:
    spectrum = Spectrum(
        np.linspace(0.1, 2.0, latent), np.full(latent, 0.01), np.full(latent, 0.3), None
    )
    kl = None if tc is None else 0.5
    return RateDecomposition(
        num_data=1000,
        num_draws=100,
        mutual_information=mi,
        mutual_information_se=0.1,
        total_correlation=tc,
        total_correlation_se=tc and 0.1,
        dimension_wise_kl=kl,
        dimension_wise_kl_se=kl and 0.1,
        marginal_kl=1.5,
        marginal_kl_se=0.1,
        rate=mi + 1.5,
        rate_se=0.1,
        by_dimension=None if tc is None else spectrum,
        activity=np.linspace(0.0, 1.0, latent),
        interpolation_error=None,
        undefined="flows have no coordinates." if tc is None else None,
    )


def test_of_an_exact_posterior_the_elbo_is_the_log_evidence():
    model = LinearGaussian()
    x = model.draw(40, seed=1)
    terms = elbo_terms(evaluate(model.vae(), x, num_samples=400))
    assert np.allclose(terms.elbo, model.log_evidence(x).numpy(), atol=0.6)
    assert terms.elbo.mean() == pytest.approx(float(model.log_evidence(x).mean()), abs=0.1)
    assert terms.embeddings.shape == (40, 3)


def test_the_worst_and_the_best_are_named_and_the_summary_is_plain():
    terms = ElboTerms(
        np.array([-3.0, -1.0, -9.0, -2.0]), np.array([5.0, 1.0, 2.0, 9.0]), np.zeros((4, 2))
    )
    found = {name: (w.tolist(), b.tolist()) for name, (w, b) in terms.extremes(2).items()}
    assert found == {
        "reconstruction": ([2, 0], [1, 3]),
        "rate": ([3, 0], [1, 2]),
        "elbo": ([2, 3], [1, 0]),
    }
    summary = terms.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["elbo"] == -8.0
    assert summary["rate_quantiles"]["0.5"] == 3.5
    assert summary["active_units"] == 0


def test_a_few_bad_data_are_read_off():
    terms = some_terms(1000)
    assert "worst 1%" not in terms.reading()
    terms.reconstruction[:10] -= 200
    assert "worst 1%" in terms.reading()
    terms.reconstruction[0] = -np.inf
    assert "not finite for 0.1% of data" in terms.reading()
    assert terms.summary()["elbo"] is None


@pytest.mark.parametrize(
    ("n", "form"), [(1, "none"), (6000, "whole"), (20, "marginal"), (20, "saturated")]
)
def test_the_steps_lead_from_reconstruction_to_elbo(words, n, form):
    terms = some_terms(n)
    taken = {
        "none": lambda: None,
        "whole": a_decomposition,
        "marginal": lambda: a_decomposition(tc=None),
        "saturated": lambda: a_decomposition(mi=6.0),
    }[form]()
    axes, text = words(plot_elbo_terms(terms, taken))
    assert f"{terms.elbo.mean():.2f}" in text
    assert f"{terms.reconstruction.mean():.2f}" in text
    assert ("- total correlation" in text) == (form in ("whole", "saturated"))
    assert ("- marginal KL" in text) == (form == "marginal")
    assert ("saturated at log N = 6.9" in text) == (form == "saturated")
    assert ("over 1,000 training data" in text) == (taken is not None)
    bars = sum(bar.get_width() for bar in axes[1].patches)
    assert bars == pytest.approx(-terms.rate.mean())
    first, last = axes[1].patches[0], axes[1].patches[-1]
    assert first.get_x() == pytest.approx(terms.reconstruction.mean())
    assert last.get_x() + last.get_width() == pytest.approx(terms.elbo.mean())


@pytest.mark.parametrize("latent", [1, 30])
def test_the_spectrum_is_sorted_and_marked(words, latent):
    axes, text = words(
        plot_spectrum(a_decomposition(latent), some_terms(latent=latent).embeddings)
    )
    heights = [bar.get_height() for bar in axes[0].patches[:latent]]
    assert heights == sorted(heights, reverse=True)
    assert f"of {latent} units active" in text
    assert "KL(q(z_d) || p(z_d))" in text
    assert "evaluated data" in text


def test_a_saturated_dimension_is_marked_and_a_flow_has_no_spectrum(words):
    found = a_decomposition(2)
    assert found.by_dimension is not None
    found.by_dimension.mutual_information[1] = 6.5
    _, text = words(plot_spectrum(found))
    assert "saturated, a lower bound" in text
    with pytest.raises(UndefinedCheckError, match=r"no spectrum: flows have no coordinates"):
        plot_spectrum(a_decomposition(tc=None))


def test_a_collapsed_model_is_drawn():
    model = LinearGaussian()
    vae, x = model.vae(collapsed=True), model.draw(50, seed=1)
    terms = elbo_terms(evaluate(vae, x, num_samples=30))
    found = decompose_rate(vae, x, num_draws=50)
    figure = plot_spectrum(found, terms.embeddings)
    title = figure.get_suptitle().replace("-0.0", "0.0")
    assert "0 of 3 units active; I(x; z_d) sums to 0.0 nats" in title
    plot_elbo_terms(terms, found)


@pytest.mark.parametrize(
    ("n", "shape", "largest"),
    [
        pytest.param(3, (3, 4, 4), False, marks=pytest.mark.slow),
        (2, (5,), False),
        pytest.param(3, (100,), True, marks=pytest.mark.slow),
    ],
)
def test_extremes_are_drawn_with_their_nats(words, shape, n, largest):
    x, terms = RNG.uniform(size=(n, *shape)), some_terms(n)
    x = np.round(9 * x) if largest else x
    labels = np.arange(n)
    _, text = words(plot_extremes(x, terms, x, labels=labels))
    worst = terms.extremes()["elbo"][0][0]
    assert f"{terms.elbo[worst]:.1f}" in text
    assert "highest rate" in text
    asked = []

    def means(codes):
        asked.append(len(codes))
        return x[: len(codes)] if len(codes) <= n else np.resize(x, (len(codes), *shape))

    plot_extremes(x, terms, means)  # A function is called once, for the shown rows only.
    assert asked == [6 * min(n, 2 if largest else 5)]


def test_data_of_another_number_are_refused():
    with pytest.raises(ValueError, match="an example for each of 20 terms, got 3"):
        plot_extremes(np.zeros((3, 2)), some_terms(20), np.zeros((3, 2)))


def test_a_discrete_code_has_terms():
    model = BernoulliMixture()
    x = model.draw(30, seed=1)
    terms = elbo_terms(evaluate(model.vae(), x, num_samples=30))
    assert torch.isfinite(torch.as_tensor(terms.elbo)).all()
    assert terms.summary()["rate"] > 0


def test_what_is_no_number_is_worst_and_not_best():
    values = np.array([-3.0, np.nan, -1.0, -np.inf, -2.0])
    extremes = ElboTerms(
        values, np.array([1.0, 2.0, np.nan, 0.5, 0.1]), np.zeros((5, 2))
    ).extremes(5)
    assert extremes["reconstruction"][0].tolist() == [1, 3, 0, 4, 2]
    assert extremes["reconstruction"][1].tolist() == [2, 4, 0, 3, 1]
    assert extremes["rate"][0].tolist() == [2, 1, 0, 3, 4]
    assert extremes["rate"][1].tolist()[0] == 4


def test_data_with_the_same_elbo_have_no_interquartile_range():
    reconstruction = np.full(1000, -10.0)
    reconstruction[:5] = -10.5
    reading = ElboTerms(reconstruction, np.full(1000, 0.3), np.zeros((1000, 2))).reading()
    assert "interquartile ranges" not in reading
