"""`from_svi` of other programs than VAEs: known answers, shapes, and what ArviZ makes of the trees."""

import math

import arviz_base
import arviz_plots
import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample

from pyro_vae.inference_data import from_svi
from pyro_vae.statistics import log_mean_exp

pytestmark = pytest.mark.arviz

N = 30
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture
def x():
    return torch.randn(N, 3)


@pytest.fixture
def y(x):
    return x @ torch.tensor([1.0, -1.0, 0.5]) + 0.3 * torch.randn(N)


def schools(y, errors):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, errors), obs=y)


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        mean = pyro.deterministic("mean", (x * w).sum(-1))
        pyro.sample("y", dist.Normal(mean, s), obs=y)


def one_by_one(x, y):
    """A matrix product that many draws at once do not fit."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        mean = pyro.deterministic("mean", torch.mv(x, w))
        pyro.sample("y", dist.Normal(mean, s), obs=y)


class Mean:
    """mu ~ N(0, 1), y_i ~ N(mu, 1), with the exact posterior as the guide."""

    def __init__(self, y):
        self.scale = 1 / math.sqrt(len(y) + 1)
        self.loc = float(y.sum()) / (len(y) + 1)

    def model(self, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(self, y):
        pyro.sample("mu", dist.Normal(self.loc, self.scale))

    def wide_guide(self, y):
        pyro.sample("mu", dist.Normal(self.loc, 2 * self.scale))

    def log_evidence(self, y):
        covariance = torch.eye(len(y)) + torch.ones(len(y), len(y))
        return float(dist.MultivariateNormal(torch.zeros(len(y)), covariance).log_prob(y))

    def elpd(self, y):
        """sum_i log p(y_i | y_-i) in closed form."""
        n = len(y)
        loc = (y.sum() - y) / n
        return float(dist.Normal(loc, math.sqrt(1 + 1 / n)).log_prob(y).sum())


def test_conjugate_normal_mean(y):
    program = Mean(y)
    tree = from_svi(program.model, program.guide, y, num_draws=4000, seed=1)
    mu = tree["posterior"]["mu"]
    assert mu.dims == ("chain", "draw")
    assert float(mu.mean()) == pytest.approx(program.loc, abs=5 * program.scale / 60)
    assert float(mu.std()) == pytest.approx(program.scale, rel=0.06)
    weight = tree["sample_stats"]["log_weight"]
    # The exact posterior's weights are constant: log p(x).
    assert weight.dims == ("chain", "draw")
    assert weight.dtype == np.float64
    np.testing.assert_allclose(weight, program.log_evidence(y), atol=1e-3)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "data")
    assert "per_datum" not in tree.children
    loo = arviz_stats.loo(tree, var_name="y")
    assert float(loo.elpd) == pytest.approx(program.elpd(y), abs=0.05)


def test_loo_of_an_approximate_posterior(y):
    program = Mean(y)
    tree = from_svi(program.model, program.wide_guide, y, num_draws=4000, seed=1)
    stats = tree["sample_stats"]
    log_p = stats["log_p_x_given_z"] + stats["log_p_z"]
    loo = arviz_stats.loo_approximate_posterior(
        tree, log_p=log_p, log_q=stats["log_q_z_given_x"], var_name="y"
    )
    assert float(loo.elpd) == pytest.approx(program.elpd(y), abs=0.1)
    evidence = log_mean_exp(stats["log_weight"].values[0][:, None])[0]
    assert evidence == pytest.approx(program.log_evidence(y), abs=0.1)


@pytest.mark.parametrize("family", [autoguide.AutoNormal, autoguide.AutoMultivariateNormal])
def test_eight_schools(family):
    tree = from_svi(schools, family(schools), EFFECTS, ERRORS, num_draws=50, num_prior_draws=6)
    dims = {name: variable.dims for name, variable in tree["posterior"].data_vars.items()}
    samples = ("chain", "draw")
    assert dims == {"mu": samples, "tau": samples, "theta": (*samples, "schools")}
    assert tree["log_likelihood"]["y"].shape == (1, 50, 8)
    assert tree["prior"]["theta"].shape == (1, 6, 8)
    assert tree["prior_predictive"]["y"].shape == (1, 6, 8)
    np.testing.assert_array_equal(tree["observed_data"]["y"], EFFECTS)
    # The terms, from the values: the guide's hidden sites and Jacobians are the rest.
    p = {name: torch.as_tensor(v.values[0]) for name, v in tree["posterior"].data_vars.items()}
    prior = dist.Normal(0.0, 5.0).log_prob(p["mu"]) + dist.HalfCauchy(5.0).log_prob(p["tau"])
    prior += dist.Normal(p["mu"][:, None], p["tau"][:, None]).log_prob(p["theta"]).sum(-1)
    stats = tree["sample_stats"]
    np.testing.assert_allclose(stats["log_p_z"].values[0], prior, rtol=1e-4)
    likelihood = tree["log_likelihood"]["y"].sum("schools")
    np.testing.assert_allclose(stats["log_p_x_given_z"], likelihood, rtol=1e-6)


def test_jacobians_are_in_the_guides_density(y):
    """E_q[w] is p(x), whatever the guide: with the positive scale, the Jacobian is needed for it."""

    def model(y):
        s = pyro.sample("s", dist.Gamma(3.0, 3.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1 / s.sqrt()), obs=y)

    a, b = 3 + N / 2, 3 + float(y.pow(2).sum()) / 2
    evidence = 3 * math.log(3) - math.lgamma(3) + math.lgamma(a) - a * math.log(b)
    evidence -= N / 2 * math.log(2 * math.pi)
    guide = autoguide.AutoNormal(model, init_scale=0.4)
    guide(y)
    guide.locs.s.data.fill_(math.log(a / b))
    tree = from_svi(model, guide, y, num_draws=4000, seed=0)
    weights = tree["sample_stats"]["log_weight"].values[0][:, None]
    assert log_mean_exp(weights)[0] == pytest.approx(evidence, abs=0.1)


@pytest.mark.parametrize("program", [regression, one_by_one])
def test_at_once_or_one_by_one_the_draws_have_the_same_form(x, y, program):
    tree = from_svi(program, autoguide.AutoDiagonalNormal(program), x, y, num_draws=20)
    posterior = tree["posterior"]
    assert posterior["w"].dims == ("chain", "draw", "w_dim_0")
    assert posterior["mean"].dims == ("chain", "draw", "data")
    assert tree["prior"]["mean"].shape == (1, 25, N)
    np.testing.assert_allclose(
        posterior["mean"].values[0], posterior["w"].values[0] @ x.numpy().T, atol=1e-5
    )
    expected = dist.Normal(
        torch.as_tensor(posterior["mean"].values[0]),
        torch.as_tensor(posterior["s"].values[0])[:, None],
    ).log_prob(y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-4)


def test_a_program_that_mixes_up_draws_is_run_one_by_one(y):
    """At once it would run through, and say something else: the mean over draws."""

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu.mean(), 1.0), obs=y)

    tree = from_svi(model, autoguide.AutoNormal(model), y, num_draws=20)
    mu = torch.as_tensor(tree["posterior"]["mu"].values[0])
    expected = dist.Normal(mu[:, None], 1.0).log_prob(y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-4)


@pytest.mark.parametrize("index", [-1, 0])
def test_a_program_that_reads_one_draw_for_all_is_run_one_by_one(index, y):
    """`w[-1]` is the only element of a vector, and the last of many draws: right at that one; so is `w[0]`."""

    def model(y):
        w = pyro.sample("w", dist.Normal(torch.zeros(1), 1).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w[index], 1.0), obs=y)

    tree = from_svi(model, autoguide.AutoNormal(model), y, num_draws=20)
    w = torch.as_tensor(tree["posterior"]["w"].values[0])
    expected = dist.Normal(w, 1.0).log_prob(y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-4)
    assert tree.attrs["draws_taken"].startswith("one by one: the site 'y' of a draw differs")


def test_a_program_that_mixes_up_new_data_is_run_one_by_one():
    """The mean of what is observed has no axis of draws; of new data, it is a mean over draws."""

    def model(x, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("a", 4):
            x = pyro.sample("x", dist.Normal(mu, 0.1), obs=x)
        with pyro.plate("b", 3):
            pyro.sample("y", dist.Normal(x.mean(), 0.1), obs=y)

    def guide(x, y):
        pyro.sample("mu", dist.Normal(0.0, 5.0))

    tree = from_svi(model, guide, torch.zeros(4), torch.zeros(3), num_draws=20)
    for group in ("posterior_predictive", "prior_predictive"):
        x, y = (tree[group][name].values[0].mean(-1) for name in ("x", "y"))
        np.testing.assert_allclose(x, y, atol=0.5)


def test_how_draws_were_taken_is_said(x, y):
    tree = from_svi(regression, autoguide.AutoNormal(regression), x, y, num_draws=5)
    assert tree.attrs["draws_taken"] == "at once"
    tree = from_svi(one_by_one, autoguide.AutoNormal(one_by_one), x, y, num_draws=5)
    assert tree.attrs["draws_taken"].startswith("one by one: RuntimeError: ")


def test_guide_of_several(x, y):
    guide = autoguide.AutoGuideList(regression)
    guide.append(autoguide.AutoDelta(poutine.block(regression, expose=["s"])))
    guide.append(autoguide.AutoNormal(poutine.block(regression, expose=["w"])))
    tree = from_svi(regression, guide, x, y, num_draws=10)
    assert float(tree["posterior"]["s"].std()) == pytest.approx(0, abs=1e-6)
    assert float(tree["posterior"]["w"].std("draw").min()) > 0


def test_module_with_random_weights(x, y):
    class Linear(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[torch.nn.Linear](3, 1, bias=False)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))

        def forward(self, x, y):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    model = Linear()
    tree = from_svi(model, autoguide.AutoNormal(model), x, y, num_draws=10)
    assert tree["posterior"]["linear.weight"].shape == (1, 10, 1, 3)
    assert tree["log_likelihood"]["y"].shape == (1, 10, N)
    assert (tree.attrs["model"], tree.attrs["guide"]) == ("Linear", "AutoNormal")


def test_no_plate(x, y):
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
        pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5).to_event(1), obs=y)

    tree = from_svi(model, autoguide.AutoNormal(model), x, y, num_draws=10)
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "y_dim_0")
    assert tree["sample_stats"]["log_weight"].shape == (1, 10)
    assert "log_likelihood" not in tree.children


def test_subsample(x, y):
    """All draws share one; the plate's sum stands for all data."""

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
        with pyro.plate("data", N, subsample_size=6) as rows:
            pyro.sample("y", dist.Normal((x[rows] * w).sum(-1), 0.5), obs=y[rows])

    labels = np.arange(100, 100 + N)
    tree = from_svi(
        model,
        autoguide.AutoNormal(model),
        x,
        y,
        num_draws=10,
        coords={"data": labels},
        constant_data={"label": labels},
    )
    rows = (tree["observed_data"].coords["data"].values - 100).tolist()
    assert len(set(rows)) == 6
    assert tree["constant_data"]["label"].dims == ("data",)
    np.testing.assert_array_equal(tree["constant_data"]["label"], labels[rows])
    np.testing.assert_array_equal(tree["observed_data"]["y"], y[rows])
    w = torch.as_tensor(tree["posterior"]["w"].values[0])
    expected = dist.Normal(w @ x[rows].T, 0.5).log_prob(y[rows])
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-4)
    np.testing.assert_allclose(
        tree["sample_stats"]["log_p_x_given_z"].values[0], N / 6 * expected.sum(-1), rtol=1e-4
    )


