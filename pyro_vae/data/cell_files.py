"""Files of single cells: AnnData, 10x Genomics and Matrix Market."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.array_files import file_loader
from pyro_vae.data.rows import (
    Rows,
    TextStream,
    UnreadableError,
    open_binary,
    prefix_errors,
    read_errors,
    read_node,
    read_table,
    refuse_zarr_pickles,
    require_file_memory,
    require_node_memory,
    unique_names,
)
from pyro_vae.data.sparse_rows import (
    CellSupport,
    are_counts,
    canonical_csr,
    count_support,
    stored_values,
)

_GENES = "Gene Expression"


def anndata_rows(
    path: str | Path,
    layer: str | None = None,
    label: str | None = None,
    group: str | None = None,
    split: str | None = None,
    support: CellSupport | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read counts or real values from an AnnData file, `.h5ad` or `.zarr`, one observation a row.

    Whole numbers of any type are counts. Normalised values, such as log(1 + x) of shares of a
    cell's total, are accepted only as real (`support`). `event_names` are the variables' names,
    repeated ones with their id. Categorical labels keep their names and order.

    Args:
        path: The file.
        layer: The layer to read instead of X; "raw" is `.raw`.
        label: The column of `.obs` that holds the labels.
        group: The column of `.obs` whose equal entries go into one split: a donor, a batch.
        split: The column of `.obs` that says train, validation or test.
        support: The support, if the values do not determine it: binary, counts, unit or real.
        new: Read new data for a trained model, which may lack these columns.

    Raises:
        ValueError: If the file cannot be read, has no such layer or column, or holds fractions
            that `support` does not declare as real.
        ImportError: If anndata cannot be imported.

    References:
        anndata: Access and store annotated data matrices (Virshup et al., 2024),
        https://doi.org/10.21105/joss.04371
    """
    path = Path(path)
    packages = "anndata zarr" if os.path.isdir(path) else "anndata"
    with read_errors(path, "an AnnData file (.h5ad or .zarr)", packages), _open(path) as file:
        places = {"X": "X", "raw": "raw/X"}
        places |= {name: f"layers/{name}" for name in file.get("layers", ())}
        matrices = {
            name: partial(_read_element, file, place)
            for name, place in places.items()
            if place in file and file[place].attrs.get("encoding-type") != "null"
        }
        obs = _read_element(file, "obs")
        rows = _observations(
            matrices,
            obs,
            lambda key: _read_element(file, "raw/var" if key == "raw" else "var"),
            layer=layer,
            label=label,
            support=support,
            name=path.stem,
            source=path,
        )
    if new:
        return rows
    for column in (label, group, split):
        if column is not None and column not in obs:
            raise ValueError(f"{path}: {_missing_column(obs, column)}")
    groups, splits = (None if key is None else obs[key].to_numpy() for key in (group, split))
    return replace(rows, groups=groups, splits=splits)


anndata_file = file_loader("anndata_file", anndata_rows)


def anndata_object_rows(data: Any, *, name: str = "array", **options: Any) -> Rows:
    """The observations of an AnnData object; values that are not counts are real, with a note.

    Args:
        data: The AnnData.
        name: Its name in messages.
        **options: The layer, label and support as for `anndata_rows`.
    """
    data = data.to_memory() if data.isbacked else data
    matrices = {} if data.X is None else {"X": lambda: data.X}
    if data.raw is not None:
        matrices["raw"] = lambda: data.raw.X
    matrices |= {key: partial(data.layers.__getitem__, key) for key in data.layers}
    return _observations(
        matrices,
        data.obs,
        lambda key: data.raw.var if key == "raw" else data.var,
        name=name,
        **options,
    )


def _observations(
    matrices: Mapping[str, Callable[[], Any]],
    obs: Any,
    var: Callable[[str], Any],
    *,
    layer: str | None = None,
    label: str | None = None,
    support: CellSupport | None = None,
    name: str,
    source: Path | None = None,
) -> Rows:
    """The rows of X or a layer, from functions that read matrices and variables by name."""
    key = "X" if layer is None else layer
    if key not in matrices:
        raise UnreadableError(
            f"there is no {'X' if layer is None else f'layer {layer!r}'}; layers to name with "
            f"layer (--data.layer) are: {', '.join(sorted(matrices.keys() - {'X'})) or 'none'}."
        )
    values = _to_array_or_csr(matrices[key]())
    kind = count_support(values, support)
    notes = ()
    if kind is None:
        reason = _why_not_counts(matrices, key, values)
        if source is not None or support is not None:
            raise UnreadableError(
                f"{reason} Name it with layer (--data.layer), or say with support that the "
                "values are real (--data.support real)."
            )
        kind, notes = "real", (f"{reason} Taken as real.",)
    if label is not None and label not in obs:
        notes = (*notes, _missing_column(obs, label))
    table = var(key)
    ids = table["gene_ids"].astype(str).tolist() if "gene_ids" in table else ()
    return Rows(
        values,
        name=name,
        labels=obs.get(label),
        event_names=unique_names(table.index.astype(str).tolist(), ids),
        support=kind,
        source=source,
        notes=notes,
        row_names=tuple(obs.index.astype(str)),
        noun="cell",
    )


