"""Cells or other observations, as AnnData holds them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.reading import (
    CellSupport,
    UnreadableError,
    are_counts,
    as_counts,
    cell_support,
    check_zarr,
    checked,
    coded,
    dense,
    reading,
    require_label,
    require_room_of,
    unique_names,
)
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.units import ScaleKind


def anndata_file(
    path: str | Path,
    layer: str | None = None,
    label: str | None = None,
    group: str | None = None,
    split: str | None = None,
    support: CellSupport | None = None,
    scale: ScaleKind = "standard",
) -> Dataset:
    """Counts or real values from an AnnData file, `.h5ad` or `.zarr`, one observation a datum.

    Whole numbers are counts, whatever their type. Normalised values, as log(1 + x) of a share of the
    cell's total, are taken only as real (`support`). `event_names` are the variables' names. Labels that are categories keep their names and order.

    Args:
        path: The file.
        layer: The layer to read instead of X; "raw" is `.raw`.
        label: The column of `.obs` that holds the labels.
        group: The column of `.obs` whose equal entries go into one split: a donor, a batch.
        split: The column of `.obs` that says train, validation or test.
        support: What the values are, where they do not say it themselves: binary, counts, unit or
            real.
        scale: How elements of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the data's own units.

    Raises:
        ValueError: If the file cannot be read, has no such layer or column, or holds values with a
            fraction and `support` does not say that they are real.
        ImportError: If anndata cannot be imported.

    References:
        anndata: Access and store annotated data matrices (Virshup et al., 2024),
        https://doi.org/10.21105/joss.04371
    """
    rows = require_label(anndata_rows(path, layer, label, group, split, support), label)
    for name, column in ((group, rows.groups), (split, rows.splits)):
        if name is not None and column is None:
            raise ValueError(f"{path}: there is no column {name!r} in obs.")
    with named(Path(path)):
        return Dataset.from_rows(dense(rows), scale=scale)


def anndata_rows(
    path: str | Path,
    layer: str | None = None,
    label: str | None = None,
    group: str | None = None,
    split: str | None = None,
    support: CellSupport | None = None,
) -> Rows:
    """The observations of an AnnData file, with the arguments of `anndata_file`.

    Columns of `.obs` that are not there are left out.
    """
    path = Path(path)
    packages = "anndata zarr" if os.path.isdir(path) else "anndata"
    with reading(path, "an AnnData file (.h5ad or .zarr)", packages), _anndata(path) as file:
        place, var = _place(file, layer)
        values = _matrix(file, place)
        kind = cell_support(values, support)
        if kind is None:
            raise UnreadableError(_fractions(file, place, values))
        obs, names = (_frame(file, table) for table in ("obs", var))
        labels, label_names, notes = None, (), []
        if label is not None and label in obs:
            labels, label_names = coded(obs[label])
        elif label is not None:
            columns = ", ".join(map(str, obs.columns)) or "none"
            notes.append(f"there is no column {label!r} in obs; there are {columns}.")
        ids = names["gene_ids"].astype(str).tolist() if "gene_ids" in names else ()
        return Rows(
            as_counts(values) if kind in ("counts", "binary") else values,
            name=path.stem,
            labels=labels,
            label_names=label_names,
            event_names=unique_names(names.index.astype(str).tolist(), ids),
            support=kind,
            splits=obs[split].astype(str).to_numpy() if split in obs else None,
            groups=obs[group].astype(str).to_numpy() if group in obs else None,
            source=path,
            notes=tuple(notes),
            row_names=tuple(obs.index.astype(str)),
        )


def is_anndata(folder: str | Path) -> bool:
    """Whether a Zarr folder says that anndata wrote it."""
    try:
        attributes = [
            (Path(folder) / name).read_text()
            for name in os.listdir(folder)
            if name in (".zattrs", "zarr.json")
        ]
    except (OSError, ValueError):
        return False
    return any('"anndata"' in text for text in attributes)


@contextmanager
def _anndata(path: Path) -> Iterator[Any]:
    """The root group of an AnnData file."""
    import anndata as _  # noqa: F401

    if path.is_dir():
        import zarr

        check_zarr(path)
        yield zarr.open_group(path, mode="r")
        return
    import h5py

    with h5py.File(path, "r") as file:
        yield file


def _place(file: Any, layer: str | None) -> tuple[str, str]:
    """Where a file holds the values, and where the table of their variables."""
    layers = list(file["layers"]) if "layers" in file else []
    names = [*(["raw"] if "raw" in file else []), *layers]
    if layer == "raw" and "raw" in file:
        return "raw/X", "raw/var"
    if layer is None and "X" in file and file["X"].attrs.get("encoding-type") != "null":
        return "X", "var"
    if layer in layers:
        return f"layers/{layer}", "var"
    raise UnreadableError(
        f"there is no {'X' if layer is None else f'layer {layer!r}'}; layers to name with layer "
        f"(--data.layer) are: {', '.join(names) or 'none'}."
    )


def _matrix(file: Any, place: str) -> Any:
    """A dense array or a CSR matrix."""
    from anndata.io import read_elem

    node = file[place]
    require_room_of(node, place)
    values = read_elem(node)
    return values if isinstance(values, np.ndarray) else checked(values)


def _frame(file: Any, place: str) -> Any:
    """A table of observations or variables."""
    import pandas as pd
    from anndata.io import read_elem

    require_room_of(file[place], place)
    frame = read_elem(file[place])
    if not isinstance(frame, pd.DataFrame):
        raise UnreadableError(
            f"{place} is no table, as anndata before 0.7 wrote it: read and write the file anew "
            "with a recent anndata."
        )
    return frame


def _fractions(file: Any, place: str, values: Any) -> str:
    """What to say of values that are no counts: where there are some."""
    entries = values if isinstance(values, np.ndarray) else values.data
    options = {f"layers/{layer}": layer for layer in file.get("layers", ())} | {"raw/X": "raw"}
    whole = [
        option
        for other, option in options.items()
        if other in file and other != place and are_counts(_matrix(file, other))
    ]
    where = (
        f"whole numbers are in {', '.join(f'{name} (--data.layer {name})' for name in whole)}"
        if whole
        else "in this file none of these holds whole numbers"
    )
    return (
        f"{place} is not counts: its values, from {entries.min(initial=0):g} to "
        f"{entries.max(initial=0):g}, have fractions or are below 0, as after normalisation (log1p). Raw "
        f"counts are usually in .raw or a layer: {where}. Or say with support that they are real "
        "(--data.support real)."
    )
