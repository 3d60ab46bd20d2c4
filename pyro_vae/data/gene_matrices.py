"""Counts of genes in cells: files and folders of 10x Genomics, and Matrix Market files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.reader_helpers import (
    BoundedText,
    CellSupport,
    UnreadableError,
    beside,
    cell_support,
    checked,
    open_binary,
    read_array,
    read_text,
    reading,
    require_room,
    unique_names,
)
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.units import ScaleKind

_GENES = "Gene Expression"


def tenx_file(
    path: str | Path,
    features: str | None = None,
    genome: str | None = None,
    support: CellSupport | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Counts from a `.h5` of CellRanger, version 2 or 3 and later, one cell a datum.

    The file holds genes by cells; rows are cells. `event_names` are the genes' names, a repeated one
    with its id.

    Args:
        path: The file.
        features: The type of features to take: without, "Gene Expression" or the only one.
        genome: The genome to take, of a file of version 2 with several.
        support: "counts" for counts that are all 0 or 1, which otherwise are binary; real for values
            with a fraction.
        group: A .npy, .csv or .txt file that holds a group for each row, such as a patient or site:
            all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.

    Raises:
        ValueError: If the file cannot be read, has no such features, or a choice must be made.
        ImportError: If h5py cannot be imported.
    """
    rows = tenx_rows(path, features, genome, support)
    with named(Path(path)):
        return Dataset.from_rows(beside(rows, group, split))


