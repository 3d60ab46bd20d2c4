"""Loading AnnData files (`.h5ad`, `.zarr`)."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.reader_helpers import (
    CellSupport,
    UnreadableError,
    are_counts,
    cell_support,
    check_zarr,
    checked,
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

    Whole numbers are counts, whatever their type. Normalised values, such as log(1 + x) of shares of a
    cell's total, are taken only as real (`support`). `event_names` are the variables' names, a repeated
    one with its id. Labels that are categories keep their names and order.

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
        return Dataset.from_rows(rows, scale=scale)


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
        places = {"X": "X", "raw": "raw/X"}
        places |= {name: f"layers/{name}" for name in file.get("layers", ())}
        matrices = {
            name: partial(_matrix, file, place)
            for name, place in places.items()
            if place in file and file[place].attrs.get("encoding-type") != "null"
        }
        return _observations(
            matrices,
            _frame(file, "obs"),
            lambda key: _frame(file, "raw/var" if key == "raw" else "var"),
            layer=layer,
            label=label,
            group=group,
            split=split,
            support=support,
            name=path.stem,
            source=path,
        )


def annotated_rows(
    data: Any,
    *,
    layer: str | None = None,
    label: str | None = None,
    group: str | None = None,
    split: str | None = None,
    support: CellSupport | None = None,
    name: str = "array",
) -> Rows:
    """The observations of an AnnData object, with the options of `anndata_file`.

    Values that are not counts are real, with a note, unless `support` says otherwise.

    Raises:
        ValueError: If there is no such layer, or its values are not what `support` says.
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
        layer=layer,
        label=label,
        group=group,
        split=split,
        support=support,
        name=name,
        source=None,
    )


def _observations(
    matrices: Mapping[str, Callable[[], Any]],
    obs: Any,
    var: Callable[[str], Any],
    *,
    layer: str | None,
    label: str | None,
    group: str | None,
    split: str | None,
    support: CellSupport | None,
    name: str,
    source: Path | None,
) -> Rows:
    """The rows of X or a layer.

    Args:
        matrices: Functions that read X, raw and the layers, by name.
        obs: The table of observations.
        var: A function that reads the table of variables of X, raw or a layer.
        layer: As for `anndata_file`, and so all that follow.
        label: The column of labels.
        group: The column of groups.
        split: The column of splits.
        support: What the values are.
        name: What the data are called.
        source: The file.
    """
    key = "X" if layer is None else layer
    if key not in matrices:
        raise UnreadableError(
            f"there is no {'X' if layer is None else f'layer {layer!r}'}; layers to name with layer "
            f"(--data.layer) are: {', '.join(sorted(matrices.keys() - {'X'})) or 'none'}."
        )
    values = _plain(matrices[key]())
    kind = cell_support(values, support)
    notes = ()
    if kind is None:
        said = _fractions(matrices, key, values)
        if source is not None or support is not None:
            raise UnreadableError(
                f"{said} Name it with layer (--data.layer), or say with support that the values are real "
                "(--data.support real)."
            )
        kind, notes = "real", (f"{said} Taken as real.",)
    if label is not None and label not in obs:
        columns = ", ".join(map(str, obs.columns)) or "none"
        notes = (*notes, f"there is no column {label!r} in obs; there are {columns}.")
    table = var(key)
    ids = table["gene_ids"].astype(str).tolist() if "gene_ids" in table else ()
    return Rows(
        values,
        name=name,
        labels=obs.get(label),
        event_names=unique_names(table.index.astype(str).tolist(), ids),
        support=kind,
        groups=obs[group].to_numpy() if group in obs else None,
        splits=obs[split].to_numpy() if split in obs else None,
        source=source,
        notes=notes,
        row_names=tuple(obs.index.astype(str)),
        noun="cell",
    )


def _plain(values: Any) -> Any:
    """A dense array or a CSR matrix."""
    return checked(values) if hasattr(values, "tocsr") else np.asarray(values)


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


def _matrix(file: Any, place: str) -> Any:
    from anndata.io import read_elem

    require_room_of(file[place], place)
    return read_elem(file[place])


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


def _fractions(matrices: Mapping[str, Callable[[], Any]], key: str, values: Any) -> str:
    """What to say of values that are no counts: where there are some."""
    entries = values if isinstance(values, np.ndarray) else values.data
    whole = [
        name
        for name, read in matrices.items()
        if name not in ("X", key) and are_counts(_plain(read()))
    ]
    where = f"whole numbers are in {', '.join(whole)}" if whole else "here none is whole numbers"
    return (
        f"{key} is not counts: its values, from {entries.min(initial=0):g} to "
        f"{entries.max(initial=0):g}, have fractions or are below 0, as after normalisation (log1p). Raw "
        f"counts are usually in .raw or a layer: {where}."
    )
