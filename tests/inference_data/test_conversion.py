"""`from_svi` and `write_netcdf`: groups, dimensions, values and the way to disk and back."""

import json
from functools import partial
from pathlib import Path

import arviz
import arviz_base
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from torch import nn

from pyro_vae import build, likelihoods
from pyro_vae.inference_data import from_svi, write_netcdf
from pyro_vae.networks import MLP

pytestmark = pytest.mark.arviz

SHAPE, LATENT, DATA, DRAWS = (1, 4, 5), 3, 6, 20
EVENT = ("channel", "row", "column")
SMALL = partial(MLP, hidden=(16,))


@pytest.fixture
def vae():
    return build(SHAPE, LATENT, network=SMALL)


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((DATA, *SHAPE), 0.5))


@pytest.fixture
def tree(vae, x):
    return from_svi(
        vae.model,
        vae.guide,
        x,
        num_draws=DRAWS,
        num_prior_draws=7,
        constant_data={"label": np.arange(DATA) % 2, "index": np.arange(DATA)},
        configuration={"seed": 0, "resume": None, "out": Path("runs/x"), "prior": {"k": True}},
    )


def test_groups_and_dimensions(tree):
    dims = {
        "posterior": {"z": ("chain", "draw", "image", "latent_dim")},
        "sample_stats": dict.fromkeys(
            ("log_p_x_given_z", "log_p_z", "log_q_z_given_x", "log_weight"),
            ("chain", "draw", "image"),
        ),
        "posterior_predictive": {"x": ("chain", "draw", "image", *EVENT)},
        "prior": {"z": ("chain", "draw", "image", "latent_dim")},
        "prior_predictive": {"x": ("chain", "draw", "image", *EVENT)},
        "observed_data": {"x": ("image", *EVENT)},
        "constant_data": {"label": ("image",), "index": ("image",)},
        "per_datum": {
            "z_mean": ("image", "latent_dim"),
            "z_sd": ("image", "latent_dim"),
            **dict.fromkeys(
                ("elbo", "reconstruction", "kl", "log_evidence", "ess", "label", "index"),
                ("image",),
            ),
        },
    }
    assert {g: {k: v.dims for k, v in tree[g].data_vars.items()} for g in tree.children} == dims
    assert tree["posterior_predictive"]["x"].shape == (1, DRAWS, DATA, *SHAPE)
    assert tree["prior_predictive"]["x"].shape == (1, 7, DATA, *SHAPE)
    for name, size in {"image": DATA, "channel": 1, "row": 4, "column": 5}.items():
        assert tree["observed_data"].coords[name].values.tolist() == list(range(size))


def test_log_weight_is_the_sum_of_its_terms(tree, vae, x):
    stats = tree["sample_stats"]
    assert all(stats[name].dtype == np.float64 for name in stats.data_vars)
    assert all(stats[name].attrs["units"] == "nats" for name in stats.data_vars)
    total = stats["log_p_x_given_z"] + stats["log_p_z"] - stats["log_q_z_given_x"]
    np.testing.assert_array_equal(stats["log_weight"], total)
    # And the terms are those of the draws in `posterior`.
    z = torch.as_tensor(tree["posterior"]["z"].values[0])
    with torch.no_grad():
        np.testing.assert_allclose(
            stats["log_p_x_given_z"].values[0], vae.likelihood(z).log_prob(x), rtol=1e-5
        )
        np.testing.assert_allclose(
            stats["log_q_z_given_x"].values[0], vae.posterior(x).log_prob(z), rtol=1e-4
        )


def test_binary_data_are_bytes_and_observations_are_the_data(tree, x):
    for group in ("posterior_predictive", "prior_predictive", "observed_data"):
        assert tree[group]["x"].dtype == np.uint8
    np.testing.assert_array_equal(tree["observed_data"]["x"], x.numpy())


