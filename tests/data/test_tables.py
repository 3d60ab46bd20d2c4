"""`table_file`: CSV and Parquet, good and bad."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.data import table_file
from pyro_vae.data.dataset import SPLITS

N = 20
GENERATOR = np.random.default_rng(0)
REAL = GENERATOR.normal(size=N).round(3)
COUNT = GENERATOR.integers(0, 9, N)
KIND = np.where(COUNT > 4, "high", "low")


def write(path: Path, **columns) -> Path:
    table = pd.DataFrame(columns)
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.fixture(params=[".csv", ".parquet", ".CSV"])
def path(request, tmp_path) -> Path:
    return tmp_path / f"mine{request.param}"


def test_real_columns(tmp_path, path):
    dataset = table_file(write(path, height=REAL, visits=COUNT))
    assert (dataset.name, dataset.support, dataset.event_shape) == ("mine", "real", (2,))
    assert dataset.event_names == ("height", "visits")
    assert [len(dataset.split(split)) for split in SPLITS] == [14, 2, 4]
    assert dataset.train.dtype == torch.float32
    together = torch.cat([dataset.split(split) for split in SPLITS])
    expected = torch.tensor(np.stack([REAL, COUNT], 1), dtype=torch.float32)
    assert sorted(together.tolist()) == sorted(expected.tolist())


def test_whole_columns_are_counts_or_levels_or_what_is_said(path):
    write(path, a=COUNT, b=COUNT[::-1])
    assert (table_file(path).support, table_file(path).train.dtype) == ("counts", torch.uint8)
    assert table_file(path, levels=9).levels == 9
    assert table_file(path, support="real").support == "real"


def test_booleans_and_0_and_1_are_binary(path):
    assert table_file(write(path, a=COUNT > 4, b=COUNT > 2)).support == "binary"
    assert table_file(write(path, a=COUNT > 4, b=(COUNT > 2).astype(int))).support == "binary"


def test_labels_of_words(path):
    write(path, a=REAL, kind=KIND, b=COUNT)
    dataset = table_file(path, label="kind")
    assert dataset.event_names == ("a", "b")
    assert dataset.label_names == ("high", "low")
    for split in SPLITS:
        assert torch.equal(dataset.labels[split], (dataset.split(split)[:, 1] <= 4).long())


def test_labels_of_numbers(path):
    dataset = table_file(write(path, a=REAL, kind=COUNT * 10, b=COUNT), label="kind")
    for split in SPLITS:
        assert torch.equal(dataset.labels[split], (10 * dataset.split(split)[:, 1]).long())
    assert dataset.label_names == ()
    dataset = table_file(write(path, a=REAL, kind=REAL * 2, b=COUNT), label="kind")
    assert torch.allclose(dataset.labels["train"].float(), 2 * dataset.train[:, 0])


def test_types_of_parquet_that_may_be_missing_are_numbers(tmp_path):
    path = tmp_path / "mine.parquet"
    write(path, a=pd.array(COUNT, dtype="Int64"), b=pd.array(REAL, dtype="Float32"))
    assert table_file(path).support == "real"
    write(path, a=pd.array(COUNT, dtype="UInt8"), b=pd.array(COUNT > 3, dtype="boolean"))
    assert table_file(path).support == "counts"
    dataset = table_file(write(path, a=REAL, b=pd.Categorical(KIND)), label="b")
    assert dataset.label_names == ("high", "low")


def with_gap(values) -> np.ndarray:
    values = np.array(values, dtype=object)
    values[7] = None
    return values


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"a": REAL, "kind": KIND},
            {},
            "columns must be numeric, but 'kind' is not .*'high'|'low'",
        ),
        ({"a": KIND, "kind": KIND}, {}, "but 'a', 'kind' are not"),
        ({"a": REAL, "when": pd.date_range("2020", periods=N)}, {}, "but 'when' is not"),
        ({"a": with_gap(REAL), "b": REAL}, {}, r"column 'a' has no value in row 8 \(1 of 20"),
        ({"a": REAL, "b": with_gap(KIND)}, {"label": "b"}, "column 'b' has no value in row 8"),
        ({"a": REAL, "label": COUNT}, {}, r"'label' seems to hold labels.*\(--data.label label\)"),
        ({"a": REAL, "Class": COUNT}, {}, "the column 'Class' seems to hold labels"),
        ({"a": REAL, "b": COUNT}, {"label": "c"}, "there is no column 'c'; there are a, b"),
        ({"a": KIND}, {"label": "a"}, "there are no columns of data"),
        (
            {"1.5": REAL, "2.5": COUNT},
            {},
            "first line must hold the columns' names, got the numbers",
        ),
        ({"Unnamed: 0": np.arange(N), "a": REAL}, {}, "column 1 has no name in the first line"),
        ({"a": COUNT}, {}, "looks like labels"),
        ({"a": COUNT[:5], "b": REAL[:5]}, {}, "at least 10 rows to be split, got 5"),
        ({"a": COUNT - 3, "b": COUNT}, {}, "goes down to -3; .*--data.support real"),
        ({"a": np.where(COUNT > 3, np.inf, 1.5), "b": COUNT}, {}, "not finite"),
        ({"a": REAL, "b": COUNT}, {"levels": 9}, "between 0 and 8|got fractions"),
    ],
)
def test_bad_tables_are_refused_with_the_path(path, columns, options, message):
    write(path, **columns)
    with pytest.raises(ValueError, match=message) as caught:
        table_file(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


LINES = [f"{a},{b}" for a, b in zip(REAL, COUNT, strict=True)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is damaged, or not a table of csv"),
        (["a,b"], "must be|at least 10 rows|numeric"),
        (LINES, "first line must hold the columns' names, got the numbers"),
        (["a,b", *LINES, "1,2,3"], "is damaged, or not a table of csv"),
        (["a,b", *(f"{line},5" for line in LINES)], "is damaged, or not a table of csv"),
        (["a,b,c", *LINES], "column 'c' has no value in row 1"),
        (["a,b", *LINES, "7"], "column 'b' has no value in row 21"),
        (["a,b", *LINES, "1,x"], "columns must be numeric, but 'b' is not"),
        (["a;b", *(line.replace(",", ";") for line in LINES)], "'a;b' is not .*separated by commas"),
        ([",a,b", *(f"{i},{line}" for i, line in enumerate(LINES))], "column 1 has no name"),
        (['a,b', '"1,2', *LINES], "is damaged, or not|numeric"),
        (["a,b", *(f"{line},,,,,," for line in LINES)], "is damaged, or not a table of csv"),
    ],
)  # fmt: skip
def test_bad_csv_is_refused_with_the_path(tmp_path, lines, message):
    path = tmp_path / "mine.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=message) as caught:
        table_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_names_that_pandas_gives_are_names(tmp_path):
    path = tmp_path / "mine.csv"
    pd.DataFrame(np.stack([REAL, COUNT], 1)).to_csv(path, index=False)
    assert table_file(path).event_names == ("0", "1")


@pytest.mark.parametrize("kind", ["missing", "binary", "other suffix", "directory"])
def test_other_files_are_refused_with_the_path(path, kind):
    if kind == "binary":
        path.write_bytes(bytes(range(256)) * 9)
    elif kind == "directory":
        path.mkdir()
    elif kind == "other suffix":
        path = path.with_suffix(".xlsx")
    message = "no such file|is damaged, or not|must be a .csv or .parquet"
    with pytest.raises(ValueError, match=message) as caught:
        table_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_imported_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.parquet", a=REAL, b=REAL)
    # None in sys.modules makes `import` raise ImportError.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pandas pyarrow"):
        table_file(path)
