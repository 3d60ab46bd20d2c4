"""`write_zarr`: all of it or nothing, and what opens it."""

import json
import sys

import arviz
import numpy as np
import pytest
import torch
import xarray

from pyro_vae import build
from pyro_vae.inference_data import from_svi, write_zarr

pytestmark = pytest.mark.arviz

NAMES = ("inference_data.zarr",)


@pytest.fixture
def tree():
    vae = build((1, 4, 5), 3)
    return from_svi(
        vae.model,
        vae.guide,
        torch.zeros(8, 1, 4, 5),
        num_draws=30,
        num_stored=6,
        coords={"channel": ["grey"]},
        constant_data={"label": np.arange(8)},
        configuration={"seed": 0, "resume": None},
    )


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(tree, tmp_path, name):
    path = write_zarr(tree, tmp_path / name)
    path = write_zarr(tree, path)  # Over itself.
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with xarray.open_datatree(path, engine="zarr") as read:
        assert set(read.children) == set(tree.children)
        assert read.attrs == tree.attrs
        assert json.loads(read.attrs["configuration"]) == {"seed": 0, "resume": None}
        for group in tree.children:
            assert read[group].to_dataset().identical(tree[group].to_dataset())
            for variable, values in tree[group].data_vars.items():
                assert read[group][variable].dtype == values.dtype


def test_opens_with_arviz_itself(tree, tmp_path):
    path = write_zarr(tree, tmp_path / NAMES[0])
    if arviz.__version__.startswith("0."):
        # Its from_zarr refuses Zarr 3 and names this way instead.
        read = arviz.InferenceData.from_datatree(xarray.open_datatree(path, engine="zarr"))
    else:
        read = arviz.from_zarr(path)
    np.testing.assert_array_equal(read["posterior"]["z"], tree["posterior"]["z"])


@pytest.mark.parametrize("name", NAMES)
def test_a_write_that_fails_leaves_the_old_one(tree, tmp_path, monkeypatch, name):
    path = write_zarr(tree, tmp_path / name)

    def full(_self, directory, **_options):
        directory.mkdir()
        (directory / "half").write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(xarray.DataTree, "to_zarr", full)
    with pytest.raises(OSError, match="no space"):
        write_zarr(tree, path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with xarray.open_datatree(path, engine="zarr") as read:
        np.testing.assert_array_equal(read["posterior"]["z"], tree["posterior"]["z"])


def test_what_is_no_store_is_not_replaced(tree, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("of months")
    with pytest.raises(ValueError, match="not a Zarr store: it is not replaced"):
        write_zarr(tree, tmp_path / "mine")
    assert (tmp_path / "mine" / "work.txt").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a directory, got a file"):
        write_zarr(tree, tmp_path / "file")


def test_without_zarr(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match="write_zarr needs Zarr: pip install zarr"):
        write_zarr(tree, tmp_path / NAMES[0])
