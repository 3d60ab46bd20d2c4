"""Codes of data as a file: for NumPy, for a spreadsheet, or for xarray."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Shaped

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Codes:
    """The code of each datum, and what is known of the datum.

    Args:
        codes: A row for each datum.
        split: The split that it is of: train, validation or test.
        row: Its number in the array or file that the data were split from, or else in its split.
        row_names: The name of each row of the file, if they have names.
        metadata: Of which run and which data, as plain values.
        scale: The standard deviation of q(z | x); None where it was not asked for.
        labels: A label, or a row of factors, for each datum, -1 where it has none; None if no datum has.
        label_names: What label 0, 1, ... is called; of factors, what the first, second, ... is.
    """

    codes: Float[np.ndarray, "n latent"]
    split: Shaped[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    metadata: Mapping[str, Any]
    scale: Float[np.ndarray, "n latent"] | None = None
    labels: Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n factors"] | None = None
    row_names: Shaped[np.ndarray, " n"] | None = None
    label_names: tuple[str, ...] = ()

    @property
    def targets(self) -> str:
        """What the labels are called in a file: `labels`, or `factors` if a datum has several."""
        return "factors" if self.labels is not None and self.labels.ndim == 2 else "labels"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, `metadata` as JSON."""
        found = {"codes": self.codes, "split": self.split, "row": self.row}
        if self.row_names is not None:
            found["row_name"] = self.row_names
        if self.scale is not None:
            found["scale"] = self.scale
        if self.labels is not None:
            found[self.targets] = self.labels
            if self.label_names:
                found[f"{self.targets[:-1]}_names"] = np.array(self.label_names)
        return {**found, "metadata": np.array(json.dumps(self.metadata))}


def as_npz(codes: Codes) -> bytes:
    """A `.npz` of all arrays."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = codes.arrays()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def as_npy(codes: Codes) -> bytes:
    """A `.npy` of the codes alone."""
    buffer = io.BytesIO()
    np.save(buffer, codes.codes)
    return buffer.getvalue()


def as_netcdf(codes: Codes) -> bytes:
    """A `.nc` for `xarray.open_dataset`: dims datum and latent, metadata as an attribute.

    `row`, `split` and `row_name` are coordinates, as those of data in `inference_data.nc`.
    """
    import xarray

    arrays = codes.arrays()
    metadata = arrays.pop("metadata")
    dims = {
        "codes": ("datum", "latent"),
        "scale": ("datum", "latent"),
        "factors": ("datum", "factor"),
        "factor_names": ("factor",),
        "label_names": ("label",),
    }
    variables = {name: (dims.get(name, ("datum",)), array) for name, array in arrays.items()}
    buffer = io.BytesIO()
    dataset = xarray.Dataset(variables, attrs={"metadata": str(metadata)})
    coordinates = [name for name in ("row", "split", "row_name") if name in dataset]
    dataset.set_coords(coordinates).to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()


def as_csv(codes: Codes) -> bytes:
    """A `.csv`: columns z0, z1, ..., the label or factors, split and row; a line for each datum."""
    return _table(codes).to_csv(index=False).encode()


def as_parquet(codes: Codes) -> bytes:
    """A `.parquet` of the same columns."""
    table = _table(codes)
    buffer = io.BytesIO()
    try:
        table.to_parquet(buffer, engine="pyarrow", index=False)
    except ImportError as error:
        raise _tables_absent(error) from error
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Codes], bytes]] = {
    ".npz": as_npz,
    ".npy": as_npy,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".nc": as_netcdf,
}


def _table(codes: Codes) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ImportError as error:
        raise _tables_absent(error) from error
    columns: dict[str, np.ndarray] = {f"z{i}": z for i, z in enumerate(codes.codes.T)}
    if codes.scale is not None:
        columns |= {f"scale{i}": scale for i, scale in enumerate(codes.scale.T)}
    labels, names = codes.labels, codes.label_names
    if labels is not None and labels.ndim == 2:
        named = names if len(names) == labels.shape[1] else range(labels.shape[1])
        columns |= {f"factor_{name}": f for name, f in zip(named, labels.T, strict=True)}
    elif labels is not None:
        columns["label"] = labels
    if codes.row_names is not None:
        columns["row_name"] = codes.row_names
    return pd.DataFrame({**columns, "split": codes.split, "row": codes.row})


def _tables_absent(error: ImportError) -> ImportError:
    return ImportError(
        f".csv and .parquet are written by pandas and pyarrow, one of which cannot be imported ({error}): "
        "pip install pandas pyarrow"
    )
