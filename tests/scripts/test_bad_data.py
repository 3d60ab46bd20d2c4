"""Other data that do not fit a run: one line and nothing written, by every script that reads them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"
# What each script is given besides the run and the data.
WORDS = {
    "encode": ["--out", "OUT.npz"],
    "evaluate": ["--samples", "2", "--images", "5"],
    "sample": ["reconstructions", "--out", "OUT.npz"],
    "score": ["--out", "OUT.csv"],
}
READERS = [name for name in WORDS if (SCRIPTS / f"{name}.py").exists()]


def images(folder: Path, shape: tuple[int, ...], n: int = 60) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{i:02d}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory, train) -> Path:
    """Runs on grey images, counts and a table, and data that do not fit them."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, shape in {"grey": (8, 8), "wide": (8, 12), "rgb": (8, 8, 3)}.items():
        images(folder / name, shape)
    (folder / "empty").mkdir()
    images(folder / "damaged", (8, 8), 20)
    (folder / "damaged" / "10.png").write_text("not an image")
    (folder / "damaged" / "11.png").write_bytes((folder / "grey" / "00.png").read_bytes()[:40])
    counts = rng.poisson(3, (60, 5))
    arrays = {"counts": counts, "six": rng.poisson(3, (60, 6)), "halves": counts + 0.5}
    arrays |= {
        "negative": counts - 5,
        "none": counts[:0],
        "holes": np.where(counts > 4, np.nan, 1),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    table = pd.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    table.to_csv(folder / "table.csv", index=False)
    table.rename(columns={"c": "x"}).to_csv(folder / "renamed.csv", index=False)
    table.assign(a="word").to_csv(folder / "words.csv", index=False)
    (folder / "blank.csv").write_text("")
    (folder / "cut.npy").write_bytes((folder / "counts.npy").read_bytes()[:200])
    train(folder / "run-images", "--data", folder / "grey", "--likelihood", "bernoulli")
    train(folder / "run-counts", "--data", folder / "counts.npy")
    train(folder / "run-table", "--data", folder / "table.csv")
    return folder


CASES = [
    ("images", "wide", (), r"trained on data of shape (1, 8, 8), and those of wide have the shape (1, 8, 12)"),
    ("images", "rgb", (), "those of rgb have the shape (3, 8, 8)"),
    ("images", "empty", (), "holds no images"),
    ("images", "damaged", (), "2 of 20 files are damaged or not images: 10.png (not an image known to Pillow), 11.png"),
    ("images", "counts.npy", (), "those of counts have the shape (5,)"),
    ("images", "nowhere", (), "there is no"),
    ("images", "grey", ("--data.depth", "2"), "unknown option --data.depth"),
    ("counts", "six.npy", (), "those of six have the shape (6,)"),
    ("counts", "halves.npy", (), "values outside whole numbers, 0 or more"),
    ("counts", "negative.npy", (), "values outside whole numbers, 0 or more"),
    ("counts", "holes.npy", (), "such as nan"),
    ("counts", "none.npy", (), "none holds no rows"),
    ("counts", "cut.npy", (), "cut.npy"),
    ("table", "renamed.csv", (), "lacks 1 of the 3 columns that the model was trained on: 'c'"),
    ("table", "words.csv", (), "column 'a' must be numeric, but 60 of 60 values are not"),
    ("table", "blank.csv", (), "damaged, or not a table"),
    ("table", "table.csv", ("--data.label", "kind"), "has no column 'kind'"),
]  # fmt: skip


@pytest.mark.parametrize("program", READERS)
@pytest.mark.parametrize(("run", "file", "options", "says"), CASES)
def test_one_line_and_nothing_written(
    data, refused, contents, tmp_path, program, run, file, options, says
):
    before = contents(data)
    words = [word.replace("OUT", str(tmp_path / "out")) for word in WORDS[program]]
    line = refused(program, data / f"run-{run}", *words, "--data", data / file, *options)
    assert says in line
    assert contents(data) == before
    assert [*tmp_path.iterdir()] == []


def test_damaged_images_are_left_out_when_asked(data, script, capsys, tmp_path):
    words = ["--data", data / "damaged", "--data.skip-damaged", "true"]
    out = tmp_path / "codes.npz"
    assert script("encode", data / "run-images", *words, "--out", out) == 0
    assert "2 of 20 files were left out: 10.png" in capsys.readouterr().out
    with np.load(out) as file:
        assert len(file["codes"]) == 18
        assert "10.png" not in {*file["row_name"]}


def test_data_may_lack_the_labels_of_the_run(data, script, train, tmp_path):
    labelled = pd.read_csv(data / "table.csv").assign(kind=np.arange(60) % 2)
    labelled.to_csv(tmp_path / "labelled.csv", index=False)
    run = train(tmp_path / "run", "--data", tmp_path / "labelled.csv", "--data.label", "kind")
    words = ["--data", data / "table.csv", "--out", tmp_path / "codes.npz"]
    assert script("encode", run, *words) == 0
