"""CSV and Parquet files, and columns of lists and images."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pyro_vae.data import READERS, PreparedData, table_file, table_rows
from pyro_vae.data.contract import DataContract
from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.tables import frame_rows

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
    values = sorted(set(COUNT.tolist()))
    assert dataset.label_names == tuple(str(10 * value) for value in values)
    for split in SPLITS:
        counts = torch.tensor(values)[dataset.labels[split]]
        assert torch.equal(counts, dataset.split(split)[:, 1].long())
    dataset = table_file(write(path, a=REAL, kind=REAL * 2, b=COUNT), label="kind")
    assert torch.allclose(dataset.labels["train"].float(), 2 * dataset.split("train")[:, 0])


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
            r"'kind' must be numeric, but 20 of 20 values are not, .* row 1 \('(high|low)'.*--data.drop",
        ),
        (
            {"a": KIND, "kind": KIND},
            {},
            "column 'a' must be numeric.*'kind' cannot be data either",
        ),
        (
            {"a": REAL, "when": pd.date_range("2020", periods=N)},
            {},
            "'when' holds dates|'when' must",
        ),
        ({"a": with_gap(REAL), "b": REAL}, {}, r"column 'a' has no value in row 8 \(1 of 20"),
        ({"a": REAL, "b": COUNT}, {"drop": "c"}, "there is no column 'c'; there are a, b"),
        (
            {"a": REAL, "b": COUNT},
            {"split": "c"},
            "no column 'c', and no such file; there are a, b",
        ),
        ({"a": REAL, "b": COUNT}, {"drop": "a,b"}, "there are no columns of data"),
        ({"a": REAL, "label": COUNT}, {}, r"'label' seems to hold labels.*\(--data.label label\)"),
        ({"a": REAL, "Class": COUNT}, {}, "the column 'Class' seems to hold labels"),
        ({"a": REAL, "b": COUNT}, {"label": "c"}, "there is no column 'c'; there are a, b"),
        ({"a": KIND}, {"label": "a"}, "there are no columns of data"),
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
        (["a,b", *LINES, "1,x"], r"'b' must be numeric, but 1 of 21 values are not, first in row 21 \('x'"),
        (["a;b", *(line.replace(",", ";") for line in LINES)], "'a;b' must be .*separated by commas"),
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


def test_columns_that_are_not_data(path, tmp_path):
    parts = np.repeat(["train", "Val", "test"], [12, 3, 5])
    site = np.arange(N) // 4
    write(path, id=np.arange(N), a=REAL, kind=KIND, part=parts, site=site, b=COUNT)
    dataset = table_file(path, label="kind", drop="id,site", split="part")
    assert dataset.event_names == ("a", "b")
    assert [len(dataset.split(split)) for split in SPLITS] == [12, 3, 5]
    assert dataset.rows["test"].tolist() == [15, 16, 17, 18, 19]
    (tmp_path / "parts.txt").write_text("\n".join(parts))
    dropped = ["id", "part", "site", "kind"]
    dataset = table_file(path, drop=dropped, split=str(tmp_path / "parts.txt"))
    assert dataset.rows["test"].tolist() == [15, 16, 17, 18, 19]
    dataset = table_file(path, drop=dropped[:2], group="site", label="kind")
    sites = [set(site[dataset.rows[split]]) for split in SPLITS]
    assert sorted(each for part in sites for each in part) == [0, 1, 2, 3, 4]


def test_names_that_are_numbers(path):
    # pandas' own names, in Parquet as integers, and the wavelengths of spectra.
    table = pd.DataFrame({0: COUNT > 4, 1: REAL, 2: REAL})
    table.to_csv(path, index=False) if path.suffix.lower() == ".csv" else table.to_parquet(path)
    dataset = table_file(path, label="0")
    assert (dataset.event_names, dataset.label_names) == (("1", "2"), ("False", "True"))
    write(path, **{str(400 + 2.5 * step): REAL for step in range(10)})
    dataset = table_file(path)
    assert dataset.event_names[1] == "402.5"
    said = [
        note for note in dataset.notes if "if they are a row of data, add a line of names" in note
    ]
    assert len(said) == (path.suffix.lower() == ".csv")


def test_new_rows_need_neither_labels_nor_rows_enough(path):
    write(path, b=[2.5], words=["x"], label=["y"], a=[None])
    rows = table_rows(path, label="kind", group="site", split="part", drop="id")
    assert (rows.values.tolist(), rows.event_names, rows.labels) == ([[2.5]], ("b",), None)
    assert len(rows.notes) == 3
    assert "column 'a' has no value in row 1" in " ".join(rows.notes)
    assert table_rows(path, label="words").labels.tolist() == ["x"]


def test_frames_of_a_notebook():
    table = pd.DataFrame({"a": REAL, "b": COUNT, "kind": KIND}, index=np.arange(N)[::-1] + 7)
    dataset = Dataset.from_rows(frame_rows(table, label="kind"))
    assert torch.equal(dataset.labels["train"], (dataset.split("train")[:, 1] <= 4).long())
    polars = pytest.importorskip("polars")
    other = Dataset.from_rows(frame_rows(polars.from_pandas(table), label="kind"))
    assert torch.equal(other.split("train"), dataset.split("train"))
    assert other.label_names == dataset.label_names
    # Rows with no label are data, too.
    table["kind"] = with_gap(KIND)
    dataset = Dataset.from_rows(frame_rows(table, label="kind"))
    assert sum(int((labels == -1).sum()) for labels in dataset.labels.values()) == 1
    assert "1 of 20 rows have no label" in dataset.notes[0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pd.Categorical(KIND),
            r"'b' holds categories \('high', 'low'\).*get_dummies.*--data.drop b",
        ),
        (pd.date_range("2020", periods=N), "'b' holds dates or times .*--data.drop b"),
        (pd.to_timedelta(COUNT, unit="h"), "'b' holds dates or times"),
        (
            ["3 kg", "n/a", None, *REAL[3:]],
            r"2 of 20 values are not, first in row 1 \('3 kg', 'n/a';",
        ),
        ([[1, 2]] * (N - 1) + [[1]], "'b' is a list column whose lists have from 1 to 2"),
        (REAL + 1j, "'b' must be numeric, got the type complex128"),
        (pd.array([None, *COUNT[1:]], dtype="Int64"), "'b' has no value in row 1"),
    ],
)
def test_columns_that_cannot_be_data(column, message):
    with pytest.raises(ValueError, match=message) as caught:
        frame_rows(pd.DataFrame({"a": REAL, "b": column}))
    assert "\n" not in str(caught.value)


def test_columns_of_objects_are_read_as_numbers():
    from decimal import Decimal

    table = pd.DataFrame({"a": COUNT.astype(object), "b": [str(value) for value in REAL]})
    table["c"] = [Decimal(str(value)) for value in REAL]
    table["d"] = (COUNT > 4).astype(object)
    expected = np.stack([COUNT, REAL, REAL, COUNT > 4], 1)
    assert np.array_equal(frame_rows(table).values, expected)


def test_what_cannot_be_imported_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "mine.parquet", a=REAL, b=REAL)
    # None in sys.modules makes `import` raise ImportError.
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pandas pyarrow"):
        table_file(path)


def test_new_rows_of_a_model(tmp_path):
    table = pd.DataFrame({"a": REAL, "b": REAL[::-1], "kind": KIND})
    contract = DataContract.from_data(
        PreparedData(Dataset.from_rows(frame_rows(table, label="kind")), "real")
    )
    new = pd.DataFrame({"b": [1.5, 2.5], "kind": ["low", "none"], "a": [3.5, 4.5]})
    dataset = contract.new_data(frame_rows(new, label="kind", new=True)).dataset
    assert dataset.split("test").tolist() == [[3.5, 1.5], [4.5, 2.5]]
    assert (dataset.labels["test"].tolist(), dataset.label_names) == ([1, -1], ("high", "low"))
    assert any("'none' (1 row, taken as unlabelled)" in note for note in dataset.notes)
    new["b"] = ["1.5 m", "2.5"]
    with pytest.raises(ValueError, match=r"lacks .* 'b'; it has 'a'.* 1 of 2 values .*'1.5 m'"):
        contract.new_data(frame_rows(new, label="kind", new=True))
    # A target of training is a target in a few new rows, too.
    table["kind"] = 40 * REAL + 200.5
    contract = DataContract.from_data(
        PreparedData(Dataset.from_rows(frame_rows(table, label="kind")), "real")
    )
    new = pd.DataFrame({"a": [3.5, 4.5], "b": [1.5, 2.5], "kind": [180.0, 210.0]})
    dataset = contract.new_data(frame_rows(new, label="kind", new=True)).dataset
    assert dataset.labels["test"].tolist() == [180.0, 210.0]


RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(12, 5))
GRIDS = RANDOM.normal(size=(12, 4, 6))
PICTURES = RANDOM.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = ["a", "b"] * 6


def png(pixels):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def write_nested(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def together(dataset, values):
    """Whether the splits hold the values, in the order of their rows."""
    for split, numbers in dataset.rows.items():
        np.testing.assert_allclose(dataset.split(split), values[numbers.numpy()], rtol=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_list_column_is_so_many_elements(tmp_path, fixed):
    column = pa.array(VECTORS.tolist())
    if fixed:
        column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 5)
    path = write_nested(tmp_path / "x.parquet", v=column, kind=pa.array(LABELS))
    dataset = table_file(path, label="kind")
    assert (dataset.event_shape, dataset.event_names, dataset.label_names) == (
        (5,),
        (),
        ("a", "b"),
    )
    together(dataset, VECTORS)


def test_list_columns_beside_others_are_columns(tmp_path):
    path = write_nested(
        tmp_path / "x.parquet", t=pa.array(VECTORS[:, 0]), v=pa.array(VECTORS[:, :2].tolist())
    )
    dataset = table_file(path)
    assert dataset.event_names == ("t", "v[0]", "v[1]")
    together(dataset, VECTORS[:, [0, 0, 1]])


def test_lists_of_lists_are_pictures(tmp_path):
    path = write_nested(tmp_path / "x.parquet", v=pa.array(GRIDS.tolist()))
    dataset = table_file(path)
    assert dataset.event_shape == (1, 4, 6)
    together(dataset, GRIDS[:, None])


@pytest.mark.parametrize("where", ["bytes", "path"])
def test_structs_of_bytes_and_path_are_pictures(tmp_path, where):
    images = [{"bytes": png(pixels), "path": None} for pixels in PICTURES]
    if where == "path":
        for row, image in enumerate(images):
            (tmp_path / f"{row}.png").write_bytes(image["bytes"])
        images = [{"bytes": None, "path": f"{row}.png"} for row in range(len(images))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(images, kind), "label": pa.array(LABELS)}
    path = write_nested(tmp_path / "x.parquet", **columns)
    dataset = table_file(path, label="label")
    assert (dataset.event_shape, dataset.support, dataset.levels) == ((3, 6, 5), "integers", 256)
    together(dataset, np.moveaxis(PICTURES, -1, 1))
    rows = READERS["table_file"](path)
    assert rows.values.shape == (12, 3, 6, 5)
    assert rows.notes == ("column 'label' left out: the data are 'image'.",)
    other = write_nested(tmp_path / "y.parquet", image=columns["image"], age=pa.array(range(12)))
    with pytest.raises(ValueError, match=r"'age' beside it .*--data.label age.*--data.drop age"):
        table_file(other)
    assert table_file(other, drop="age").event_shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.5]] * 11 + [[1.0, 2.5]], "is a list column whose lists have from 1 to 2 elements"),
        ([[True, None]] * 12, "is a list column of NoneType, not of numbers"),
        ([["a"]] * 12, "is a list column of str.*, not of numbers"),
        ([[[1.0], [2.0, 3.0]]] * 12, "is a list column whose lists of lists differ in length"),
        ([[1.0]] * 11 + [None], "has no value in row 12"),
        ([{"x": 1, "y": 2}] * 12, "is a struct column with the fields x, y: .*--data.drop v"),
        ([{"bytes": b"no", "path": None}] * 12, "v, row 1 is damaged or not an image"),
        (
            [{"bytes": png(p), "path": None} for p in (*PICTURES[:11], PICTURES[0, :4])],
            "v, row 1 has 5 x 6 pixels and v, row 12 has 5 x 4",
        ),
    ],
)
def test_other_nested_columns_are_named(tmp_path, values, message):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"v": values}).to_parquet(path)
    with pytest.raises(ValueError, match=message) as caught:
        table_file(path)
    assert str(path) in str(caught.value)


def test_a_number_among_lists_is_refused():
    table = pd.DataFrame({"v": [*[[1.5, 2.0]] * 11, 3]})
    with pytest.raises(
        ValueError, match="'v' is a list column that also holds values of type int"
    ):
        frame_rows(table)
