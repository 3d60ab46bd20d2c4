"""`from_svi` of sites with any name, and what cannot be stored, said before the draws."""

import datetime
from urllib.parse import unquote

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray

from pyro_vae.inference_data import from_svi, write_netcdf, write_zarr
from pyro_vae.inference_data.tree import narrow

pytestmark = pytest.mark.arviz

SHAPE = (1, 2, 3)
X = torch.randn(5, *SHAPE)


def tree_of(latent="z", observed="x", *, plate="data", is_local=True, **options):
    def sample(name):
        return pyro.sample(name, dist.Normal(torch.zeros(2), 1).to_event(1))

    def model(x):
        z = None if is_local else sample(latent)
        with pyro.plate(plate, len(x)):
            mean = (sample(latent) if z is None else z).sum(-1)[..., None, None, None]
            pyro.sample(
                observed, dist.Normal(mean.expand(*mean.shape[:-3], *SHAPE), 1).to_event(3), obs=x
            )

    def guide(x):
        if not is_local:
            sample(latent)
            return
        with pyro.plate(plate, len(x)):
            sample(latent)

    return from_svi(model, guide, X, num_draws=3, num_prior_draws=2, **options)


def variable(group, site):
    """The variable of a site, found as the documentation says."""
    (found,) = [n for n, v in group.data_vars.items() if v.attrs.get("site", n) == site]
    return group[found]


AWKWARD = ["image", "row", "draw", "chain", "latent_dim", "a/b", "..", ".zarray", "a\\b", "50%"]
AWKWARD += ["a%2Fb", "posterior", "elbo", "log_weight", "a b", "é"]


@pytest.mark.parametrize(
    ("latent", "observed"), list(zip(AWKWARD, AWKWARD[1:] + AWKWARD[:1], strict=True))
)
@pytest.mark.parametrize("is_local", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_site_of_any_name_comes_back_from_disk(tmp_path, latent, observed, is_local):
    tree = tree_of(latent, observed, is_local=is_local)
    np.testing.assert_array_equal(variable(tree["observed_data"], observed), X)
    with xarray.open_datatree(write_netcdf(tree, tmp_path / "a.nc"), engine="h5netcdf") as read:
        for group in tree.children:
            assert read[group].to_dataset().equals(tree[group].to_dataset())
        assert variable(read["posterior"], latent).dims[:2] == ("chain", "draw")
        stored = variable(read["posterior_predictive"], observed).name
        assert unquote(stored).removesuffix("_site") == observed


@pytest.mark.parametrize("name", ["a/b", "..", ".zarray", "a\\b"])
def test_names_that_are_paths_come_back_from_zarr(tmp_path, name):
    tree = tree_of(name, "x")
    with xarray.open_datatree(write_zarr(tree, tmp_path / "a.zarr"), engine="zarr") as read:
        np.testing.assert_array_equal(
            variable(read["posterior"], name), variable(tree["posterior"], name)
        )


@pytest.mark.parametrize("name", ["draw", "chain", "row", "latent_dim", "a/b", "log_weight"])
def test_a_plate_of_any_name(tmp_path, name):
    def model(x):
        with pyro.plate(name, len(x), dim=-2), pyro.plate("image", 1, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            mean = z.sum(-1)[..., None, None].expand(*z.shape[:-1], 2, 3)
            pyro.sample("x", dist.Normal(mean, 1).to_event(2), obs=x)

    def guide(x):
        with pyro.plate(name, len(x), dim=-2), pyro.plate("image", 1, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))

    tree = from_svi(model, guide, X, num_draws=3, num_prior_draws=2)
    for group in tree.children:
        for found in tree[group].data_vars.values():
            assert len(set(found.dims)) == found.ndim
    write_netcdf(tree, tmp_path / "a.nc")


def test_the_dimension_is_renamed_and_its_coordinates_with_it():
    tree = tree_of(
        "z", "image", coords={"image": list("abcde")}, constant_data={"k": np.arange(5)}
    )
    assert tree["observed_data"]["image"].dims == ("image_dim", "channel", "row", "column")
    assert tree["observed_data"].coords["image_dim"].values.tolist() == list("abcde")
    assert tree["constant_data"]["k"].dims == ("image_dim",)


def test_whole_numbers_beyond_64_bits_stay_floats():
    assert narrow(np.array([0.0, 1e20])).dtype == np.float64
    assert narrow(np.array([0.0, 300.0])).dtype == np.uint16


DATE = datetime.date(2020, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": ""}, "site '' cannot be stored"),
        ({"observed": "a\0b"}, "site .* cannot be stored"),
        ({"data_dim": "z"}, "data_dim names the dimension 'z', which is the name of a variable"),
        ({"data_dim": "draw"}, "data_dim names the dimension 'draw', .* ArviZ's"),
        ({"data_dim": "a/b"}, "data_dim must name dimensions without '/'"),
        ({"dims": {"z": ("x",)}}, "dims of site 'z' names the dimension 'x'"),
        ({"dims": {"x": ("r", "r", "c")}}, "3 event axes of site 'x'"),
        ({"constant_data": {"elbo": np.zeros(5)}}, "'elbo', which is a variable of per_datum"),
        ({"constant_data": {"z_mean": np.zeros(5)}}, "'z_mean', which is a variable of per_datum"),
        ({"constant_data": {"k": [DATE] * 5}}, "constant_data of 'k' must be .*got date: convert"),
        ({"constant_data": {"k": ["a", None] * 2}}, "got NoneType and str: .* missing strings"),
        ({"coords": {"image": [{}] * 5}}, "coords of 'image' must be .*got dict"),
        (
            {"attrs": {"k": None}},
            "attrs of 'k' must be .*got None: give options in `configuration`",
        ),
        ({"attrs": {"k": True}}, "attrs of 'k' must be"),
    ],
)
def test_what_cannot_be_stored_is_said_before_the_draws(monkeypatch, options, message):
    def drawn(*_args, **_options):
        raise AssertionError("it came to the draws")

    monkeypatch.setattr("pyro_vae.inference_data.conversion.sample_in_blocks", drawn)
    with pytest.raises(ValueError, match=message):
        tree_of(**options)