def test_masks_factors_and_several_observed_sites(x, y):
    def model(x, y, counts):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
        pyro.factor("ridge", -w.pow(2).sum(-1))
        with pyro.plate("data", N):
            mean = (x * w).sum(-1)
            with poutine.mask(mask=torch.arange(N) < 20), poutine.scale(scale=7.0):
                pyro.sample("y", dist.Normal(mean, 0.5), obs=y)
            pyro.sample("counts", dist.Poisson(mean.exp()), obs=counts)

    guide = autoguide.AutoNormal(model)
    tree = from_svi(model, guide, x, y, torch.ones(N), num_draws=10)
    pointwise = tree["log_likelihood"]
    assert (pointwise["y"].values[..., 20:] == 0).all()
    assert (pointwise["y"].values[..., :20] != 0).all()
    ridge = (tree["posterior"]["w"] ** 2).sum("w_dim_0")
    total = pointwise["y"].sum("data") + pointwise["counts"].sum("data") - ridge
    np.testing.assert_allclose(tree["sample_stats"]["log_p_x_given_z"], total, rtol=1e-5)
    assert tree["posterior_predictive"]["counts"].dtype.kind == "u"


def mixture(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3).to_event(1))
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)


def test_discrete_latent_sites_of_the_guide_or_of_the_model_alone(y):
    def marginal(x):
        pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 0.1).to_event(1))

    def full(x):
        marginal(x)
        p = pyro.param("p", torch.ones(len(x), 2) / 2, constraint=dist.constraints.simplex)
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(p))

    trees = [from_svi(mixture, guide, y, num_draws=10, seed=0) for guide in (full, marginal)]
    for tree in trees:
        assert tree["posterior"]["c"].dims == ("chain", "draw", "data")
        assert set(np.unique(tree["posterior"]["c"])) == {0, 1}
    assert "no such site" in trees[1]["posterior"]["c"].attrs["long_name"]
    # What the model alone draws cancels in the weights, as the same probabilities in the guide do.
    stats = trees[1]["sample_stats"]
    loc = torch.as_tensor(trees[1]["posterior"]["loc"].values[0])
    guide = dist.Normal(torch.tensor([-1.0, 1.0]), 0.1).log_prob(loc).sum(-1)
    np.testing.assert_allclose(
        stats["log_q_z_given_x"].values[0], guide + N * math.log(0.5), rtol=1e-5
    )


