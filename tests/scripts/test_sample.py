"""`scripts/sample.py`: what each kind generates, its files and units, programs, and bad input."""

import io
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray
from PIL import Image

from pyro_vae import load
from pyro_vae.data import digits

DIGITS = digits()
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sampling.md").read_text()


@pytest.fixture(scope="session")
def sample(script):
    def sample(*arguments: object) -> int:
        return script("sample", *arguments, "--device", "cpu")

    return sample


@pytest.fixture(scope="session")
def prices(train, tmp_path_factory):
    """A run on a table whose columns differ in unit."""
    folder = tmp_path_factory.mktemp("prices")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": 1e4 + 100 * rng.normal(size=300), "step": rng.normal(size=300)})
    frame.to_csv(folder / "prices.csv", index=False)
    options = ("--likelihood", "normal", "--max-steps", "60")
    return train(folder / "run", "--data", folder / "prices.csv", *options)


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def image(path):
    """A picture in memory, with the number of its frames."""
    found: Any = Image.open(io.BytesIO(path.read_bytes()))
    return found


def test_each_kind_is_that_of_the_method(sample, run):
    vae = load(run)
    kinds = ("prior", "reconstructions", "interpolations", "traversals", "manifold")
    for kind in kinds:
        assert sample(run, kind, "--seed", "3") == 0
        assert image(run / "samples" / f"{kind}.png").width > 400
    found = {kind: arrays(run / "samples" / f"{kind}.npz") for kind in kinds}
    np.testing.assert_array_equal(found["prior"]["prior"], vae.sample(64, seed=3))
    rows = found["reconstructions"]["row"]
    assert len(rows) == 20
    x = DIGITS.test.numpy()
    np.testing.assert_array_equal(
        found["reconstructions"]["reconstructions"], vae.reconstruct(x[rows], seed=3)
    )
    np.testing.assert_array_equal(found["reconstructions"]["data"], x[rows] / 16)
    path = found["interpolations"]
    assert path["interpolations"].shape == (8, 11, 1, 8, 8)
    # The ends are the reconstructions of both rows.
    pairs = np.stack([path["from_row"], path["to_row"]], 1)
    again = vae.reconstruct(x[pairs.ravel()]).reshape(8, 2, 1, 8, 8)
    np.testing.assert_allclose(path["interpolations"][:, [0, -1]], again, rtol=1e-5)
    # Fewer coordinates than ten, the one of the largest rate first.
    assert sorted(found["traversals"]["dimension"]) == [0, 1]
    assert (np.diff(found["traversals"]["rate"]) <= 0).all()
    grid = vae.traverse(x, steps=11, seed=3)
    assert found["traversals"]["traversals"].shape == grid.examples.shape
    np.testing.assert_allclose(
        found["manifold"]["manifold"], vae.manifold(size=20).examples, rtol=1e-5
    )
    metadata = json.loads(str(found["prior"]["metadata"]))
    assert metadata["seed"] == 3
    assert metadata["n"] == 64
    assert len(metadata["checkpoint_sha256"]) == 64


@pytest.mark.parametrize("kind", ["prior", "traversals"])
def test_a_seed_repeats_each_byte(sample, run, tmp_path, kind):
    suffixes = (".png", ".npz", ".csv", ".npy", ".nc", ".parquet")
    suffixes += () if kind == "prior" else (".gif",)
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        files = [tmp_path / f"{name}{suffix}" for suffix in suffixes]
        outs = [word for file in files for word in ("--out", file)]
        assert sample(run, kind, "--noise", "--seed", seed, *outs) == 0
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert all(one != other for one, other in zip(written[0], written[2], strict=True))
    values = np.load(tmp_path / "a.npy")
    assert values.dtype == np.int64
    frame = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_array_equal(
        frame[[f"x{i}" for i in range(64)]].to_numpy(), values.reshape(-1, 64)
    )
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), frame)
    stored = xarray.load_dataset(tmp_path / "a.nc")
    assert stored[kind].dims[-3:] == ("channel", "height", "width")
    np.testing.assert_array_equal(stored[kind], values)
    if kind == "traversals":
        assert [*frame.columns[:4]] == ["dimension", "quantile", "z", "rate"]
        assert image(tmp_path / "a.gif").n_frames == 2 * 11 - 2