def test_replicates_follow_z_and_are_not_the_data(x):
    """p(x | z) puts every pixel at 1 where z > 0, and at 0 elsewhere."""

    class Sign(nn.Module):
        def __init__(self, output_shape):
            super().__init__()
            self.output_shape = output_shape

        def forward(self, z):
            sign = 100 * z[..., 0].sign()
            return sign.reshape(*sign.shape, *(1,) * len(self.output_shape)).expand(
                *sign.shape, *self.output_shape
            )

    vae = build(SHAPE, 1, network=SMALL)
    vae.likelihood = likelihoods.Bernoulli(SHAPE, Sign)
    tree = from_svi(vae.model, vae.guide, x, num_draws=DRAWS)
    for latent, replicates in (
        ("posterior", "posterior_predictive"),
        ("prior", "prior_predictive"),
    ):
        positive = tree[latent]["z"].values[..., 0] > 0
        assert 0 < positive.mean() < 1
        x_new = tree[replicates]["x"].values.reshape(*positive.shape, -1)
        np.testing.assert_array_equal(x_new, np.repeat(positive[..., None], x_new.shape[-1], -1))


def test_real_data_stay_floats():
    vae = build((4,), 2, likelihood=likelihoods.Normal, network=SMALL)
    tree = from_svi(vae.model, vae.guide, torch.randn(5, 4), num_draws=3, data_dim="row")
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "row", "element")
    assert tree["posterior_predictive"]["x"].dtype == np.float32


def test_names_and_coordinates_can_be_given(vae, x):
    tree = from_svi(
        vae.model,
        vae.guide,
        x,
        num_draws=3,
        dims={"x": ("colour", "height", "width")},
        coords={"image": 10 * np.arange(DATA), "colour": ["grey"]},
    )
    assert tree["observed_data"]["x"].dims == ("image", "colour", "height", "width")
    assert tree["posterior"].coords["image"].values.tolist() == [0, 10, 20, 30, 40, 50]
    assert tree["observed_data"].coords["colour"].values.tolist() == ["grey"]


def test_evaluation_mode_and_no_trace_left_behind(vae, x):
    vae.likelihood.decoder.eval()
    modes = [module.training for module in vae.modules()]
    seen = []
    vae.posterior.register_forward_hook(lambda module, *_: seen.append(module.training))
    tree = from_svi(vae.model, vae.guide, x, num_draws=2)
    assert set(seen) == {False}
    assert [module.training for module in vae.modules()] == modes
    assert isinstance(tree["posterior"]["z"].values, np.ndarray)
    assert all(parameter.grad is None for parameter in vae.parameters())


@pytest.mark.parametrize(
    ("option", "least"),
    [("num_draws", 1), ("num_prior_draws", 0), ("num_stored", 1), ("block_size", 1)],
)
def test_no_draws(vae, x, option, least):
    with pytest.raises(ValueError, match=f"{option} must be at least {least}, got {least - 1}"):
        from_svi(vae.model, vae.guide, x, **{option: least - 1})


def nested_model(x):
    """Two latent sites, `parts` in a plate of their own, a deterministic site and counts."""
    n, parts, _ = x.shape
    with pyro.plate("data", n, dim=-2):
        shared = pyro.sample("shared", dist.Normal(torch.zeros(n, 1, 2), 1).to_event(1))
        with pyro.plate("part", parts, dim=-1):
            rate = pyro.sample("rate", dist.Gamma(2, 2).expand([n, parts]))
            mean = pyro.deterministic("mean", 300 * rate + shared.exp().sum(-1))
            # Five counts, so that the last axis of x and of `shared` differ in length.
            counts = dist.Poisson(mean[..., None].expand(*mean.shape, 5)).to_event(1)
            pyro.sample("x", counts, obs=x)