def test_missing_observations_and_reparameterised_sites(x, y):
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1).to_event(1))
        with pyro.plate("data", N):
            mean = (x * w).sum(-1)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y, obs_mask=torch.arange(N) < 25)

    tree = from_svi(model, autoguide.AutoNormal(model), x, y, num_draws=10)
    assert set(tree["posterior"].data_vars) == {"w", "y_unobserved", "y"}
    np.testing.assert_allclose(tree["posterior"]["y"].values[0, 3, :25], y[:25])

    apart = poutine.reparam(schools, {"theta": LocScaleReparam(0.0)})
    tree = from_svi(apart, autoguide.AutoNormal(apart), EFFECTS, ERRORS, num_draws=10)
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == {"mu", "tau", "theta_decentered", "theta"}
    assert set(tree["observed_data"].data_vars) == {"y"}
    theta = posterior["mu"] + posterior["tau"] * posterior["theta_decentered"]
    np.testing.assert_allclose(
        posterior["theta"], theta.transpose(*posterior["theta"].dims), rtol=1e-3
    )


def test_plates_in_a_loop():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in pyro.plate("parts", 3):
            pyro.sample(f"y{i}", dist.Normal(mu, 1.0), obs=y[i])

    tree = from_svi(model, autoguide.AutoNormal(model), torch.zeros(3), num_draws=10)
    assert tree["posterior_predictive"]["y2"].shape == (1, 10)


