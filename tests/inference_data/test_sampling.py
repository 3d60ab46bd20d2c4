"""`from_svi` in blocks: statistics of all data, raw draws of few."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

from pyro_vae.inference_data import from_svi
from pyro_vae.statistics import effective_sample_size, log_mean_exp, pareto_khat

pytestmark = pytest.mark.arviz

N, DRAWS = 80, 40
STATISTICS = ("elbo", "reconstruction", "kl", "log_evidence", "ess", "khat", "z_mean", "z_sd")


class Local:
    """z_i ~ N(0, 1), x_i ~ N(z_i, 1) in 3 elements; the guide is exact, or wider by a factor."""

    def __init__(self, width=1.0):
        self.width = width
        self.lengths = []

    def model(self, x, scale=1.0):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None].expand(*z.shape, 3), scale).to_event(1), obs=x
            )

    def guide(self, x, scale=1.0):
        self.lengths.append(len(x))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) / 4, self.width / 2))

    def log_evidence(self, x):
        covariance = torch.eye(3) + torch.ones(3, 3)
        return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)


@pytest.fixture
def x():
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


def test_exact_guide(x):
    program = Local()
    tree = from_svi(program.model, program.guide, x, num_draws=DRAWS, num_stored=10, seed=0)
    per_datum = tree["per_datum"]
    for name in ("elbo", "log_evidence"):
        assert per_datum[name].shape == (N,)
        assert per_datum[name].dtype == np.float64
        np.testing.assert_allclose(per_datum[name], program.log_evidence(x), atol=1e-4)
        assert per_datum[name].attrs["units"] == "nats"
    np.testing.assert_allclose(per_datum["ess"], DRAWS, rtol=1e-4)
    assert np.isneginf(per_datum["khat"]).all()
    tolerance = 5 * 0.5 / math.sqrt(DRAWS)
    np.testing.assert_allclose(per_datum["z_mean"], x.sum(-1) / 4, atol=tolerance)
    np.testing.assert_allclose(per_datum["z_sd"], 0.5, atol=tolerance)
    # In closed form, with no noise of draws.
    prior = dist.Normal(torch.zeros(()), 1.0)
    exact = torch.distributions.kl_divergence(dist.Normal(x.sum(-1) / 4, 0.5), prior)
    np.testing.assert_allclose(per_datum["kl"], exact, rtol=1e-5)
    assert per_datum["kl"].attrs["estimate"] == "closed form"
    assert "num_draws" not in per_datum["kl"].attrs
    assert per_datum["elbo"].attrs["num_draws"] == DRAWS
    assert "log_likelihood" not in tree.children


def test_raw_draws_of_few_and_statistics_of_the_same_draws(x):
    program = Local(width=1.5)
    tree = from_svi(
        program.model,
        program.guide,
        x,
        num_draws=DRAWS,
        num_stored=10,
        constant_data={"label": np.arange(N), "two": np.zeros((N, 2))},
        coords={"rows": 5 * np.arange(N)},
        seed=0,
    )
    assert tree["posterior"]["z"].dims == ("chain", "draw", "rows")
    for group in ("posterior", "sample_stats", "prior", "prior_predictive", "observed_data"):
        assert tree[group].sizes["rows"] == 10
    weights = tree["sample_stats"]["log_weight"].values[0]
    first = {name: tree["per_datum"][name].values[:10] for name in tree["per_datum"].data_vars}
    np.testing.assert_array_equal(first["elbo"], weights.mean(0))
    np.testing.assert_array_equal(first["log_evidence"], log_mean_exp(weights))
    np.testing.assert_array_equal(first["ess"], effective_sample_size(weights))
    np.testing.assert_array_equal(first["khat"], pareto_khat(weights))
    np.testing.assert_allclose(
        first["z_mean"], tree["posterior"]["z"].values[0].mean(0), rtol=1e-5
    )
    assert tree["per_datum"]["label"].values.tolist() == list(range(N))
    assert tree["constant_data"]["label"].values.tolist() == list(range(10))
    assert tree["constant_data"]["two"].shape == (10, 2)
    assert tree["per_datum"].coords["rows"].values[-1] == 5 * (N - 1)
    assert tree["posterior"].coords["rows"].values[-1] == 45


@pytest.mark.parametrize("block_size", [None, 7, 37])
def test_the_size_of_a_block_bounds_memory_and_leaves_stored_draws(x, block_size):
    program = Local(width=1.5)
    options = {"num_draws": DRAWS, "num_stored": 10, "seed": 3}
    whole = from_svi(program.model, program.guide, x, **options, block_size=N)
    program.lengths.clear()
    tree = from_svi(program.model, program.guide, x, **options, block_size=block_size)
    # Each block once, with all its draws, and a few looks before.
    assert len(program.lengths) <= 5 + math.ceil((N - 10) / (block_size or N))
    assert max(program.lengths) == max(10, min(block_size or N, N - 10))
    for group in ("posterior", "sample_stats"):
        assert tree[group].to_dataset().equals(whole[group].to_dataset())
    # All other draws are new ones, of the same distribution.
    for name in STATISTICS:
        a, b = (t["per_datum"][name].values for t in (tree, whole))
        assert a.shape == b.shape == (N,)
        assert abs(a.mean() - b.mean()) < 0.2 * max(1.0, abs(b.mean()))


def test_arguments_that_are_as_long_are_cut(x):
    program = Local()
    scale = torch.linspace(0.5, 2, N)[:, None]
    for as_name in (False, True):
        args, kwargs = ((x,), {"scale": scale}) if as_name else ((x, scale), {})
        tree = from_svi(
            program.model, program.guide, *args, num_draws=3, num_stored=10, block_size=7, **kwargs
        )
        z = torch.as_tensor(tree["posterior"]["z"].values[0])
        expected = dist.Normal(z[..., None], scale[:10]).log_prob(x[:10]).sum(-1)
        stats = tree["sample_stats"]
        np.testing.assert_allclose(stats["log_p_x_given_z"].values[0], expected, rtol=1e-4)


def test_programs_written_for_all_data_are_run_on_all_data(x):
    """An automatic guide has parameters for each datum."""
    pyro.clear_param_store()
    guide = autoguide.AutoNormal(Local().model)
    tree = from_svi(Local().model, guide, x, num_draws=4, num_stored=10)
    assert tree["per_datum"]["elbo"].shape == (N,)
    assert tree["posterior"]["z"].shape == (1, 4, 10)
    assert tree["prior_predictive"]["x"].shape == (1, 25, 10, 3)
    with pytest.raises(ValueError, match="cannot be taken in blocks, leave out block_size: "):
        from_svi(Local().model, guide, x, num_draws=4, num_stored=10, block_size=20)


def test_blocks_of_a_model_with_global_sites_are_refused(x):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[:, 0])

    guide = autoguide.AutoNormal(model)
    assert from_svi(model, guide, x, num_draws=4)["log_likelihood"]["x"].shape == (1, 4, N)
    with pytest.raises(
        ValueError, match="not every sample site is in the plate over data"
    ) as error:
        from_svi(model, guide, x, num_draws=4, block_size=20)
    assert "\n" not in str(error.value)


def test_looking_at_two_data_leaves_no_parameters(x):
    pyro.clear_param_store()

    def guide(x):
        loc = pyro.param("loc", torch.zeros(len(x)))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    from_svi(Local().model, guide, x[:70], num_draws=4)
    assert pyro.param("loc").shape == (70,)


def test_a_seed_leaves_the_global_stream(x):
    program = Local()
    state = torch.get_rng_state()
    a, b = (from_svi(program.model, program.guide, x[:5], num_draws=4, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(a["posterior"]["z"], b["posterior"]["z"])
