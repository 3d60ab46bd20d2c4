"""`scripts/encode.py` into AnnData: a copy of the file of the data, with codes in `obsm`."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.neighbors import kneighbors_graph

from pyro_vae.runs import load

anndata = pytest.importorskip("anndata")
pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v2.*:UserWarning")

OPTIONS = ["--data.label", "type"]


def cells(n: int, seed: int = 0):
    """Counts with annotations of every kind."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 3
    means = np.linspace(0.2, 6, 12)[np.stack([np.roll(np.arange(12), 4 * k) for k in range(3)])]
    data = anndata.AnnData(sparse.csr_matrix(rng.poisson(means[kind]).astype(np.float32)))
    data.obs_names = [f"cell{i:03d}" for i in rng.permutation(n)]
    data.var_names = [f"gene{i}" for i in range(12)]
    data.obs["type"] = pd.Categorical([f"type {k}" for k in kind])
    data.layers["log"] = data.X.log1p()
    data.obsm["X_pca"] = rng.normal(size=(n, 2))
    data.uns["note"] = {"a": 1, "b": "text"}
    data.raw = data
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells")
    data = cells(120)
    data.write_h5ad(path / "cells.h5ad")
    data.write_zarr(path / "cells.zarr")
    cells(30, seed=1).write_h5ad(path / "few.h5ad")
    return path


@pytest.fixture(scope="module")
def run(train, folder):
    return train(folder / "run", "--data", folder / "cells.h5ad", *OPTIONS)


def assert_equal(a, b) -> None:
    """All of a is in b, unchanged."""
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name))
    assert (a.X != b.X).nnz == 0
    assert (a.layers["log"] != b.layers["log"]).nnz == 0
    assert (a.raw.X != b.raw.X).nnz == 0
    assert (a.obsm["X_pca"] == b.obsm["X_pca"]).all()
    assert b.uns["note"] == a.uns["note"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_codes_are_added_and_the_rest_is_kept(script, run, folder, tmp_path, suffix, capsys):
    source, out = folder / f"cells{suffix}", tmp_path / f"out{suffix}"
    reader = anndata.read_h5ad if suffix == ".h5ad" else anndata.read_zarr
    assert script("encode", run, "--data", source, "--out", out, "--scale") == 0
    assert 'adata.obsm["X_vae"]' in capsys.readouterr().out
    before, after = reader(source), reader(out)
    assert_equal(before, after)
    assert {*after.obsm} == {"X_pca", "X_vae", "X_vae_scale"}
    assert (after.obsm["X_vae"] == load(run).embed(before).numpy()).all()
    assert (after.obsm["X_vae_scale"] > 0).all()
    assert len(after.uns["X_vae"]["checkpoint_sha256"]) == 64
    assert [each.name for each in tmp_path.iterdir()] == [out.name]
    # Codes that are there are replaced, by those of the same file again.
    assert script("encode", run, "--data", out, "--out", out, "--overwrite") == 0
    assert (reader(out).obsm["X_vae"] == after.obsm["X_vae"]).all()


def test_the_data_of_the_run_in_the_order_of_their_file(script, run, folder, tmp_path):
    out = tmp_path / "out.h5ad"
    assert script("encode", run, "--out", out) == 0
    after = anndata.read_h5ad(out)
    assert (after.obs_names == anndata.read_h5ad(folder / "cells.h5ad").obs_names).all()
    assert (after.obsm["X_vae"] == load(run).embed(after).numpy()).all()


def test_what_has_no_annotated_rows_is_refused(refused, run, folder, trained, tmp_path):
    def line(name, *options):
        return refused("encode", name, "--out", tmp_path / "out.h5ad", *options)

    assert "those of digits are not of one in this format: use .npz" in line(trained)
    assert "those of cells are not of one in this format" in line(
        run, "--data", folder / "cells.zarr"
    )
    assert "holds all rows of the file: use --split all" in line(run, "--split", "test")
    assert [*tmp_path.iterdir()] == []


def test_a_failure_leaves_nothing(script, run, folder, tmp_path, monkeypatch):
    from anndata import io

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "write_elem", full)
    for suffix in (".h5ad", ".zarr"):
        words = ["--data", folder / f"cells{suffix}", "--out", tmp_path / f"out{suffix}"]
        assert script("encode", run, *words) == 2
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_neighbours_by_the_codes_are_of_one_type(script, train, folder, tmp_path):
    longer = ["--max-steps", "500", "--lr", "0.01", "--network.hidden", "[32]"]
    run = train(tmp_path / "run", "--data", folder / "cells.h5ad", *longer, *OPTIONS)
    assert script("encode", run, "--out", tmp_path / "out.h5ad") == 0
    data = anndata.read_h5ad(tmp_path / "out.h5ad")
    # As scanpy.pp.neighbors(data, use_rep="X_vae") reads them.
    graph = kneighbors_graph(data.obsm["X_vae"], 10).tocoo()
    kind = data.obs["type"].cat.codes.to_numpy()
    assert (kind[graph.row] == kind[graph.col]).mean() > 0.9