def tenx_rows(
    path: str | Path,
    features: str | None = None,
    genome: str | None = None,
    support: CellSupport | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Rows:
    """The cells of a `.h5` of CellRanger, with the arguments of `tenx_file`.

    Groups and splits are not read.
    """
    from scipy import sparse

    path = Path(path)
    with reading(path, "a .h5 file of CellRanger", "h5py"):
        import h5py

        with h5py.File(path, "r") as file:
            root: Any = file[_genome(file, genome)]
            data, indices, indptr, shape = (
                read_array(root[name], name) for name in ("data", "indices", "indptr", "shape")
            )
            new = "features" in root
            places = ("features/name", "features/id") if new else ("gene_names", "genes")
            names, ids, barcodes = (
                read_array(root[place], place).tolist() for place in (*places, "barcodes")
            )
            place = "features/feature_type"
            types = read_array(root[place], place).tolist() if place in root else None
        genes, cells = (int(length) for length in shape)
        if not (len(names) == len(ids) == genes and len(barcodes) == cells):
            raise UnreadableError(
                f"{len(names)} names and {len(barcodes)} barcodes do not fit a matrix of {genes} genes "
                f"by {cells} cells."
            )
        # Columns of genes by cells are rows of cells by genes.
        matrix = checked(sparse.csr_array((data, indices, indptr), shape=(cells, genes)))
        return _cells(path, matrix, support, barcodes, names, ids, types, features)


def matrix_market_file(
    path: str | Path,
    transpose: bool | None = None,
    features: str | None = None,
    support: CellSupport | None = None,
    scale: ScaleKind = "standard",
    group: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Counts or real values from a Matrix Market file, `.mtx` or `.mtx.gz`, or a folder with one.

    Beside a `matrix.mtx` of single cells lie `barcodes.tsv` and `features.tsv` or `genes.tsv`, each
    perhaps with `.gz` and all with one prefix. They name cells and genes.

    Args:
        path: The file, or the folder that holds it.
        transpose: Whether columns are data, as in a file of genes by cells; if null, where `barcodes.tsv`
            lies beside it.
        features: The type of features to take: without, "Gene Expression" or the only one.
        support: What the values are, where they do not say it themselves: binary, counts, unit or
            real.
        scale: How elements of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the data's own units.
        group: A .npy, .csv or .txt file that holds a group for each row, such as a patient or site:
            all rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is taken for it.

    Raises:
        ValueError: If files cannot be read, do not belong together, or hold values with a fraction
            and `support` does not say that they are real.

    References:
        The Matrix Market exchange formats (Boisvert, Pozo & Remington, 1996),
        https://math.nist.gov/MatrixMarket/reports/MMformat.ps
    """
    rows = matrix_market_rows(path, transpose, features, support)
    with named(Path(path)):
        return Dataset.from_rows(beside(rows, group, split), scale=scale)


def matrix_market_rows(
    path: str | Path,
    transpose: bool | None = None,
    features: str | None = None,
    support: CellSupport | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Rows:
    """The rows of a Matrix Market file, with the arguments of `matrix_market_file`.

    Groups and splits are not read.
    """
    from scipy import io

    path = Path(path)
    with reading(path, "a Matrix Market file (.mtx or .mtx.gz), or a folder with one"):
        file = _matrix_market(path) if path.is_dir() else path
        with open_binary(file) as stream:
            rows, columns, entries, form, *_ = io.mminfo(BoundedText(stream, 2**20))
        itemsize = 8 if form == "array" else 24
        require_room((rows, columns) if form == "array" else (entries,), itemsize, file.name)
        length = 2**20 + 120 * (rows * columns if form == "array" else entries)
        with open_binary(file) as stream:
            matrix: Any = io.mmread(BoundedText(stream, length))
        barcodes, genes = _beside(file, "barcodes"), _beside(file, "features", "genes")
        chosen = transpose is not None
        if transpose is None:
            transpose = barcodes is not None
        matrix = matrix.T if transpose else matrix
        matrix = matrix if isinstance(matrix, np.ndarray) else checked(matrix)
        cells = [line[0] for line in read_text(barcodes, matrix.shape[0])] if barcodes else ()
        table = read_text(genes, matrix.shape[1]) if genes else []
        names = [line[min(1, len(line) - 1)] for line in table]
        types = [line[2] for line in table] if table and len(table[0]) > 2 else None
        ids = [line[0] for line in table]
        found = _cells(path, matrix, support, cells, names, ids, types, features)
    if chosen or barcodes or genes:
        return found
    rows, columns = matrix.shape
    note = (
        f"the {rows} rows of the file are the data, of {columns} columns each; if its columns are the cells: "
        "--data.transpose true."
    )
    return replace(found, notes=(*found.notes, note))


def _cells(
    path: Path,
    matrix: Any,
    support: CellSupport | None,
    barcodes: Sequence[str],
    names: Sequence[str],
    ids: Sequence[str],
    types: Sequence[str] | None,
    features: str | None,
) -> Rows:
    """Rows of cells by features, of the type that is asked for."""
    notes = ()
    names = unique_names(names, ids)
    if features is not None and types is None:
        raise UnreadableError(
            f"there are no types of features, of which {features!r} could be one."
        )
    if types is not None and len(names):
        counted = {
            str(kind): int(n)
            for kind, n in zip(*np.unique(types, return_counts=True), strict=True)
        }
        chosen = features or (_GENES if _GENES in counted else next(iter(counted)))
        listed = ", ".join(f"{n} of type {kind!r}" for kind, n in counted.items())
        if chosen not in counted or (
            features is None and _GENES not in counted and len(counted) > 1
        ):
            raise UnreadableError(
                f"there are features {listed}: name one type with features (--data.features)."
            )
        kept = np.flatnonzero(np.asarray(types) == chosen)
        if len(kept) < len(names):
            notes = (f"of features {listed} those of type {chosen!r} are data (--data.features).",)
            matrix, names = matrix[:, kept], tuple(names[index] for index in kept)
    kind = cell_support(matrix, support)
    if kind is None:
        raise UnreadableError(
            "values are not whole numbers of 0 or more, as counts are: take the raw counts, or say "
            "with support that these are real (--data.support real)."
        )
    return Rows(
        matrix,
        name=path.name.split(".")[0],
        event_names=tuple(names),
        support=kind,
        source=path,
        notes=notes,
        row_names=tuple(barcodes),
        noun="cell",
    )


def _genome(file: Any, genome: str | None) -> str:
    """The group of a CellRanger file that holds the matrix."""
    groups = _matrices(file)
    if genome is not None and genome in groups:
        return genome
    if genome is None and len(groups) == 1:
        return groups[0]
    raise UnreadableError(
        f"genomes to name with genome (--data.genome) are: {', '.join(groups) or 'none'}."
    )


def _matrices(file: Any) -> list[str]:
    """The groups of a CellRanger file that hold a matrix: one of version 3, one a genome of 2."""
    # An array has no keys.
    groups = {name: getattr(file[name], "keys", tuple)() for name in file}
    return [name for name, keys in groups.items() if {"barcodes", "indptr"} <= set(keys)]


def is_tenx(path: str | Path) -> bool:
    """Whether a `.h5` file holds a matrix as CellRanger writes it."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            return bool(_matrices(file))
    # Another's file, or a package that the loader will name.
    except (ImportError, OSError, RuntimeError, LookupError, TypeError, ValueError):
        return False


def matrix_market_in(folder: str | Path) -> list[Path]:
    """The Matrix Market files of a folder."""
    endings = (".mtx", ".mtx.gz")
    return sorted(p for p in Path(folder).iterdir() if p.name.lower().endswith(endings))


def _matrix_market(folder: Path) -> Path:
    """The one Matrix Market file of a folder."""
    files = matrix_market_in(folder)
    if len(files) != 1:
        raise UnreadableError(
            f"there must be one .mtx file in the folder, got {len(files)}: name the file instead."
        )
    return files[0]


def _beside(file: Path, *kinds: str) -> Path | None:
    """The file beside `PREFIXmatrix.mtx` that names its rows or columns."""
    prefix, found, _ = file.name.lower().rpartition("matrix.mtx")
    if not found:
        return None
    names = {f"{prefix}{kind}.tsv{end}" for kind in kinds for end in ("", ".gz")}
    return next((p for p in sorted(file.parent.iterdir()) if p.name.lower() in names), None)