def nested_guide(x):
    n, parts, _ = x.shape
    with pyro.plate("data", n, dim=-2):
        pyro.sample("shared", dist.Normal(torch.zeros(n, 1, 2), 0.5).to_event(1))
        with pyro.plate("part", parts, dim=-1):
            pyro.sample("rate", dist.Gamma(4, 4).expand([n, parts]))


def test_another_program():
    x = torch.poisson(torch.full((4, 3, 5), 30.0))
    tree = from_svi(
        nested_model, nested_guide, x, num_draws=8, max_plate_nesting=2, data_dim="person"
    )
    posterior, replicates = tree["posterior"], tree["posterior_predictive"]
    assert posterior["shared"].dims == ("chain", "draw", "person", "latent_dim")
    assert posterior["rate"].dims == ("chain", "draw", "person", "part")
    assert set(replicates.data_vars) == {"x"}
    assert replicates["x"].dims == ("chain", "draw", "person", "part", "element")
    assert replicates["x"].shape == (1, 8, 4, 3, 5)
    # Counts beyond 255 need two bytes; the rate of each part and its counts belong together.
    assert replicates["x"].dtype == np.uint16
    rates, means = posterior["rate"].values.ravel(), replicates["x"].values.mean(-1).ravel()
    assert np.corrcoef(rates, means)[0, 1] > 0.95
    assert tree["sample_stats"]["log_weight"].shape == (1, 8, 4)
    np.testing.assert_array_equal(tree["observed_data"]["x"], x.numpy())


def test_axes_of_two_lengths_get_two_names():
    def model(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1).to_event(1))
            v = pyro.sample("v", dist.Normal(torch.zeros(3), 1).to_event(1))
            pyro.sample("x", dist.Normal(u.sum(-1) + v.sum(-1), 1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(torch.zeros(2), 1).to_event(1))
            pyro.sample("v", dist.Normal(torch.zeros(3), 1).to_event(1))

    tree = from_svi(model, guide, torch.randn(4), num_draws=3)
    assert tree["posterior"]["u"].dims[-1] == "latent_dim"
    assert tree["posterior"]["v"].dims[-1] == "v_latent_dim"
    assert tree["observed_data"]["x"].dims == ("data",)


def test_round_trip(tree, tmp_path):
    path = write_netcdf(tree, tmp_path / "inference_data.nc")
    assert [file.name for file in tmp_path.iterdir()] == ["inference_data.nc"]
    with xarray.open_datatree(path, engine="h5netcdf") as read:
        for group in tree.children:
            assert read[group].to_dataset().equals(tree[group].to_dataset())
        assert read.attrs == tree.attrs
        assert json.loads(read.attrs["configuration"]) == {
            "seed": 0,
            "resume": None,
            "out": "runs/x",
            "prior": {"k": True},
        }
        assert read.attrs["inference_library"] == "pyro"
        assert read.attrs["inference_library_version"] == pyro.__version__
        assert "k-hat" in read.attrs["sampling"]
    with arviz_base.convert_to_datatree(str(path)) as read:
        assert set(read.children) == set(tree.children)


def test_opens_with_arviz_itself(tree, tmp_path):
    """`arviz.from_netcdf`: an `InferenceData` up to 0.23, a `DataTree` from 1.0."""
    path = write_netcdf(tree, tmp_path / "inference_data.nc")
    read = arviz.from_netcdf(path)
    try:
        np.testing.assert_array_equal(read["posterior"]["z"], tree["posterior"]["z"])
        assert read["posterior_predictive"]["x"].dtype == np.uint8
        assert json.loads(read.attrs["configuration"])["seed"] == 0
    finally:
        read.close()


def test_a_write_that_fails_leaves_the_old_file(tree, tmp_path, monkeypatch):
    path = write_netcdf(tree, tmp_path / "inference_data.nc")
    before = path.read_bytes()

    def full(_self, file, **_options):
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(xarray.DataTree, "to_netcdf", full)
    with pytest.raises(OSError, match="no space"):
        write_netcdf(tree, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["inference_data.nc"]
