"""Parquet files whose columns hold lists, lists of lists or pictures."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pyro_vae.data import READERS, table_file
from pyro_vae.data.tables import frame_rows

RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(12, 5))
GRIDS = RANDOM.normal(size=(12, 4, 6))
PICTURES = RANDOM.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = ["a", "b"] * 6


def png(pixels):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def write(path, **columns):
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
    path = write(tmp_path / "x.parquet", v=column, kind=pa.array(LABELS))
    dataset = table_file(path, label="kind")
    assert (dataset.event_shape, dataset.event_names, dataset.label_names) == (
        (5,),
        (),
        ("a", "b"),
    )
    together(dataset, VECTORS)


def test_list_columns_beside_others_are_columns(tmp_path):
    path = write(
        tmp_path / "x.parquet", t=pa.array(VECTORS[:, 0]), v=pa.array(VECTORS[:, :2].tolist())
    )
    dataset = table_file(path)
    assert dataset.event_names == ("t", "v[0]", "v[1]")
    together(dataset, VECTORS[:, [0, 0, 1]])


def test_lists_of_lists_are_pictures(tmp_path):
    path = write(tmp_path / "x.parquet", v=pa.array(GRIDS.tolist()))
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
    path = write(tmp_path / "x.parquet", **columns)
    dataset = table_file(path, label="label")
    assert (dataset.event_shape, dataset.support, dataset.levels) == ((3, 6, 5), "integers", 256)
    together(dataset, np.moveaxis(PICTURES, -1, 1))
    rows = READERS["table_file"](path)
    assert rows.values.shape == (12, 3, 6, 5)
    assert rows.notes == ("column 'label' left out: the data are 'image'.",)
    other = write(tmp_path / "y.parquet", image=columns["image"], age=pa.array(range(12)))
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
