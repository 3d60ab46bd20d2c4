"""AnnData, 10x Genomics and Matrix Market files."""

import gzip
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import io, sparse

from pyro_vae.data import READERS, anndata_file, loader_for_path, matrix_market_file, tenx_file
from pyro_vae.data.cell_files import (
    anndata_object_rows,
    anndata_rows,
    matrix_market_rows,
    tenx_rows,
)

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


CELLS = np.random.default_rng(0).poisson(0.7, (30, 5))
TENX_GENES = ["Cd4", "Actb", "Actb", "Xist", "CD3_protein"]
IDS = [f"ENS{gene}" for gene in range(5)]
TYPES = ["Gene Expression"] * 4 + ["Antibody Capture"]
BARCODES = [f"AAC{cell}-1" for cell in range(30)]
NAMED = ("Cd4", "Actb (ENS1)", "Actb (ENS2)", "Xist")


def write_tenx(path, version=3, **changes):
    """As CellRanger writes it: the columns of genes by cells are compressed."""
    matrix = sparse.csc_matrix(CELLS.T)
    parts = {
        "data": matrix.data.astype(np.int32),
        "indices": matrix.indices.astype(np.int64),
        "indptr": matrix.indptr.astype(np.int64),
        "shape": np.array(matrix.shape, np.int32),
        "barcodes": np.array(BARCODES, "S"),
    }
    if version == 3:
        tables = {"name": TENX_GENES, "id": IDS, "feature_type": TYPES}
        parts |= {f"features/{key}": np.array(words, "S") for key, words in tables.items()}
    else:
        parts |= {"gene_names": np.array(TENX_GENES, "S"), "genes": np.array(IDS, "S")}
    with h5py.File(path, "w") as file:
        for name, values in (parts | changes).items():
            file[f"{'matrix' if version == 3 else 'mm10'}/{name}"] = values
    return path


def write_folder(folder, prefix="", genes="features.tsv", end=".gz", lines=5):
    folder.mkdir()
    io.mmwrite(folder / "m.mtx", sparse.coo_matrix(CELLS.T))
    table = zip(IDS, TENX_GENES, TYPES, strict=True)
    files = {
        "matrix.mtx": (folder / "m.mtx").read_text(),
        "barcodes.tsv": "".join(f"{barcode}\n" for barcode in BARCODES),
        genes: "".join("\t".join(line) + "\n" for line in list(table)[:lines]),
    }
    (folder / "m.mtx").unlink()
    for name, text in files.items():
        content = text.encode()
        path = folder / f"{prefix}{name}{end}"
        path.write_bytes(gzip.compress(content) if end else content)
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_cellranger_files_are_turned_to_cells_by_genes(tmp_path, version):
    path = write_tenx(tmp_path / "mine.h5", version)
    assert loader_for_path(str(path)) == "tenx_file"
    rows = READERS["tenx_file"](path)
    genes = 4 if version == 3 else 5
    assert (rows.values.toarray() == CELLS[:, :genes]).all()
    assert rows.event_names == (*NAMED, "CD3_protein")[:genes]
    assert rows.row_names == tuple(BARCODES)
    assert tenx_file(path).support == "counts"
    if version == 3:
        assert "1 of type 'Antibody Capture', 4 of type 'Gene Expression'" in rows.notes[0]
        assert tenx_rows(path, features="Antibody Capture").event_names == ("CD3_protein",)


@pytest.mark.parametrize(("prefix", "end"), [("", ".gz"), ("", ""), ("GSM1_", ".gz")])
@pytest.mark.parametrize("genes", ["features.tsv", "genes.tsv"])
def test_folders_of_cellranger(tmp_path, prefix, end, genes):
    folder = write_folder(tmp_path / "mine", prefix, genes, end)
    for path in (folder, folder / f"{prefix}matrix.mtx{end}"):
        assert loader_for_path(str(path)) == "matrix_market_file"
        rows = matrix_market_rows(path)
        assert (rows.values.toarray() == CELLS[:, :4]).all()
        assert rows.event_names == NAMED
        assert rows.row_names == tuple(BARCODES)
    assert matrix_market_file(folder).support == "counts"


def test_a_matrix_alone_is_as_it_is_or_turned(tmp_path):
    path = tmp_path / "mine.mtx"
    io.mmwrite(path, sparse.coo_matrix(CELLS))
    assert (matrix_market_rows(path).values.toarray() == CELLS).all()
    (note,) = matrix_market_rows(path).notes
    assert "30 rows of the file are the data, of 5 columns each" in note
    turned = matrix_market_rows(path, transpose=True)
    assert (turned.values.shape, turned.notes) == ((5, 30), ())
    io.mmwrite(path, CELLS * 1.5)
    assert matrix_market_file(path, support="real").support == "real"
    with pytest.raises(ValueError, match=r"not whole numbers.*\(--data.support real\)"):
        matrix_market_file(path)


def test_one_new_cell(tmp_path):
    path = tmp_path / "mine.mtx"
    io.mmwrite(path, sparse.coo_matrix(CELLS[:1]))
    assert len(READERS["matrix_market_file"](path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features/feature_type": np.array(["Peaks"] * 3 + ["Guides"] * 2, "S")},
         r"2 of type 'Guides', 3 of type 'Peaks': name one type with features"),
        ({"barcodes": np.array(BARCODES[:9], "S")}, "9 barcodes do not fit a matrix of 5 genes by 30"),
        ({"indices": np.full((CELLS > 0).sum(), 77)}, "damaged or something else"),
        ({"data": np.zeros(3)}, "damaged or something else"),
    ],
)  # fmt: skip
def test_bad_cellranger_files(tmp_path, changes, message):
    path = write_tenx(tmp_path / "mine.h5", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        tenx_file(path)
    assert str(path) in str(caught.value)


def test_choices_that_are_not_there(tmp_path):
    path = write_tenx(tmp_path / "mine.h5", 2)
    with pytest.raises(ValueError, match=r"genome \(--data.genome\) are: mm10"):
        tenx_file(path, genome="hg19")
    with pytest.raises(ValueError, match="there are no types of features"):
        tenx_file(path, features="Peaks")
    with h5py.File(path, "r+") as file:
        file.copy("mm10", "hg19")
    with pytest.raises(ValueError, match=r"\(--data.genome\) are: hg19, mm10"):
        tenx_file(path)
    assert len(tenx_rows(path, genome="mm10")) == 30


@pytest.mark.parametrize("kind", ["missing", "text", "huge", "rows", "zero", "two", "lines"])
def test_bad_matrix_market_files(tmp_path, kind):
    folder = write_folder(tmp_path / "mine", lines=4 if kind == "lines" else 5)
    path = folder / "matrix.mtx.gz"
    first = "%%MatrixMarket matrix coordinate integer general\n"
    content = {
        "text": "1 2 3",
        "huge": f"{first}5 30 {10**15}\n1 1 1\n",
        "rows": f"{first}5 {10**15} 1\n1 1 1\n",
        # SciPy 1.17 ends the process at a zero byte for the end of a line.
        "zero": f"{first}5 30 2\n1 1 1\0 1 2 1\n",
    }
    if kind in content:
        path.write_bytes(gzip.compress(content[kind].encode()))
    elif kind == "missing":
        path = folder / "none.mtx"
    elif kind == "two":
        (folder / "second.mtx").write_text("")
        path = folder
    said = r"no such file|damaged|this machine has|null bytes|one .mtx|different files"
    with pytest.raises(ValueError, match=said) as caught:
        matrix_market_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
