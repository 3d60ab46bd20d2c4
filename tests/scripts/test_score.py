"""`scripts/score.py`: a row of numbers for each row of data, equal to evaluate.py's, and bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray

from analysis import row_files
from pyro_vae.configuration.components import load_data, prepare_data
from pyro_vae.data import preprocessing
from pyro_vae.evidence import evaluate, row_scores, typicality
from pyro_vae.runs import load

COLUMNS = ["row", "log_p", "log_p_se", "khat", "ess", "elbo", "reconstruction", "kl"]
COLUMNS = [*COLUMNS, "reconstruction_error", "typicality"]
FEW = ("--samples", 30, "--reference-rows", 20)


@pytest.fixture(scope="session")
def score(script):
    def score(*arguments: object, **patches: object) -> int:
        return script("score", *arguments, "--device", "cpu", **patches)

    return score


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 1))
    values = z * [1.0, -2.0, 3.0] + 0.3 * rng.normal(size=(120, 3))
    path = tmp_path_factory.mktemp("table") / "a.csv"
    frame = pd.DataFrame(values, columns=pd.Index(["u", "v", "w"]))
    frame.assign(kind=np.where(z[:, 0] > 0, "high", "low")).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def on_table(train, table, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("on_table") / "run"
    options = ("--data", table, "--data.label", "kind", "--likelihood", "normal")
    return train(out, *options)


def test_the_scores_of_its_own_data(score, refused, train, run, capsys):
    assert score(run, *FEW) == 0
    screen = capsys.readouterr().out
    assert "360 scores are in" in screen
    assert "20 of 1,257 train images" in screen
    assert "here each image is drawn once, with a fixed seed" in screen
    assert all(len(line.replace(str(run), "RUN")) <= 100 for line in screen.splitlines())
    found = pd.read_csv(run / "scores.csv")
    assert [*found] == [*COLUMNS, "label"]
    vae = load(run)
    data = prepare_data(vae.configuration, load_data(vae.configuration, Path("none")))
    assert (found.row == data.dataset.rows["test"].numpy()).all()
    assert (found.label == data.dataset.labels["test"].numpy()).all()
    x = data.fixed("test").float()
    expected = row_scores(vae, x, num_samples=30)
    for name in COLUMNS[1:8]:
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-4, atol=1e-4)
    # The same draws: those of evaluate for a single row.
    for row in (0, 200):
        weights = evaluate(vae, x[row : row + 1], num_samples=30).weights
        assert found.log_p[row] == pytest.approx(weights.log_evidence[0], abs=1e-4)
        assert found.khat[row] == pytest.approx(weights.khat[0], abs=1e-2)
    error = (x - vae.decode(vae.embed(x))).square().flatten(1).mean(1).sqrt()
    np.testing.assert_allclose(found.reconstruction_error, error.detach(), rtol=1e-4)
    p = found.typicality
    assert p.min() >= 1 / 21 - 1e-12
    assert p.max() <= 1
    assert p.nunique() > 5
    # What is there is kept, unless it may go.
    before = (run / "scores.csv").read_bytes()
    assert "exists already" in refused("score", run)
    assert score(run, *FEW, "--overwrite", "--seed", 1) == 0
    assert (run / "scores.csv").read_bytes() != before
    assert list(run.rglob(".*")) == []
    train(run, "--overwrite")
    assert not (run / "scores.csv").exists()


def test_every_format_holds_the_same(score, on_table, tmp_path, capsys):
    tables = {}
    for suffix in (".csv", ".parquet", ".nc"):
        out = tmp_path / f"new/scores{suffix}"
        assert score(on_table, *FEW, "--split", "train", "--out", out) == 0
        names = {"pandas": pd, "xarray": xarray}
        # The line that is printed reads it.
        exec(capsys.readouterr().out.splitlines()[-1].removeprefix("read them: "), names)
        tables[suffix] = names["scores"][[*COLUMNS, "label"]].reset_index(drop=True)
        assert set(tables[suffix].label) == {"high", "low"}
    for other in (".parquet", ".nc"):
        pd.testing.assert_frame_equal(tables[other], tables[".csv"], rtol=1e-9, check_dtype=False)
    metadata = json.loads(xarray.open_dataset(tmp_path / "new/scores.nc").attrs["metadata"])
    assert metadata["num_samples"] == 30
    assert metadata["reference_rows"] == 20
    assert len(metadata["checkpoint_sha256"]) == 64
    assert metadata["split"] == "train"


def test_new_rows_in_blocks_and_from_disk(score, on_table, tmp_path, monkeypatch, capsys):
    x = np.random.default_rng(1).normal(size=(57, 3))
    x[7] = 50
    np.save(tmp_path / "new.npy", x)
    # Columns of a table are found by name.
    frame = pd.DataFrame(x, columns=pd.Index(["u", "v", "w"]))
    frame[["w", "u", "v"]].to_csv(tmp_path / "names.csv", index=False)
    whole, blocks = tmp_path / "whole.csv", tmp_path / "blocks.csv"
    named = tmp_path / "names.csv"
    assert score(on_table, *FEW, "--data", tmp_path / "new.npy", "--out", whole) == 0
    screen = capsys.readouterr().out
    assert "lowest log p(x): rows 7 " in screen
    assert score(on_table, *FEW, "--data", named) == 0
    monkeypatch.setattr(preprocessing, "_BLOCK_ROWS", 10)
    monkeypatch.setattr(row_files, "ROWS", 20)
    options = ("--data", tmp_path / "new.npy", "--data.memory-map", "true", "--out", blocks)
    assert score(on_table, *FEW, *options, ROWS=20) == 0
    found, read = pd.read_csv(whole), pd.read_csv(blocks)
    assert (found.row == np.arange(57)).all()
    assert [*found] == COLUMNS
    pd.testing.assert_frame_equal(read, found, rtol=1e-3, atol=1e-4)
    pd.testing.assert_frame_equal(pd.read_csv(on_table / "names-scores.csv"), found, rtol=1e-3)
    # One row is scored as among others.
    np.save(tmp_path / "one.npy", x[7:8])
    assert (
        score(on_table, *FEW, "--data", tmp_path / "one.npy", "--out", blocks, "--overwrite") == 0
    )
    one = pd.read_csv(blocks)
    pd.testing.assert_frame_equal(
        one[COLUMNS[1:]], found[7:8][COLUMNS[1:]].reset_index(drop=True), rtol=1e-3
    )
    assert one.typicality[0] == pytest.approx(1 / 21)


def test_typicality_is_cached_and_can_be_left_out(score, table, train, tmp_path, capsys):
    own = shutil.copy(table, tmp_path / "own.csv")
    run = train(tmp_path / "run", "--data", own, "--data.drop", "kind", "--likelihood", "normal")
    new = ("--data", table, "--data.drop", "kind", "--samples", 30)
    assert score(run, *new, "--reference", "validation", "--reference-rows", 10) == 0
    assert "10 of 12 validation rows" in capsys.readouterr().out
    first = pd.read_csv(run / "a-scores.csv")
    own.unlink()
    # From the cache, without the training data.
    options = ("--reference", "validation", "--reference-rows", 10, "--overwrite")
    assert score(run, *new, *options) == 0
    pd.testing.assert_frame_equal(pd.read_csv(run / "a-scores.csv"), first)
    capsys.readouterr()
    assert score(run, *new, "--overwrite") == 0
    assert "typicality: left out." in capsys.readouterr().out
    assert "typicality" not in pd.read_csv(run / "a-scores.csv")
    assert score(run, *new, "--overwrite", "--reference-rows", 0, "--samples", 5) == 0
    found = pd.read_csv(run / "a-scores.csv")
    assert "typicality" not in found
    assert found.khat.isna().all()


def test_labels_of_a_program_that_is_conditional(score, table, train, tmp_path):
    run = train(
        tmp_path / "run", "--data", table, "--data.label", "kind", "--model", "conditional",
        "--likelihood", "normal",
    )  # fmt: skip
    assert score(run, *FEW) == 0
    found = pd.read_csv(run / "scores.csv")
    vae = load(run)
    data = prepare_data(vae.configuration, load_data(vae.configuration, Path("none")))
    y = data.dataset.labels["test"]
    expected = row_scores(vae, data.fixed("test"), y=y, num_samples=30)
    np.testing.assert_allclose(found.log_p, expected.log_p, rtol=1e-4)
    assert np.isfinite(found.reconstruction_error).all()


def test_undefined_rows_are_named_and_blank(score, on_table, tmp_path, capsys):
    x = np.zeros((6, 3))
    x[4] = 1e30
    np.save(tmp_path / "fill.npy", x)
    assert score(on_table, *FEW, "--data", tmp_path / "fill.npy") == 0
    assert "for 1 of 6 rows, row 4:" in capsys.readouterr().out.replace("\n", " ")
    found = pd.read_csv(on_table / "fill-scores.csv")
    assert np.isfinite(found.log_p).tolist() == [True] * 4 + [False, True]
    assert not found.typicality[4] > 1 / 21


def test_nothing_half_written(score, on_table, tmp_path, contents, monkeypatch):
    calls = []

    def fails(scores, reference):
        calls.append(len([*tmp_path.glob(".*.tmp")]))
        if len(calls) % 2 == 0:  # The second block, while the first is written.
            raise ValueError("the disk is full.")
        return typicality(scores, reference)

    monkeypatch.setattr(preprocessing, "_BLOCK_ROWS", 10)
    before = contents(on_table)
    for suffix in (".csv", ".parquet", ".nc"):
        out = tmp_path / f"scores{suffix}"
        assert score(on_table, *FEW, "--out", out, typicality=fails, ROWS=10) == 2
        out.write_bytes(b"old")
        assert score(on_table, *FEW, "--out", out, "--overwrite", typicality=fails, ROWS=10) == 2
        assert [*tmp_path.iterdir()] == [out]
        assert out.read_bytes() == b"old"
        out.unlink()
    new = {name for name in contents(on_table).keys() - before.keys() if "kept" not in name}
    assert new == set()
    # A temporary file was there.
    assert calls == [0, 1] * 6


def test_bad_input(refused, on_table, trained, train, tmp_path):
    def line(*options: object) -> str:
        return refused("score", on_table, *FEW, *options)

    np.save(tmp_path / "wide.npy", np.zeros((5, 4)))
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    np.save(tmp_path / "nan.npy", np.full((5, 3), np.nan))
    pd.DataFrame({"u": [1.0], "v": [2.0]}).to_csv(tmp_path / "lacks.csv", index=False)
    for name, message in (
        ("wide.npy", "trained on data of shape (3,), and those of wide have the shape (4,)"),
        ("empty.npy", "empty"),
        ("nan.npy", "nan"),
        ("lacks.csv", "lacks 1 of the 3 columns that the model was trained on: 'w'"),
        ("none.csv", "no such file"),
    ):
        assert message in line("--data", tmp_path / name)
    np.save(tmp_path / "grey.npy", np.full((5, 8, 8), 0.5))
    assert "levels" in refused("score", trained, "--data", tmp_path / "grey.npy")
    for options, message in (
        (("--out", "x.txt"), "--out must end in .csv, .parquet, .nc, got x.txt."),
        (("--samples", 0), "--samples must be a whole number of at least 1"),
        (("--reference", "test"), "--reference must be one of train, validation"),
        (("--split", "all"), "--split must be one of test, validation, train"),
        (("--sample", 3), "did you mean --samples?"),
    ):
        assert message in line(*options)
    (tmp_path / "folder.csv").mkdir()
    assert "got the directory" in line("--out", tmp_path / "folder.csv")
    assert "missing RUN" in refused("score")
    assert "no run" in refused("score", tmp_path)
    autoencoder = train(
        tmp_path / "autoencoder", "--posterior", "point", "--objective", "reconstruction"
    )
    assert "needs a guide with a density" in refused("score", autoencoder)


@pytest.mark.parametrize("model", ["clustering", "semi_supervised", "missing"])
def test_other_programs(model, score, train, tmp_path):
    run = train(tmp_path / model, "--model", model)
    assert score(run, "--samples", 25, "--reference-rows", 5) == 0
    found = pd.read_csv(run / "scores.csv")
    assert np.isfinite(found[[*COLUMNS[1:3], *COLUMNS[4:]]]).all(axis=None)