def _missing_column(obs: Any, name: str) -> str:
    return f"there is no column {name!r} in obs; there are {', '.join(map(str, obs)) or 'none'}."


def _to_array_or_csr(values: Any) -> Any:
    return canonical_csr(values, "the matrix") if hasattr(values, "tocsr") else np.asarray(values)


def _why_not_counts(matrices: Mapping[str, Callable[[], Any]], key: str, values: Any) -> str:
    entries = stored_values(values)
    whole = [
        name
        for name, read in matrices.items()
        if name not in ("X", key) and are_counts(_to_array_or_csr(read()))
    ]
    where = f"whole numbers are in {', '.join(whole)}" if whole else "here none is whole numbers"
    return (
        f"{key} is not counts: its values, from {entries.min(initial=0):g} to "
        f"{entries.max(initial=0):g}, have fractions or are below 0, as after normalisation "
        f"(log1p). Raw counts are usually in .raw or a layer: {where}."
    )


def is_anndata(folder: str | Path) -> bool:
    """Whether a Zarr folder was written by anndata."""
    files = (Path(folder) / name for name in (".zattrs", "zarr.json"))
    try:
        return any(b'"anndata"' in file.read_bytes() for file in files if file.is_file())
    except OSError:
        return False


def _read_element(file: Any, place: str) -> Any:
    from anndata.io import read_elem

    require_node_memory(file[place], place)
    return read_elem(file[place])


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import anndata as _  # noqa: F401

    if path.is_dir():
        import zarr

        refuse_zarr_pickles(path)
        yield zarr.open_group(path, mode="r")
        return
    import h5py

    with h5py.File(path, "r") as file:
        yield file


