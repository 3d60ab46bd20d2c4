"""The estimators of `pyro_vae.sklearn`: scikit-learn's own checks, known answers, and streams."""

import pickle
from functools import partial

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse, stats
from sklearn.base import clone, is_clusterer
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from pyro_vae import likelihoods, posteriors, priors
from pyro_vae.objectives import ELBO
from pyro_vae.sklearn import VAEDensity, VAETransformer


def quick(choices, *names):
    """All names; those that are not listed are slow."""
    return [
        name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in choices
    ]


class RoundedCounts(VAETransformer):
    """Rounds the fractions of scikit-learn's checks, on which a likelihood of counts is undefined."""

    def __init__(self, likelihood="negative_binomial", epochs=1, random_state=None):
        super().__init__(likelihood=likelihood, epochs=epochs, random_state=random_state)

    def _validated(self, X, **options):
        X = super()._validated(X, **options)
        return X.rint() if sparse.issparse(X) else np.rint(X)


def linear_data(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    loadings = np.array([[3.0, 0, 1, 0.5, 0, 2], [0, 2, -1, 0.5, 4, 0]])
    noise = np.array([0.5, 1, 0.3, 0.4, 2, 0.6])
    return 10 + rng.normal(size=(n, 2)) @ loadings + noise * rng.normal(size=(n, 6))


def counts_data(n=80, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(np.exp(rng.normal(size=(n, 2)) @ rng.normal(size=(2, 7)))).astype(float)


def checked(estimator):
    """Run scikit-learn's checks, without an exemption; the only skip is for want of SCIPY_ARRAY_API."""
    results = check_estimator(estimator, on_skip=None)
    skipped = {each["check_name"] for each in results if each["status"] == "skipped"}
    assert len(results) > 40
    assert skipped <= {"check_array_api_input"}


def test_checks_of_scikit_learn():
    checked(VAETransformer(epochs=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        VAETransformer(epochs=10),
        VAEDensity(epochs=1, prior="vamp", likelihood="normal", validation_fraction=0),
        RoundedCounts(),
    ],
    ids=str,
)
def test_checks_of_all_estimators(estimator):
    checked(estimator)


def test_parameters_are_kept_as_given():
    given = {
        "n_components": 3,
        "prior": partial(priors.GaussianMixture, components=4),
        "objective": ELBO(beta=2.0),
        "hidden_layer_sizes": (5, 4),
    }
    made = VAETransformer(**given)
    assert all(getattr(made, name) is value for name, value in given.items())
    before = {name: value.clone() for name, value in given["objective"].state_dict().items()}
    fitted = clone(made.set_params(epochs=2, random_state=0)).fit(linear_data(40))
    assert fitted.vae_.prior.loc.shape == (4, 3)
    assert [p.shape[0] for p in fitted.vae_.posterior.encoder.parameters() if p.dim() > 1][:2] == [
        5,
        4,
    ]
    made.fit(linear_data(40))
    assert all(torch.equal(before[name], v) for name, v in given["objective"].state_dict().items())
    assert "n_components=3" in repr(made)
    assert "n_components" in made._repr_html_()


# ---- known answers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear():
    """A VAE with linear networks, which is factor analysis."""
    vae = VAEDensity(
        2,
        likelihood="normal",
        hidden_layer_sizes=(),
        learning_rate=1e-2,
        epochs=60,
        random_state=0,
    )
    return vae.set_params(n_importance_samples=1000).fit(linear_data())


def exact_log_density(vae, x):
    """log N(x | W z + b, S) with z integrated out, of a fitted linear VAE, in float64."""
    double = vae._in_float64()
    with torch.no_grad():
        b = double.decode(torch.zeros(1, 2, dtype=torch.float64))
        w = (double.decode(torch.eye(2, dtype=torch.float64)) - b).numpy()
        scale = (
            double.likelihood(torch.zeros(1, 2, dtype=torch.float64)).base_dist.scale[0].numpy()
        )
    return stats.multivariate_normal(b[0].numpy(), w.T @ w + np.diag(scale**2)).logpdf(x)


def test_scores_are_the_exact_log_density_of_a_linear_vae(linear):
    new = linear_data(200, seed=1)
    scores = linear.score_samples(new)
    assert scores.shape == (200,)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, exact_log_density(linear, new), atol=0.15)
    assert linear.score(new) == pytest.approx(exact_log_density(linear, new).mean(), abs=0.01)


def test_a_linear_vae_is_factor_analysis(linear):
    new = linear_data(1000, seed=1)
    factors = FactorAnalysis(2, tol=1e-4, max_iter=5000).fit(linear_data())
    assert exact_log_density(linear, new).mean() == pytest.approx(factors.score(new), abs=0.08)


def test_scores_are_in_the_units_of_the_data():
    """With the same seed, a change of units adds minus the logarithm of the factors."""
    factor, new = np.array([1e3, 1e-2, 1, 5, 1e6, 0.3]), linear_data(50, seed=1)
    vae = VAEDensity(2, epochs=4, random_state=0)
    scores = vae.fit(linear_data(200)).score_samples(new)
    other = vae.fit(linear_data(200) * factor).score_samples(new * factor)
    np.testing.assert_allclose(scores - other, np.log(factor).sum(), atol=1e-3)


def test_samples_have_the_moments_of_the_data(linear):
    x = linear.sample(20_000, random_state=0)
    data = linear_data()
    np.testing.assert_allclose(x.mean(0), data.mean(0), atol=0.2)
    np.testing.assert_allclose(np.cov(x.T), np.cov(data.T), atol=0.9)
    np.testing.assert_array_equal(x, linear.sample(20_000, random_state=0))


def test_reconstructions_are_better_than_the_mean():
    x = linear_data()
    vae = VAETransformer(2, epochs=20, random_state=0).fit(x)
    y = vae.inverse_transform(vae.transform(x))
    assert ((y - x) ** 2).mean() < 0.35 * x.var(0).mean()
    np.testing.assert_allclose(y, vae.vae_.reconstruct(x), rtol=1e-4)


def test_codes_are_those_of_the_vae():
    x = load_iris().data
    vae = VAETransformer(3, epochs=5, random_state=0).fit(x)
    np.testing.assert_allclose(vae.transform(x), vae.vae_.embed(x), atol=1e-5)


# ---- neighbours, streams and seeds --------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["student_t", "negative_binomial"])
def test_a_row_does_not_depend_on_its_neighbours(likelihood):
    x = counts_data(20)
    vae = VAEDensity(4, likelihood=likelihood, epochs=3, random_state=0, n_importance_samples=50)
    vae.fit(x)
    together = vae.score_samples(x)
    alone = np.concatenate([vae.score_samples(row[None]) for row in x])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-10)
    np.testing.assert_allclose(vae.score_samples(x[::-1])[::-1], together, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(vae.score_samples(x), together)
    repeated = vae.score_samples(np.repeat(x[:1], 30, axis=0))
    np.testing.assert_allclose(repeated, together[0], rtol=0, atol=1e-10)


def test_training_is_a_function_of_the_seed_alone():
    x = linear_data(60)
    make = partial(VAETransformer, 2, epochs=2, n_importance_samples=10)
    first = make(random_state=7).fit(x).score_samples(x)
    torch.manual_seed(123), np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads, precision = torch.get_num_threads(), torch.get_default_dtype()
    vae = make(random_state=7).fit(x)
    second = vae.score_samples(x)
    vae.sample(3, random_state=0), vae.partial_fit(x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert (threads, precision) == (torch.get_num_threads(), torch.get_default_dtype())
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, make(random_state=8).fit(x).score_samples(x))


def test_pickles_and_clones_give_the_same_bits():
    x = linear_data(60)
    vae = VAEDensity(2, epochs=2, random_state=0, n_importance_samples=20).fit(x)
    vae.partial_fit(x)
    for other in (pickle.loads(pickle.dumps(vae)), clone(vae).fit(x).partial_fit(x)):
        np.testing.assert_array_equal(other.score_samples(x), vae.score_samples(x))
        assert other.n_iter_ == vae.n_iter_ == 3
        # The state of Adam, too.
        other.partial_fit(x)
    again = pickle.loads(pickle.dumps(vae)).partial_fit(x)
    np.testing.assert_array_equal(other.score_samples(x), again.score_samples(x))


# ---- partial_fit --------------------------------------------------------------------------------


def test_partial_fit_goes_on_with_adam_and_the_first_units():
    x = linear_data()
    vae = VAEDensity(2, random_state=0, n_importance_samples=20)
    scores = []
    for start in range(0, 600, 200):
        vae.partial_fit(x[start : start + 200])
        scores.append(vae.score(x[:50]))
    assert scores[-1] > scores[0] + 0.3
    assert vae.n_iter_ == len(vae.history_) == 3
    first = VAEDensity(2, random_state=0).partial_fit(x[:200])
    torch.testing.assert_close(vae.vae_.contract.units.center, first.vae_.contract.units.center)
    steps = {float(state["step"]) for state in vae._adam_state["state"].values()}
    assert steps == {3 * 4.0}
    vae.set_params(learning_rate=1e-9)
    before = [p.detach().clone() for p in vae.vae_.parameters()]
    vae.partial_fit(x[:200])
    moved = [
        (p - b).abs().max().item() for p, b in zip(vae.vae_.parameters(), before, strict=True)
    ]
    assert max(moved) < 1e-6


def test_partial_fit_continues_a_fit_and_fit_starts_anew():
    x = linear_data(300)
    vae = VAETransformer(2, epochs=3, random_state=0).fit(x)
    module, codes = vae.vae_, vae.transform(x)
    assert vae.partial_fit(x[:1]).vae_ is module
    assert not np.array_equal(codes, vae.transform(x))
    np.testing.assert_array_equal(codes, vae.fit(x).transform(x))


def test_partial_fit_of_one_row():
    assert VAETransformer(2, random_state=0).partial_fit([[1.0, 2.0]]).transform(
        [[1.0, 2.0]]
    ).shape == (1, 2)


# ---- forms and kinds of data ----------------------------------------------------------------------


def test_sparse_counts_are_as_dense_ones():
    x = counts_data()
    make = partial(VAETransformer, 2, likelihood="poisson", epochs=3, random_state=0)
    dense = make().fit(x)
    for form in (sparse.csr_matrix, sparse.coo_array):
        given = make().fit(form(x))
        np.testing.assert_array_equal(given.transform(form(x)), dense.transform(x))
        np.testing.assert_array_equal(given.score_samples(form(x)), dense.score_samples(x))
    assert dense.sample(4, random_state=0).dtype == np.int64


@pytest.mark.slow
def test_large_sparse_counts_stay_sparse():
    rng = np.random.default_rng(0)
    x = sparse.random_array((600, 120_000), density=1e-3, rng=rng, format="csr")
    x.data = np.ceil(9 * x.data)
    vae = VAETransformer(
        2, likelihood="poisson", hidden_layer_sizes=(4,), epochs=1, random_state=0
    )
    codes = vae.fit(x).transform(x)
    np.testing.assert_allclose(codes[:3], vae.transform(x[:3].toarray()), atol=1e-12)


@pytest.mark.parametrize(
    "name", quick(likelihoods.LIKELIHOODS, "normal", "beta", "bernoulli", "poisson", "categorical")
)
def test_every_likelihood(name):
    support = likelihoods.LIKELIHOODS[name].support
    real = linear_data(40)
    x = {
        "real": real,
        "unit": stats.norm.cdf((real - 10) / 4),
        "binary": real > 10,
        "counts": counts_data(40),
        "integers": np.clip(counts_data(40), 0, 4),
    }[support]
    vae = VAETransformer(2, likelihood=name, epochs=2, random_state=0, n_importance_samples=20)
    vae.fit(x)
    z = vae.transform(x)
    assert vae.inverse_transform(z).shape == vae.sample(len(x)).shape == x.shape
    assert np.isfinite(vae.score(x))
    assert (vae.__sklearn_tags__().input_tags.positive_only) == (support != "real")
    if support != "real":
        with pytest.raises(ValueError, match="Negative values"):
            vae.fit(-1.0 - x)


@pytest.mark.parametrize("name", quick(priors.PRIORS, "vamp", "one_hot", "dirichlet"))
def test_every_prior(name):
    support = priors.PRIORS[name].support
    guide = next(n for n, part in posteriors.POSTERIORS.items() if part.support == support)
    x = linear_data(40)
    vae = VAETransformer(4, prior=name, posterior=guide, epochs=1, random_state=0)
    vae.set_params(n_importance_samples=20).fit(x)
    assert np.isfinite(vae.score(x))
    y = vae.inverse_transform(vae.transform(x))
    np.testing.assert_allclose(y, vae.vae_.reconstruct(x), rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    quick([n for n in posteriors.POSTERIORS if n != "point"], "full_normal", "coupling_flow"),
)
def test_every_posterior(name):
    support = posteriors.POSTERIORS[name].support
    prior = next(n for n, part in priors.PRIORS.items() if part.support == support)
    x = linear_data(40)
    vae = VAETransformer(4, prior=prior, posterior=name, epochs=1, random_state=0).fit(x)
    np.testing.assert_allclose(vae.transform(x[5:6]), vae.transform(x)[5:6], rtol=0, atol=1e-12)


def test_images():
    x = load_digits().data[:200]
    vae = VAETransformer(
        4, likelihood="discretized_logistic", network="conv", event_shape=(1, 8, 8), epochs=1
    )
    vae.set_params(levels=17, random_state=0).fit(x)
    assert vae.vae_.contract.event_shape == (1, 8, 8)
    assert vae.inverse_transform(vae.transform(x)).shape == vae.sample(200).shape == x.shape
    assert vae.set_params(n_importance_samples=5).score_samples(x[:10]).shape == (10,)


def test_data_frames_and_names():
    frame = load_wine(as_frame=True).data
    vae = VAETransformer(3, epochs=2, random_state=0).fit(frame)
    assert (
        list(vae.feature_names_in_) == list(frame.columns) == list(vae.vae_.contract.event_names)
    )
    assert list(vae.get_feature_names_out()) == ["vae0", "vae1", "vae2"]
    codes = vae.transform(frame)
    vae.set_output(transform="pandas")
    out = vae.transform(frame.iloc[5:9])
    assert isinstance(out, pd.DataFrame)
    assert list(out.index) == [5, 6, 7, 8]
    assert list(out.columns) == ["vae0", "vae1", "vae2"]
    np.testing.assert_array_equal(out, codes[5:9])
    vae.set_output(transform="polars")
    np.testing.assert_array_equal(vae.transform(pl.from_pandas(frame)).to_numpy(), codes)
    with pytest.raises(ValueError, match="feature names should match"):
        vae.transform(frame[frame.columns[::-1]])
    assert isinstance(vae.sample(2), np.ndarray)


def test_data_that_need_float64():
    x = 1e9 + np.random.default_rng(0).normal(size=(60, 3))
    vae = VAEDensity(2, epochs=2, random_state=0).fit(x)
    moved = clone(vae).fit(x - 1e9)
    np.testing.assert_allclose(vae.score_samples(x), moved.score_samples(x - 1e9), atol=1e-3)
    with pytest.raises(ValueError, match="give it in float64"):
        vae.partial_fit(x.astype(np.float32))
    with pytest.raises(ValueError, match="give it in float64"):
        vae.score_samples(x.astype(np.float32))


# ---- pipelines and searches ---------------------------------------------------------------------


def test_a_pipeline_of_digits():
    x, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(x, y, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(),
        VAETransformer(16, epochs=15, random_state=0),
        LogisticRegression(max_iter=1000),
    )
    assert pipeline.fit(train, y_train).score(test, y_test) > 0.8
    assert list(pipeline[:-1].get_feature_names_out())[-1] == "vae15"


def test_cross_validation_scores():
    vae = VAEDensity(2, epochs=2, n_importance_samples=10, random_state=0)
    assert cross_val_score(vae, linear_data(60), cv=3).shape == (3,)
    assert not is_clusterer(vae)
    assert vae.__sklearn_tags__().estimator_type == "density_estimator"


def test_threads_wait_for_one_another():
    vae = VAEDensity(2, epochs=2, n_importance_samples=10, random_state=0)
    alone = cross_val_score(vae, linear_data(60), cv=2)
    with joblib.parallel_backend("threading", n_jobs=2):
        np.testing.assert_array_equal(cross_val_score(vae, linear_data(60), cv=2), alone)


@pytest.mark.slow
def test_a_search_in_two_processes_selects_the_number_of_components():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 10)) + 0.1 * rng.normal(size=(300, 10))
    grid = {"n_components": [1, 3], "prior": ["standard_normal", "vamp"]}
    vae = VAEDensity(epochs=30, likelihood="normal", random_state=0)
    search = GridSearchCV(vae, grid, cv=2, n_jobs=2).fit(x)
    assert search.best_params_["n_components"] == 3
    alone = GridSearchCV(vae, grid, cv=2).fit(x)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be a whole number of at least 1, got 0"),
        ({"n_components": 2.5}, "n_components must be a whole number of at least 1, got 2.5"),
        ({"n_importance_samples": 0}, "n_importance_samples must be a whole number"),
        ({"validation_fraction": 1.0}, "validation_fraction must be from 0 to below 1, got 1.0"),
        ({"prior": "gaussian"}, "prior must be one of .*did you mean standard_normal"),
        ({"likelihood": "mse"}, "likelihood must be one of"),
        ({"objective": "elbow"}, "objective must be one of .*did you mean elbo"),
        (
            {"scaling": "minmax"},
            "scaling must be one of standard, robust, unit, none, got 'minmax'",
        ),
        (
            {"levels": 3},
            "levels are those of a likelihood of integers, and 'student_t' is one of real",
        ),
        (
            {"event_shape": (2, 2)},
            r"event_shape \(2, 2\) is that of rows with 4 features, but X has 6",
        ),
        (
            {"network": "conv", "hidden_layer_sizes": (9,)},
            "those of the networks mlp and gated_mlp",
        ),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, got 0.0"),
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"likelihood": "poisson"}, "must hold counts data .*got fractions"),
        ({"likelihood": "bernoulli"}, "must hold binary data"),
        ({"likelihood": "beta"}, "must hold unit data"),
    ],
)
def test_bad_parameters_get_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        VAEDensity(**options).fit(linear_data(30))
    assert "\n" not in str(caught.value)


def test_bad_calls():
    x = linear_data(30)
    vae = VAETransformer(2, epochs=1, random_state=0)
    for call in (vae.transform, vae.score_samples, vae.inverse_transform):
        with pytest.raises(NotFittedError):
            call(x)
    vae.fit(x)
    with pytest.raises(ValueError, match=r"z must have the shape \(..., 2\), got \(30, 6\)"):
        vae.inverse_transform(x)
    with pytest.raises(ValueError, match="X has 5 features, but VAETransformer is expecting 6"):
        vae.score_samples(x[:, :5])
    with pytest.raises(ValueError, match="n_samples must be a whole number of at least 1, got 0"):
        vae.sample(0)
    with pytest.raises(ValueError, match="-999"):
        vae.fit(np.where(np.arange(30)[:, None] % 7 == 0, -999.0, x))
