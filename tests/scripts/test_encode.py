"""`scripts/encode.py`: codes as files, of the run's own and of other data, and bad input."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from PIL import Image
from scipy import sparse

from analysis import row_files
from analysis.representation import encoding
from pyro_vae.configuration.components import load_data, prepare_data
from pyro_vae.rng import as_floats
from pyro_vae.runs import load
from pyro_vae.runs.trained_run import run_data

JOINED = ["--likelihood", "poisson", "--evaluate", "quick"]


@pytest.fixture(scope="session")
def encode(script):
    def encode(*arguments: object) -> int:
        return script("encode", *arguments, "--device", "cpu")

    return encode


def embedded(run: Path, split: str) -> np.ndarray:
    vae = load(run)
    data = prepare_data(vae.configuration, load_data(vae.configuration, Path("none")))
    with torch.no_grad():
        return vae.embed(data.fixed(split).float()).numpy()


def test_the_codes_of_its_own_data(encode, refused, train, run, capsys):
    assert encode(run) == 0
    screen = capsys.readouterr().out
    assert "1,797 codes of 2 dimensions" in screen
    assert str(run / "codes.npz") in screen
    assert all(len(line.replace(str(run), "RUN")) <= 100 for line in screen.splitlines())
    with np.load(run / "codes.npz", allow_pickle=False) as file:
        found = dict(file)
    assert found["codes"].dtype == np.float32
    for split, n in (("train", 1257), ("validation", 180), ("test", 360)):
        here = found["split"] == split
        assert here.sum() == n
        # In the order of scikit-learn's array.
        vae = load(run)
        dataset = load_data(vae.configuration, Path("none"))
        order = np.argsort(dataset.rows[split].numpy())
        np.testing.assert_allclose(
            found["codes"][here], embedded(run, split)[order], rtol=1e-5, atol=1e-6
        )
        assert (found["labels"][here] == dataset.labels[split].numpy()[order]).all()
    assert (found["row"] == np.arange(1797)).all()
    assert (found["label_names"] == np.array(list("0123456789"))).all()
    metadata = json.loads(str(found["metadata"]))
    assert metadata["data"] == "digits"
    assert len(metadata["checkpoint_sha256"]) == 64
    assert "git_commit" in metadata
    # What is there is kept, unless it may go.
    before = (run / "codes.npz").read_bytes()
    assert "exists already" in refused("encode", run)
    assert encode(run, "--overwrite", "--split", "test") == 0
    assert (run / "codes.npz").read_bytes() != before
    assert list(run.glob(".*")) == []
    # A new run has none.
    train(run, "--overwrite")
    assert not (run / "codes.npz").exists()


def test_every_format_holds_the_same(encode, trained, tmp_path, capsys):
    files = {suffix: tmp_path / f"new/codes{suffix}" for suffix in (".npz", ".npy", ".csv")}
    files |= {suffix: tmp_path / f"codes{suffix}" for suffix in (".parquet", ".nc")}
    for suffix, file in files.items():
        assert encode(trained, "--split", "test", "--scale", "--out", file) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        # The line that is printed reads it.
        names = {"numpy": np, "pandas": pd, "xarray": xarray}
        exec(line.removeprefix("read them: "), names)
        if suffix in (".csv", ".parquet"):
            table = names["table"]
            assert [*table] == ["z0", "z1", "scale0", "scale1", "label", "split", "row"]
            names["codes"] = table[["z0", "z1"]].to_numpy()
        elif suffix == ".nc":
            assert xarray.open_dataset(file).scale.dims == ("datum", "latent")
        elif suffix == ".npz":
            assert names["labels"].shape == (360,)
        if suffix == ".npz":
            first = names["codes"]
        np.testing.assert_allclose(names["codes"], first, rtol=1e-6)
    with np.load(files[".npz"]) as file, torch.no_grad():
        vae = load(trained)
        data = prepare_data(vae.configuration, load_data(vae.configuration, Path("none")))
        q = vae.posterior(data.fixed("test").float())
        order = np.argsort(data.dataset.rows["test"].numpy())
        np.testing.assert_allclose(file["scale"], q.stddev.numpy()[order], rtol=1e-5)


def test_data_of_ones_own(encode, refused, trained, tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 17, (40, 8, 8)).astype(np.uint8)
    mine = tmp_path / "mine.npz"
    np.savez(mine, x=grey, y=np.stack([np.arange(40) % 2, np.arange(40)], 1))
    out = tmp_path / "codes.npz"
    options = ["--data", mine, "--data.levels=17", "--out", out]
    assert encode(trained, *options) == 0
    with np.load(out) as file:
        found = dict(file)
    # Row i is of row i of the file, which is not split.
    assert (found["row"] == np.arange(40)).all()
    assert (found["factors"][:, 1] == np.arange(40)).all()
    assert (found["split"] == "new").all()
    line = refused("encode", trained, *options, "--split", "validation", "--overwrite")
    assert "a file given with --data is not split" in line
    # On the disk, block by block, each row once.
    np.save(tmp_path / "mine.npy", (grey > 8).astype(np.uint8))
    options = ["--data", tmp_path / "mine.npy", "--out", out, "--overwrite"]
    assert encode(trained, *options, "--data.support", "binary") == 0
    with np.load(out) as file:
        whole = file["codes"]
    assert encode(trained, *options, "--data.support", "binary", "--data.memory-map", "true") == 0
    with np.load(out) as file:
        assert (file["row"] == np.arange(40)).all()
        np.testing.assert_allclose(file["codes"], whole, rtol=1e-5, atol=1e-6)


def read_codes(file: Path) -> np.ndarray:
    """The codes in a file, in their own type."""
    if file.suffix in (".csv", ".parquet"):
        exact = {"float_precision": "round_trip"} if file.suffix == ".csv" else {}
        table = getattr(pd, f"read_{file.suffix[1:]}")(file, **exact)
        return table[[name for name in table if name[1:].isdecimal()]].to_numpy()
    if file.suffix == ".nc":
        with xarray.open_dataset(file) as dataset:
            return dataset["codes"].to_numpy()
    if file.suffix == ".npy":
        return np.load(file)
    with np.load(file) as arrays:
        return arrays["codes"]


def write_data(kind: str, folder: Path) -> tuple[Path, list[str]]:
    """A file of 150 rows, and options of its training."""
    rng, n = np.random.default_rng(0), 150
    path = folder / f"{kind}.npy"
    if kind == "folder":
        path = folder / "images"
        path.mkdir()
        for i in range(n):
            pixels = rng.integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(path / f"{i:03d}.png")
    elif kind == "table":
        path = folder / "table.csv"
        pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"]).to_csv(path, index=False)
    elif kind == "precise":
        np.save(path, 1e9 + rng.normal(size=(n, 3)))
    elif kind == "sparse":
        path = folder / "sparse.npz"
        sparse.save_npz(path, sparse.csr_matrix(rng.poisson(0.3, (n, 20))))
    else:
        values = {
            "binary": rng.integers(0, 2, (n, 6)).astype(np.uint8),
            "grey": rng.integers(0, 256, (n, 1, 8, 8)).astype(np.uint8),
            "counts": rng.poisson(4, (n, 5)),
            "real": rng.normal(size=(n, 4)).astype(np.float32),
        }
        np.save(path, values[kind])
    binary = ["--likelihood", "bernoulli"] if kind in ("grey", "folder") else []
    return path, binary


KINDS = ("binary", "grey", "counts", "real", "precise", "table", "sparse", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_python_to_the_bit(encode, train, tmp_path, kind, monkeypatch):
    path, options = write_data(kind, tmp_path)
    run = train(tmp_path / "run", "--data", path, *options)
    python = load(run).embed(path).numpy()
    assert python.dtype == np.float32
    every = (".npz", ".npy", ".csv", ".parquet", ".nc")
    for number, suffix in enumerate(every if kind in ("grey", "counts") else (".npz", ".csv")):
        # Of any block size, and whether many codes are kept in a file or not.
        monkeypatch.setattr(encoding, "ELEMENTS", (2**20, 1)[number % 2])
        monkeypatch.setattr(encoding, "MOST_BYTES", (2**26, 0)[number % 2])
        monkeypatch.setattr(row_files, "ROWS", (2**16, 7)[number % 2])
        file = tmp_path / f"codes{suffix}"
        assert encode(run, "--data", path, "--out", file) == 0
        codes = read_codes(file)
        assert (codes.astype(np.float32) == python).all()
        assert [each for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    # The run's own, split by split.
    assert encode(run) == 0
    vae = load(run)
    data = run_data(vae, run)
    with np.load(run / "codes.npz") as file, torch.no_grad():
        for split in ("train", "validation", "test"):
            x = as_floats(data.fixed(split)[:])
            place = data.dataset.row_numbers(split)
            order = np.argsort(place)
            assert (file["codes"][file["split"] == split] == vae.embed(x).numpy()[order]).all()


@pytest.mark.parametrize("kind", ["grey", "counts"])
def test_codes_of_data_on_disk_are_those_in_memory(encode, train, tmp_path, kind):
    path, options = write_data(kind, tmp_path)
    run = train(tmp_path / "run", "--data", path, *options)
    out = ["--out", tmp_path / "codes.npy", "--overwrite"]
    assert encode(run, "--data", path, "--data.memory-map", "true", *out) == 0
    assert (np.load(tmp_path / "codes.npy") == load(run).embed(path).numpy()).all()


def test_data_that_do_not_fit_are_refused(refused, trained, tmp_path):
    out = ["--out", tmp_path / "codes.npz"]
    rng = np.random.default_rng(0)
    np.save(tmp_path / "wide.npy", rng.random((20, 9, 8)))
    line = refused("encode", trained, *out, "--data", tmp_path / "wide.npy")
    assert "was trained on data of shape (1, 8, 8), and those of wide have the shape" in line
    np.save(tmp_path / "real.npy", rng.normal(size=(20, 8, 8)))
    line = refused("encode", trained, *out, "--data", tmp_path / "real.npy")
    assert "real holds values outside 0 to 16, the levels that the model was trained on" in line
    assert "--data must be one of digits" in refused("encode", trained, *out, "--data", "nonsense")
    assert "there is no" in refused("encode", trained, *out, "--data", "none.npy")
    assert "unknown option --data.depth" in refused("encode", trained, *out, "--data.depth", "3")
    assert not (tmp_path / "codes.npz").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split", "some"], "--split must be one of train, validation, test, all, got 'some'"),
        (["--out", "codes.txt"], "--out must end in .npz, .npy, .csv, .parquet, .nc"),
        (["--overwrite=yes"], "--overwrite"),
        (["--seed", "1"], "unknown option --seed: allowed are RUN and --help, --split"),
    ],
)
def test_a_wrong_option_is_one_line(refused, run, options, says):
    assert says in refused("encode", run, *options)
    assert not (run / "codes.npz").exists()


def test_a_guide_without_a_scale(refused, train, tmp_path):
    run = train(tmp_path / "run", "--posterior", "coupling_flow")
    assert "the guide coupling_flow has no standard deviation" in refused("encode", run, "--scale")
    assert not (run / "codes.npz").exists()


def test_what_is_not_installed_is_named(refused, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    line = refused("encode", trained, "--out", tmp_path / "codes.csv")
    assert "pip install pandas pyarrow" in line
    assert not (tmp_path / "codes.csv").exists()


def test_a_full_disk_leaves_nothing(refused, run, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refused("encode", run)
    assert [path for path in run.iterdir() if "codes" in path.name] == []


@pytest.mark.slow
def test_codes_join_inference_data_by_row(encode, train, tmp_path):
    anndata = pytest.importorskip("anndata")
    counts = np.random.default_rng(0).poisson(3, size=(60, 5)).astype(np.float32)
    cells = anndata.AnnData(counts)
    cells.obs_names = [f"cell{i:02d}" for i in range(60)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run = train(tmp_path / "run", "--data", tmp_path / "cells.h5ad", *JOINED)
    assert encode(run, "--out", tmp_path / "codes.nc") == 0

    codes = xarray.open_dataset(tmp_path / "codes.nc")
    per_datum = xarray.open_datatree(run / "inference_data.nc")["per_datum"].to_dataset()
    assert per_datum["kl"].attrs["estimate"] == "closed form"
    joined = xarray.merge(
        [codes.swap_dims(datum="row"), per_datum.rename(data="row").drop_vars("row_name")],
        join="inner",
    )
    assert joined.sizes["row"] == 12
    assert set(joined["split"].values) == {"test"}
    assert joined["row_name"].values.tolist() == [f"cell{row:02d}" for row in joined["row"].values]
    assert (per_datum["row_name"].sel(data=joined["row"]) == joined["row_name"]).all()
    # The mean of 100 draws from q(z | x) is near the code, which is its mean.
    assert float(np.abs(joined["codes"].values - joined["z_mean"].values).max()) < 0.6
