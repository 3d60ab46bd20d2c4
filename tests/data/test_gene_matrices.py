"""`tenx_file` and `matrix_market_file`: files of genes by cells, good and bad."""

import gzip

import h5py
import numpy as np
import pytest
from scipy import io, sparse

from pyro_vae.data import READERS, loader_for_path, matrix_market_file, tenx_file
from pyro_vae.data.cell_files import matrix_market_rows, tenx_rows

CELLS = np.random.default_rng(0).poisson(0.7, (30, 5))
GENES = ["Cd4", "Actb", "Actb", "Xist", "CD3_protein"]
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
        tables = {"name": GENES, "id": IDS, "feature_type": TYPES}
        parts |= {f"features/{key}": np.array(words, "S") for key, words in tables.items()}
    else:
        parts |= {"gene_names": np.array(GENES, "S"), "genes": np.array(IDS, "S")}
    with h5py.File(path, "w") as file:
        for name, values in (parts | changes).items():
            file[f"{'matrix' if version == 3 else 'mm10'}/{name}"] = values
    return path


def write_folder(folder, prefix="", genes="features.tsv", end=".gz", lines=5):
    folder.mkdir()
    io.mmwrite(folder / "m.mtx", sparse.coo_matrix(CELLS.T))
    table = zip(IDS, GENES, TYPES, strict=True)
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
