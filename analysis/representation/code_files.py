"""Codes as files: arrays, tables, NetCDF, or in the AnnData file that the data come from."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from analysis.row_files import FORMATS as ROW_FORMATS
from analysis.row_files import Rows, replaced, write_rows
from pyro_vae.data.cell_files import is_anndata

# The key of codes in an AnnData: `obsm` holds them, `uns` what is known about them.
KEY = "X_vae"
ANNDATA_FORMATS = (".h5ad", ".zarr")
FORMATS = (*ROW_FORMATS, *ANNDATA_FORMATS)


@dataclass(frozen=True)
class Codes:
    """The code of each example and what is known about the example, to be written to a file.

    Args:
        codes: One row per example, `(n, latent)`; an array, or one in a file.
        split: The split of each example, as an index of `split_names`.
        split_names: train, validation or test; "new" of data that are not split.
        row: The example's row in the array or file that was split, or else in its split.
        row_names: The name of each row of the file, if rows are named.
        metadata: The run and the data, as plain values.
        scale: The standard deviation of q(z | x), like `codes`; None if not requested.
        labels: A label or a row of factors per example, -1 where missing; None if no example has
            one.
        label_names: Names of labels 0, 1, ...; of factors, the name of each factor.
    """

    codes: Any
    split: Int[np.ndarray, " n"]
    split_names: tuple[str, ...]
    row: Int[np.ndarray, " n"]
    metadata: Mapping[str, Any]
    scale: Any = None
    labels: Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n factors"] | None = None
    row_names: Shaped[np.ndarray, " n"] | None = None
    label_names: tuple[str, ...] = ()

    @property
    def targets(self) -> str:
        """The name in a file: `labels`, or `factors` if there are several per example."""
        return "factors" if self.labels is not None and self.labels.ndim == 2 else "labels"

    def rows(self) -> Rows:
        """The arrays of a file, with the columns of a table: z0, z1, ..., the label, the row."""
        latent, labels, names = self.codes.shape[1], self.labels, self.label_names
        split = _Named(np.array(self.split_names), self.split)
        arrays = {"codes": self.codes, "split": split, "row": self.row}
        columns = {"codes": tuple(f"z{i}" for i in range(latent))}
        others = {}
        if self.row_names is not None:
            arrays["row_name"] = self.row_names
        if self.scale is not None:
            arrays["scale"] = self.scale
            columns["scale"] = tuple(f"scale{i}" for i in range(latent))
        if labels is not None:
            arrays[self.targets] = labels
            columns[self.targets] = ("label",)
            if labels.ndim == 2:
                factors = names if len(names) == labels.shape[1] else range(labels.shape[1])
                columns["factors"] = tuple(f"factor_{name}" for name in factors)
            if names:
                axis = self.targets[:-1]
                others[f"{axis}_names"] = (np.array(names), (axis,))
        known = [name for name in ("row_name", "split", "row") if name in arrays]
        return Rows(
            arrays,
            columns | {name: (name,) for name in known},
            axes={"codes": "latent", "scale": "latent", "factors": "factor"},
            others=others,
            coordinates=("row", "split", "row_name"),
            metadata=self.metadata,
        )


@dataclass(frozen=True)
class _Named:
    """`names[index]`, for the rows that are asked for."""

    names: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.names[self.index[rows]]


def check_format(out: Path, source: Path | None, name: str, *, whole: bool) -> None:
    """Make sure that codes of these data can be written to this file.

    Args:
        out: The file.
        source: The file of the data; None if they are not of one.
        name: The name of the data.
        whole: Whether all splits are encoded.

    Raises:
        ValueError: If an AnnData file is to be written, and the data are not of one in the same
            format, or only some of its rows are encoded.
    """
    if out.suffix not in ANNDATA_FORMATS:
        return
    suffix = None if source is None else source.suffix
    if source is None or suffix != out.suffix or (suffix == ".zarr" and not is_anndata(source)):
        raise ValueError(
            f"--out {out.suffix} adds codes to the AnnData file of the data, and those of {name} "
            f"are not of one in this format: use {', '.join(ROW_FORMATS)}."
        )
    if not whole:
        raise ValueError(
            f"--out {out.suffix} holds all rows of the file: use --split all, or "
            f"{', '.join(ROW_FORMATS)}."
        )


def write_codes(out: Path, codes: Codes, source: Path | None = None) -> None:
    """Write codes in the format of the file's suffix; a reader never finds a part of it.

    Args:
        out: The file.
        codes: The codes.
        source: The AnnData file of the data, for `.h5ad` and `.zarr`.

    Raises:
        ValueError: If the AnnData file has changed.
        OSError: If the file cannot be written; nothing is left behind.
    """
    if out.suffix not in ANNDATA_FORMATS:
        write_rows(out, codes.rows())
        return
    assert source is not None
    with _copied(source, out) as file:
        from anndata.io import write_elem

        n = file["obs"][file["obs"].attrs["_index"]].shape[0]
        if len(codes.row) and int(codes.row.max()) >= n:
            raise ValueError(f"{source} has changed: it has {n:,} rows.")
        for group in ("obsm", "uns"):
            if group not in file:
                write_elem(file, group, {})
        for key, values in {KEY: codes.codes, f"{KEY}_scale": codes.scale}.items():
            if values is not None:
                # A row that was not encoded, if there is one, has no code.
                array = np.full((n, values.shape[1]), np.nan, values.dtype)
                array[codes.row] = values[:]
                write_elem(file["obsm"], key, array)
        # Plain values: a version is of a type of its own.
        metadata = json.loads(json.dumps(codes.metadata))
        known = {name: value for name, value in metadata.items() if value is not None}
        write_elem(file["uns"], KEY, known)


@contextmanager
def _copied(source: Path, out: Path) -> Iterator[Any]:
    """A copy of an AnnData file, open for writing, which takes its name at the end."""
    if out.suffix == ".h5ad":
        import h5py

        with replaced(out) as temporary:
            shutil.copyfile(source, temporary)
            with h5py.File(temporary, "r+") as file:
                yield file
        return
    import zarr

    temporary = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        group = zarr.open_group(temporary, mode="r+", use_consolidated=False)
        yield group
        if group.metadata.consolidated_metadata is not None or _is_consolidated(temporary):
            zarr.consolidate_metadata(group.store)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise


def _is_consolidated(folder: Path) -> bool:
    """Whether one file repeats the metadata of all arrays in a Zarr folder."""
    if (folder / ".zmetadata").is_file():
        return True
    try:
        return "consolidated_metadata" in json.loads((folder / "zarr.json").read_bytes())
    except (OSError, ValueError):
        return False
