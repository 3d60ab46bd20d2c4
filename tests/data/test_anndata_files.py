"""`anndata_file`: files that anndata wrote, good and bad."""

import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from pyro_vae.data import READERS, anndata_file, loader_for_path
from pyro_vae.data.cell_files import anndata_object_rows, anndata_rows

# anndata warns of its own changes while it is imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import anndata

# GENES has one name twice, as gene symbols have.
pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")

COUNTS = np.random.default_rng(0).poisson(0.7, (40, 6))
LOGS = np.log1p(COUNTS / 3).astype(np.float32)
KINDS = pd.Categorical(["T", "B", "T", None] * 10, categories=["T", "NK", "B"])
GENES = ["Cd4", "Cd8", "Actb", "Actb", "Xist", "Gapdh"]


def cells(values=None, **parts) -> "anndata.AnnData":
    obs = pd.DataFrame(
        {
            "kind": KINDS,
            "donor": ["a", "b"] * 20,
            "day": np.arange(40) % 3,
            "part": ["train", "test", "train", "validation"] * 10,
        },
        index=[f"cell{row}" for row in range(40)],
    )
    var = pd.DataFrame({"gene_ids": [f"ENS{gene}" for gene in range(6)]}, index=GENES)
    values = sparse.csr_matrix(COUNTS.astype(np.float32)) if values is None else values
    return anndata.AnnData(values, obs=obs, var=var, **parts)


@pytest.fixture
def write(tmp_path):
    def written(data: "anndata.AnnData", name: str = "mine.h5ad"):
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.write_zarr(path) if name.endswith("zarr") else data.write_h5ad(path)
        return path

    return written


@pytest.mark.parametrize("name", ["mine.h5ad", "mine.zarr"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_whole_numbers_of_any_type_are_counts(write, name, form, dtype):
    path = write(cells(form(COUNTS.astype(dtype))), name)
    assert loader_for_path(str(path)) == "anndata_file"
    rows = READERS["anndata_file"](path, label="kind")
    values = rows.values.toarray() if sparse.issparse(rows.values) else rows.values
    assert sparse.issparse(rows.values) == (form is not np.asarray)
    assert (values == COUNTS).all()
    assert rows.support == "counts"
    assert rows.row_names[:2] == ("cell0", "cell1")
    assert rows.event_names == ("Cd4", "Cd8", "Actb (ENS2)", "Actb (ENS3)", "Xist", "Gapdh")
    dataset = anndata_file(path, label="kind")
    # The order of categories, those without a cell among them; -1 is no label.
    assert dataset.label_names == ("T", "NK", "B")
    where = {row: place for place, row in enumerate(dataset.rows["train"].tolist())}
    found = {row % 4: dataset.labels["train"][place].item() for row, place in where.items()}
    assert found == {0: 0, 1: 2, 2: 0, 3: -1}


def test_a_data_set(write):
    dataset = anndata_file(write(cells()), label="day")
    assert (dataset.name, dataset.support) == ("mine", "counts")
    assert dataset.train.dtype == torch.uint8
    together = torch.cat([dataset.split(split) for split in ("train", "validation", "test")])
    assert sorted(together.tolist()) == sorted(COUNTS.tolist())
    # Three days, in equal shares.
    assert torch.equal(dataset.labels["train"], dataset.rows["train"] % 3)


def test_normalised_values_are_real_only_when_asked(write):
    raw = cells()
    data = cells(LOGS, layers={"umi": COUNTS, "scaled": LOGS * 2})
    data.raw = raw
    path = write(data)
    said = r"X is not counts.*in raw, umi\. .*--data.layer.*--data.support real\)"
    with pytest.raises(ValueError, match=said) as caught:
        anndata_file(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="scaled is not counts"):
        anndata_file(path, layer="scaled", support="counts")
    real = anndata_file(path, support="real")
    assert real.support == "real"
    assert np.allclose(real.train, LOGS[real.rows["train"]])
    for layer in ("umi", "raw"):
        counts = anndata_file(path, layer=layer)
        assert (counts.train.numpy() == COUNTS[counts.rows["train"]]).all()


def test_raw_has_genes_of_its_own(write):
    data = cells()[:, :4].copy()
    data.raw = cells()
    data.X = sparse.csr_matrix(LOGS[:, :4])
    path = write(data)
    assert len(anndata_rows(path, layer="raw").event_names) == 6
    with pytest.raises(ValueError, match=r"in raw\. .*--data.layer"):
        anndata_file(path)


def test_groups_and_splits_of_columns(write):
    rows = anndata_rows(write(cells()), group="donor", split="part", new=False)
    assert rows.groups[:3].tolist() == ["a", "b", "a"]
    assert rows.splits[:4].tolist() == ["train", "test", "train", "validation"]
    dataset = anndata_file(write(cells()), split="part")
    assert [len(dataset.split(split)) for split in ("train", "validation", "test")] == [20, 10, 10]


def test_an_object_in_memory(write):
    data = cells(sparse.csc_matrix(COUNTS.astype(np.float32)), layers={"logs": LOGS})
    data.raw = data
    for given in (data, data[:30], anndata.read_h5ad(write(data), backed="r")):
        rows = anndata_object_rows(given, label="kind")
        assert (rows.values.toarray() == COUNTS[: len(given)]).all()
        assert rows.label_names == ()
        # anndata drops categories of which a part of its rows has none.
        names = ["T", "NK", "B"] if len(given) == 40 else ["T", "B"]
        assert rows.labels.cat.categories.tolist() == names
        assert anndata_object_rows(given, layer="raw").event_names == rows.event_names
        logs = anndata_object_rows(given, layer="logs")
        assert logs.support == "real"
        assert "logs is not counts" in logs.notes[0]
        assert "whole numbers are in raw." in logs.notes[0]
        with pytest.raises(ValueError, match="logs is not counts"):
            anndata_object_rows(given, layer="logs", support="counts")


def test_new_cells_may_be_one_without_labels(write):
    one = cells()[:1].copy()
    del one.obs["kind"]
    rows = anndata_rows(write(one), label="kind")
    assert rows.values.shape == (1, 6)
    assert rows.labels is None
    assert "there is no column 'kind' in obs; there are donor, day, part" in rows.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "type"}, "no column 'type' in obs; there are kind, donor, day, part"),
        ({"group": "patient"}, "no column 'patient' in obs"),
        ({"split": "fold"}, "no column 'fold' in obs"),
        ({"layer": "counts"}, r"no layer 'counts'; .*\(--data.layer\) are: none"),
    ],
)
def test_what_is_not_there_is_named(write, options, message):
    path = write(cells())
    with pytest.raises(ValueError, match=message) as caught:
        anndata_file(path, **options)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "other", "indices", "huge"])
def test_damaged_files_are_refused_in_one_line(write, kind):
    path = write(cells())
    if kind == "missing":
        path.unlink()
    elif kind in ("empty", "text", "cut"):
        path.write_bytes({"empty": b"", "text": b"1,2", "cut": path.read_bytes()[:5000]}[kind])
    else:
        with h5py.File(path, "r+") as file:
            if kind == "other":
                del file["var"]
            elif kind == "indices":
                file["X/indices"][3] = 10**6
            else:
                del file["X"]
                file.create_dataset("X", (2**30, 2**20), "f4", chunks=True, compression="gzip")
    with pytest.raises(ValueError, match=r"no such file|damaged|more than this machine") as caught:
        anndata_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