def test_tables_are_in_their_units(sample, prices, tmp_path):
    assert sample(prices, "--n", "500") == 0
    assert sorted(file.name for file in (prices / "samples").iterdir()) == [
        "prior.csv",
        "prior.npz",
    ]
    new = pd.read_csv(prices / "samples" / "prior.csv")
    assert [*new.columns] == ["sample", "price", "step"]
    assert abs(new["price"].mean() - 1e4) < 50
    assert abs(new["step"].mean()) < 0.5
    for kind in ("reconstructions", "interpolations", "traversals", "manifold"):
        assert sample(prices, kind) == 0
        frame = pd.read_csv(prices / "samples" / f"{kind}.csv")
        assert frame["price"].between(9e3, 1.1e4).all()
        assert sample(prices, kind, "--out", tmp_path / f"{kind}.png") == 0
    assert {"from_row", "to_row", "pair", "t"} <= set(
        pd.read_csv(prices / "samples" / "interpolations.csv")
    )
    # Of a file, with the index of its rows.
    rows = pd.DataFrame({"step": [0.0, 1.0], "price": [1e4, 1.01e4]})
    rows.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "new-out.csv"
    assert sample(prices, "reconstructions", "--data", tmp_path / "new.csv", "--out", out) == 0
    again = pd.read_csv(out)
    assert again["row"].tolist() == [0, 1]
    np.testing.assert_allclose(
        again[["price", "step"]], load(prices).reconstruct(rows)[["price", "step"]], rtol=1e-5
    )


@pytest.mark.parametrize("path", ["spherical", "data"])
def test_paths_of_other_kinds(sample, run, tmp_path, path):
    out = tmp_path / "path.npz"
    words = ("--path", path, "--rows", 4, 9, "--steps", 5, "--out", out)
    assert sample(run, "interpolations", *words, "--out", tmp_path / "path.gif") == 0
    found, x = arrays(out), DIGITS.test.numpy()
    ends = load(run).codes(x[[4, 9]])
    np.testing.assert_allclose(found["codes"][0, [0, -1]], ends, rtol=1e-5)
    norms = np.linalg.norm(found["codes"][0], axis=1)
    if path == "spherical":
        np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 5))
    assert image(tmp_path / "path.gif").n_frames == 8