def tenx_rows(
    path: str | Path,
    features: str | None = None,
    genome: str | None = None,
    support: CellSupport | None = None,
    group: str | None = None,
    split: str | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read counts from a CellRanger `.h5` file, version 2 or later, one cell a row.

    The file holds genes by cells; rows are cells. `event_names` are the genes' names, repeated
    ones with their id.

    Args:
        path: The file.
        features: The type of features to use: by default "Gene Expression" or the only one.
        genome: The genome to use, of a file of version 2 with several.
        support: "counts" for counts that are all 0 or 1, which are binary by default; real for
            values with a fraction.
        group: A .npy, .csv or .txt file with a group for each row, such as a patient or site: all
            rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is used.
        new: Read new data for a trained model, whose groups and splits are not used.

    Raises:
        ValueError: If the file cannot be read, has no such features, or a choice is necessary.
        ImportError: If h5py cannot be imported.
    """
    from scipy import sparse

    path = Path(path)
    with read_errors(path, "a .h5 file of CellRanger", "h5py"):
        import h5py

        with h5py.File(path, "r") as file:
            genomes = [name for name in _matrix_groups(file) if genome in (None, name)]
            if len(genomes) != 1:
                raise UnreadableError(
                    "genomes to name with genome (--data.genome) are: "
                    f"{', '.join(_matrix_groups(file)) or 'none'}."
                )
            root: Any = file[genomes[0]]
            versioned = "features" in root
            places = ("features/name", "features/id") if versioned else ("gene_names", "genes")
            arrays = ("data", "indices", "indptr", "shape", *places, "barcodes")
            data, indices, indptr, shape, names, ids, barcodes = (
                read_node(root[place], place) for place in arrays
            )
            place = "features/feature_type"
            types = read_node(root[place], place).tolist() if place in root else None
        genes, cells = (int(length) for length in shape)
        if not (len(names) == len(ids) == genes and len(barcodes) == cells):
            raise UnreadableError(
                f"{len(names)} names and {len(barcodes)} barcodes do not fit a matrix of {genes} "
                f"genes by {cells} cells."
            )
        matrix = sparse.csr_array((data, indices, indptr), shape=(cells, genes))
        matrix = canonical_csr(matrix, "the matrix")
        names, ids, barcodes = names.tolist(), ids.tolist(), barcodes.tolist()
        rows = _cells(path, matrix, support, barcodes, names, ids, types, features)
    with prefix_errors(path):
        return rows if new else rows.with_files(group, split)


tenx_file = file_loader("tenx_file", tenx_rows, scaled=False)


def matrix_market_rows(
    path: str | Path,
    transpose: bool | None = None,
    features: str | None = None,
    support: CellSupport | None = None,
    group: str | None = None,
    split: str | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read counts or real values from a `.mtx` or `.mtx.gz` file, or a folder with one.

    A `matrix.mtx` of single cells is accompanied by `barcodes.tsv` and `features.tsv` or
    `genes.tsv`, which name cells and genes, each perhaps with `.gz` and all with one prefix.

    Args:
        path: The file, or the folder that holds it.
        transpose: Whether columns are examples, as in a file of genes by cells; if null, where
            there is a `barcodes.tsv`.
        features: The type of features to use: by default "Gene Expression" or the only one.
        support: The support, if the values do not determine it: binary, counts, unit or real.
        group: A .npy, .csv or .txt file with a group for each row, such as a patient or site: all
            rows of a group go into one split.
        split: The same, with one of the words train, validation and test for each row. Without
            validation rows, a tenth of the training rows is used.
        new: Read new data for a trained model, whose groups and splits are not used.

    Raises:
        ValueError: If files cannot be read, do not belong together, or hold fractions that
            `support` does not declare as real.

    References:
        The Matrix Market exchange formats (Boisvert, Pozo & Remington, 1996),
        https://math.nist.gov/MatrixMarket/reports/MMformat.ps
    """
    from scipy import io

    path = Path(path)
    with read_errors(path, "a Matrix Market file (.mtx or .mtx.gz), or a folder with one"):
        files = find_matrix_market(path) if path.is_dir() else [path]
        if len(files) != 1:
            raise UnreadableError(f"name the file: there must be one .mtx, got {len(files)}.")
        (file,) = files
        with open_binary(file) as stream:
            n_rows, n_columns, entries, form, *_ = io.mminfo(TextStream(stream))
        dense = form == "array"
        shape = (n_rows, n_columns) if dense else (entries,)
        require_file_memory(shape, 8 if dense else 24, file.name)
        with open_binary(file) as stream:
            matrix: Any = io.mmread(TextStream(stream))
        barcodes = _companion(file, "barcodes")
        genes = _companion(file, "features", "genes")
        transposed = barcodes is not None if transpose is None else transpose
        matrix = _to_array_or_csr(matrix.T if transposed else matrix)
        cells = [line[0] for line in read_table(barcodes, matrix.shape[0])] if barcodes else ()
        table = read_table(genes, matrix.shape[1]) if genes else []
        names = [line[min(1, len(line) - 1)] for line in table]
        types = [line[2] for line in table] if table and len(table[0]) > 2 else None
        ids = [line[0] for line in table]
        rows = _cells(path, matrix, support, cells, names, ids, types, features)
    if transpose is None and not barcodes and not genes:
        note = (
            f"the {matrix.shape[0]} rows of the file are the data, of {matrix.shape[1]} columns "
            "each; if its columns are the cells: --data.transpose true."
        )
        rows = replace(rows, notes=(*rows.notes, note))
    with prefix_errors(path):
        return rows if new else rows.with_files(group, split)


matrix_market_file = file_loader("matrix_market_file", matrix_market_rows)


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
    notes = ()
    names = unique_names(names, ids)
    if features is not None and types is None:
        raise UnreadableError(
            f"there are no types of features, of which {features!r} could be one."
        )
    if types is not None and len(names):
        counted = Counter(map(str, sorted(types)))
        chosen = features or (_GENES if _GENES in counted else next(iter(counted)))
        listed = ", ".join(f"{n} of type {kind!r}" for kind, n in counted.items())
        ambiguous = features is None and _GENES not in counted and len(counted) > 1
        if chosen not in counted or ambiguous:
            raise UnreadableError(
                f"there are features {listed}: name one type with features (--data.features)."
            )
        columns = np.flatnonzero(np.asarray(types) == chosen)
        if len(columns) < len(names):
            notes = (f"of features {listed} those of type {chosen!r} are data (--data.features).",)
            matrix, names = matrix[:, columns], tuple(names[index] for index in columns)
    kind = count_support(matrix, support)
    if kind is None:
        raise UnreadableError(
            "values are not whole numbers of 0 or more, as counts are: use the raw counts, or say "
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


def _matrix_groups(file: Any) -> list[str]:
    """The groups of a CellRanger file with a matrix: one in version 3, one a genome in 2."""
    # An array has no keys.
    groups = {name: getattr(file[name], "keys", tuple)() for name in file}
    return [name for name, keys in groups.items() if {"barcodes", "indptr"} <= set(keys)]


def is_tenx(path: str | Path) -> bool:
    """Whether a `.h5` file holds a matrix as CellRanger writes it."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            return bool(_matrix_groups(file))
    except (ImportError, OSError, RuntimeError, LookupError, TypeError, ValueError):
        return False


def find_matrix_market(folder: str | Path) -> list[Path]:
    """The Matrix Market files of a folder."""
    endings = (".mtx", ".mtx.gz")
    return sorted(p for p in Path(folder).iterdir() if p.name.lower().endswith(endings))


def _companion(file: Path, *kinds: str) -> Path | None:
    """The file beside `PREFIXmatrix.mtx` that names its rows or columns."""
    prefix, found, _ = file.name.lower().rpartition("matrix.mtx")
    if not found:
        return None
    names = {f"{prefix}{kind}.tsv{end}" for kind in kinds for end in ("", ".gz")}
    return next((p for p in sorted(file.parent.iterdir()) if p.name.lower() in names), None)