def test_a_subsample_stands_for_all_data_where_a_plate_is_summed_over():
    """In a loop, and inside a datum that has terms of its own."""

    def loop(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in pyro.plate("data", N, subsample_size=5):
            pyro.sample(f"y{i}", dist.Normal(mu, 1.0), obs=y[i])

    y = torch.randn(N)
    tree = from_svi(loop, autoguide.AutoNormal(loop), y, num_draws=10)
    mu = torch.as_tensor(tree["posterior"]["mu"].values[0])
    rows = [int(name[1:]) for name in tree["observed_data"].data_vars]
    expected = N / 5 * dist.Normal(mu, 1.0).log_prob(y[rows][:, None]).sum(0)
    np.testing.assert_allclose(
        tree["sample_stats"]["log_p_x_given_z"].values[0], expected, rtol=1e-5
    )

    def nested_guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))

    def nested(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("time", 8, subsample_size=2, dim=-1) as times:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, times])

    x = torch.randn(4, 8)
    tree = from_svi(nested, nested_guide, x, num_draws=10)
    times = tree["observed_data"].coords["time"].values.tolist()
    z = torch.as_tensor(tree["posterior"]["z"].values[0])[..., None]
    expected = 8 / 2 * dist.Normal(z, 1.0).log_prob(x[:, times]).sum(-1)
    np.testing.assert_allclose(
        tree["sample_stats"]["log_p_x_given_z"].values[0], expected, rtol=1e-5
    )


def test_sites_that_come_and_go_are_refused(y):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if mu > 0:
            pyro.sample("extra", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="site 'extra' is not in every one"):
        from_svi(model, guide, y, num_draws=20)


def test_wrong_names_are_refused(x, y):
    guide = autoguide.AutoNormal(regression)
    with pytest.raises(ValueError, match=r"one of \['data'\], got 'rows'"):
        from_svi(regression, guide, x, y, data_plate="rows")
    with pytest.raises(ValueError, match="coords of 'data' must be 30 values, got 4"):
        from_svi(regression, guide, x, y, coords={"data": [1, 2, 3, 4]})
    with pytest.raises(ValueError, match="1 event axes of site 'w'"):
        from_svi(regression, guide, x, y, dims={"w": ["a", "b"]})


def test_arviz_takes_the_tree():
    guide = autoguide.AutoNormal(schools)
    tree = from_svi(
        schools,
        guide,
        EFFECTS,
        ERRORS,
        num_draws=200,
        coords={"schools": list("ABCDEFGH")},
        constant_data={"error": ERRORS.numpy()},
    )
    assert tree["constant_data"]["error"].dims == ("schools",)
    assert "theta[A]" in arviz_stats.summary(tree).index
    assert np.isfinite(arviz_stats.loo(tree).elpd)
    assert arviz_base.extract(tree, group="posterior")["theta"].sizes["sample"] == 200
    try:
        arviz_plots.plot_ppc_dist(tree, backend="matplotlib")
        arviz_plots.plot_forest(tree, var_names=["theta"], backend="matplotlib")
    finally:
        pyplot.close("all")