@pytest.mark.parametrize("model", ["clustering", "semi_supervised", "conditional"])
def test_programs_with_classes(sample, refused, train, tmp_path, model):
    run = train(tmp_path / "run", "--model", model)
    assert sample(run, "classes", "--n", "3") == 0
    found = arrays(run / "samples" / "classes.npz")
    assert found["classes"].shape == (10, 3, 1, 8, 8)
    name = "cluster" if model == "clustering" else "class"
    assert found["class"].tolist() == [f"{name}={k}" for k in range(10)]
    program = load(run)
    seven = {"cluster": 7} if model == "clustering" else {"y": 7}
    np.testing.assert_array_equal(found["classes"][7], program.sample(3, **seven, seed=0))
    assert sample(run, "--n", "3", "--given", f"{name}=7") == 0
    np.testing.assert_array_equal(
        arrays(run / "samples" / "prior.npz")["prior"], found["classes"][7]
    )
    line = refused("sample", run, "classes", "--given", f"{name}=10", "--overwrite")
    assert f"--given {name} must be one of 0, 1" in line
    assert f"takes {name}=VALUE" in refused("sample", run, "--given", "clas=1", "--overwrite")
    if model == "clustering":
        assert sample(run, "traversals") == 0
        assert "--given has no meaning for manifold of" in refused(
            "sample", run, "manifold", "--given", "cluster=1"
        )
        return
    for kind in ("traversals", "manifold", "interpolations"):
        assert sample(run, kind, "--given", "class=7") == 0
    if model == "conditional":
        for kind in ("prior", "traversals", "interpolations"):
            line = refused("sample", run, kind, "--overwrite")
            assert f"needs one condition for {kind}: --given class=VALUE, of 0, 1" in line
        # Under other covariates, and under their own.
        assert sample(run, "reconstructions", "--out", tmp_path / "own.npy") == 0
        other = tmp_path / "other.npy"
        assert sample(run, "reconstructions", "--given", "class=7", "--out", other) == 0
        assert not np.array_equal(np.load(tmp_path / "own.npy"), np.load(other))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["faces"], "KIND must be one of prior, reconstructions"),
        (["prior", "--path", "data"], "--path is an option of interpolations, not of prior"),
        (["--out", "x.jpg"], "--out must end in .png, .gif, .mp4, .npz, .npy, .csv"),
        (["--out", "x.gif"], "prior have no order to show in time"),
        (["--rows", "3"], "--rows is an option of reconstructions, interpolations"),
        (["reconstructions", "--rows", "360"], "--rows must be below 360, got 360"),
        (["interpolations", "--rows", "1", "2", "3"], "must be pairs of rows, got 3 rows"),
        (["interpolations", "--path", "arc"], "--path must be one of straight, spherical, data"),
        (["traversals", "--dimensions", "2"], "dimensions must be from 0 to 1, got 2"),
        (["manifold", "--dimensions", "1"], "dimensions must be two coordinates, got [1]"),
        (["manifold", "--n", "5"], "--n is an option of prior, reconstructions"),
        (["classes"], "classes need a program with classes or covariates"),
        (["--given", "class=1"], "--given takes nothing for VAE, got 'class=1'"),
        (["completions"], "completions need --missing: a share such as 0.5, one of lower-half"),
        (["--n", "0"], "--n must be a whole number of at least 1"),
        (["--data", "none.npy"], "there is no such file"),
    ],
)
def test_a_wrong_option_is_one_line(refused, run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert says in refused("sample", run, *words)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_there_is_kept(sample, refused, run, monkeypatch):
    assert sample(run, "--n", "4") == 0
    before = (run / "samples" / "prior.npz").read_bytes()
    assert "exists already: --overwrite" in refused("sample", run)
    assert sample(run, "--n", "5", "--overwrite") == 0
    assert (run / "samples" / "prior.npz").read_bytes() != before
    monkeypatch.setattr(shutil, "which", lambda name: None)
    line = refused("sample", run, "traversals", "--out", run / "x.mp4")
    assert ".mp4 needs ffmpeg, which is not found on PATH: install it, or use .gif" in line


@pytest.mark.parametrize("name", ["sample", "score", "encode", "export"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_written(
    refused, run, tmp_path, name
):
    (tmp_path / "file").touch()
    first = ("--out", tmp_path / "first.csv") if name == "sample" else ()
    assert "is a file, not a folder" in refused(
        name, run, *first, "--out", tmp_path / "file" / "a.csv"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"file", "run"}


def test_files_of_too_few_rows(refused, prices, tmp_path):
    (tmp_path / "one.csv").write_text("price,step\n1e4,0.5\n")
    words = ("--data", tmp_path / "one.csv", "--out", tmp_path / "a.csv")
    assert "at least 2 rows, got 1" in refused("sample", prices, "interpolations", *words)
    for kind in ("traversals", "manifold"):
        assert "at least 10 rows, and one has 1" in refused("sample", prices, kind, *words)


def test_codes_off_the_real_line(refused, sample, train, tmp_path):
    run = train(tmp_path / "run", "--prior", "dirichlet", "--posterior", "logistic_normal")
    assert sample(run, "interpolations") == 0
    assert sample(run, "interpolations", "--path", "data", "--overwrite") == 0
    line = refused("sample", run, "interpolations", "--path", "spherical", "--overwrite")
    assert "path spherical leaves the support simplex" in line
    assert "leave the support simplex" in refused("sample", run, "traversals")
    assert "leave the support simplex" in refused("sample", run, "manifold")


@pytest.mark.parametrize("method", ["importance", "gibbs"])
def test_completions_of_images(sample, run, tmp_path, method):
    out = tmp_path / "half.npz"
    words = ("--missing", "lower-half", "--rows", 5, 6, "--draws", 3, "--method", method)
    assert sample(run, "completions", *words, "--samples", 100, "--out", out) == 0
    found = arrays(out)
    assert found["completions"].shape == (2, 3, 1, 8, 8)
    assert found["observed"][:, :, :4].all()
    assert not found["observed"][:, :, 4:].any()
    assert set(np.unique(found["completions"])) == {0.0, 1.0}
    assert (found["ess"] > 1).all()
    assert ("khat" in found) == (method == "importance")
    # Those of the method, given the same draws of binary pixels.
    x = found["completions"][:, 0].copy()
    x[~found["observed"]] = np.nan
    assert found["sd"][found["observed"]].max() == 0
    assert (found["mean"][found["observed"]] == x[found["observed"]]).all()
    words = ("--missing", 0.5, "--n", 4, "--samples", 100)
    picture = tmp_path / "half.png"
    assert (
        sample(run, "completions", *words, "--out", picture, "--out", out.with_suffix(".gif")) == 0
    )
    assert image(picture).width > 600
    assert image(out.with_suffix(".gif")).n_frames == 8


def test_completions_of_tables(sample, refused, prices, train, tmp_path):
    frame = pd.DataFrame(
        {"price": [1e4, np.nan, 9900.0, np.nan], "step": [np.nan, 1, 0.5, np.nan]}
    )
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    missing = train(
        *(tmp_path / "run", "--data", prices.parent / "prices.csv", "--model", "missing"),
        *("--likelihood", "normal"),
    )
    for run in (prices, missing):
        out = tmp_path / f"{run.parent.name}.csv"
        words = ("--missing", tmp_path / "gaps.csv", "--draws", 5, "--out", out)
        assert sample(run, "completions", *words) == 0
        found = pd.read_csv(out)
        assert [*found.columns] == ["row", "draw", "ess", "khat", "price", "step"]
        # All rows of the file, with what they hold as it is.
        assert found["row"].tolist() == [row for row in range(4) for _ in range(5)]
        given = frame.loc[found["row"]].reset_index(drop=True)
        known = given.notna()
        np.testing.assert_allclose(
            found[["price", "step"]].to_numpy()[known], given.to_numpy()[known], rtol=1e-6
        )
        assert found["price"].between(8e3, 1.2e4).all()
        gaps = ("--out", run / "gaps.png", "--out", run / "gaps.npz")
        assert sample(run, "completions", *words[:2], *gaps) == 0
        metadata = json.loads(str(arrays(run / "gaps.npz")["metadata"]))
        assert (metadata["data"], metadata["split"]) == ("gaps", "new")
    line = refused("sample", prices, "completions", "--missing", "lower-half")
    assert "--missing lower-half needs images, got rows of shape (2,)" in line
    line = refused("sample", prices, "completions", "--missing", "1.5")
    assert "--missing must be a share above 0 and up to 1, got 1.5" in line
    assert "there is no" in refused("sample", prices, "completions", "--missing", "half.csv")


@pytest.mark.slow
def test_sequences_series_and_counts(sample, train, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "series.npy", rng.normal(size=(60, 2, 30)).cumsum(-1))
    np.save(tmp_path / "spectra.npy", rng.normal(size=(60, 90)).cumsum(-1))
    np.save(tmp_path / "counts.npy", rng.poisson(2, size=(60, 90)))
    np.save(tmp_path / "bands.npy", rng.normal(size=(60, 5, 8, 8)))
    runs = [
        train(tmp_path / name, "--data", tmp_path / f"{name}.npy", *options)
        for name, options in (
            ("series", ("--data.layout", "series", "--likelihood", "normal")),
            ("spectra", ("--likelihood", "normal")),
            ("counts", ("--data.support", "counts")),
            ("bands", ("--likelihood", "normal")),
        )
    ]
    sequences = ("--model", "sequence", "--likelihood", "normal", "--data", "pendulum")
    runs.append(train(tmp_path / "pendulum", *sequences))
    for run in runs:
        kinds = ["prior", "reconstructions", "interpolations", "traversals", "manifold"]
        for kind in kinds:
            assert sample(run, kind) == 0
            assert (
                sample(run, kind, "--out", run / f"{kind}.csv", "--out", run / f"{kind}.nc") == 0
            )
        assert sample(run, "completions", "--missing", 0.3, "--samples", 100) == 0
        assert sample(run, "traversals", "--out", run / "moving.gif") == 0
    assert sample(runs[-1], "--out", runs[-1] / "prior.gif") == 0
    assert image(runs[-1] / "prior.gif").n_frames == 20


def test_the_commands_of_the_page_parse():
    parser = runpy.run_path(str(ROOT / "scripts" / "sample.py"))["parser"]()
    lines = re.findall(r"^python scripts/sample\.py .*$", PAGE, re.MULTILINE)
    assert len(lines) == 10
    for line in lines:
        words = [word for word in shlex.split(line, comments=True)[2:]]
        parser.parse_args([w for w in words if w not in ("--data", "new.csv")])


@pytest.mark.slow
def test_the_python_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict = {}
    exec(compile(code.replace("epochs=5", "epochs=1"), "sampling.md", "exec"), scope)
    assert scope["half"].values.shape == (2, 8, 1, 8, 8)
    for shape in re.findall(r"^(\w+) = .*# (\([\d, ]+\))$", code, re.MULTILINE):
        assert str(scope[shape[0]].shape) == shape[1]
