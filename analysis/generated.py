"""Generated data with the axes they vary along, as arrays and tables in files."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Real

if TYPE_CHECKING:
    import pandas as pd

# The names of the axes of an example, by their number.
EVENT_AXES: dict[int, tuple[str, ...]] = {
    1: ("element",),
    2: ("channel", "position"),
    3: ("channel", "height", "width"),
    4: ("frame", "channel", "height", "width"),
}


@dataclass(frozen=True)
class Generated:
    """Generated data, in the units of the training data.

    Args:
        kind: What they are, such as "interpolations".
        values: The data, `(*axes, *event)`.
        axes: The leading axes by name, with a label for each index.
        others: Further arrays by name, with their leading axes, such as codes or the data that are
            reconstructed.
        event_names: The names of the elements of an example, as of columns.
        metadata: The run and the options, as plain values.
    """

    kind: str
    values: Real[np.ndarray, "..."]
    axes: Mapping[str, Sequence[Any]]
    others: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = field(default_factory=dict)
    event_names: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return self.values.shape[len(self.axes) :]

    def __getitem__(self, name: str) -> np.ndarray:
        """One of the other arrays."""
        return self.others[name][1]

    def rows(self) -> np.ndarray:
        """The data with all leading axes as one."""
        return self.values.reshape(-1, *self.event_shape)


def as_npz(generated: Generated) -> bytes:
    """A `.npz` file of all arrays, with `metadata` as JSON."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {generated.kind: generated.values}
    arrays |= {name: np.asarray(labels) for name, labels in generated.axes.items()}
    arrays |= {name: array for name, (_, array) in generated.others.items()}
    if generated.event_names:
        arrays["event_names"] = np.array(generated.event_names)
    np.savez(buffer, **arrays, metadata=np.array(json.dumps(dict(generated.metadata))))
    return buffer.getvalue()


def as_npy(generated: Generated) -> bytes:
    """A `.npy` file of the data alone."""
    buffer = io.BytesIO()
    np.save(buffer, generated.values)
    return buffer.getvalue()


def as_netcdf(generated: Generated) -> bytes:
    """A `.nc` file for `xarray.open_dataset`, with named axes and the metadata as an attribute."""
    import xarray

    event = EVENT_AXES.get(len(generated.event_shape)) or tuple(
        f"axis_{i}" for i in range(len(generated.event_shape))
    )
    variables: dict[str, Any] = {generated.kind: ((*generated.axes, *event), generated.values)}
    for name, (axes, array) in generated.others.items():
        rest = array.shape[len(axes) :]
        own = len(rest) - len(event)
        if own < 0 or rest[own:] != generated.event_shape:
            own = len(rest)
        inner = (*(f"{name}_axis_{i}" for i in range(own)), *event[: len(rest) - own])
        variables[name] = ((*axes, *inner), array)
    coordinates: dict[str, Any] = {
        name: np.asarray(labels) for name, labels in generated.axes.items()
    }
    if generated.event_names:
        coordinates["element"] = np.array(generated.event_names)
    attributes = {"metadata": json.dumps(dict(generated.metadata))}
    buffer = io.BytesIO()
    xarray.Dataset(variables, coordinates, attributes).to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()


def as_csv(generated: Generated) -> bytes:
    """A `.csv` file, see `table`."""
    return table(generated).to_csv(index=False).encode()


def as_parquet(generated: Generated) -> bytes:
    """A `.parquet` file, see `table`."""
    buffer = io.BytesIO()
    table(generated).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


# Of arrays and tables, by suffix.
FORMATS: dict[str, Callable[[Generated], bytes]] = {
    ".npz": as_npz,
    ".npy": as_npy,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".nc": as_netcdf,
}


def table(generated: Generated) -> "pd.DataFrame":
    """A line for each example: its place on the axes, its elements, and what there is beside them.

    Elements have the names of the columns of training, or else x0, x1, ....

    Raises:
        ImportError: If pandas cannot be imported.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            f".csv and .parquet files are written by pandas, which cannot be imported ({error}): "
            "pip install pandas pyarrow"
        ) from error
    shape = tuple(len(labels) for labels in generated.axes.values())
    indices = dict(zip(generated.axes, np.indices(shape).reshape(len(shape), -1), strict=True))
    columns: dict[str, Any] = {
        name: np.asarray(labels)[indices[name]] for name, labels in generated.axes.items()
    }
    for name, (axes, array) in generated.others.items():
        # One number for each example.
        if array.ndim == len(axes):
            columns[name] = array[tuple(indices[axis] for axis in axes)]
    rows = generated.rows()
    rows = rows.reshape(len(rows), -1)
    names = generated.event_names or [f"x{i}" for i in range(rows.shape[1])]
    # A column of the data may have the name of an axis.
    columns = {f"{name}_" if name in names else name: column for name, column in columns.items()}
    elements = pd.DataFrame(rows, columns=pd.Index(names))
    return pd.concat([pd.DataFrame(columns), elements], axis=1)
