"""Parquet columns that hold lists or images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.image_folders import check_alike, picture_values
from pyro_vae.data.image_reading import DamagedPictureError, read_picture
from pyro_vae.data.values import Layout, Support

if TYPE_CHECKING:
    import pandas as pd

_READ = (
    "read are lists of numbers of one length, lists of such lists (height, width), and pictures as "
    "structs {bytes, path}"
)

_LISTS = (list, tuple, np.ndarray)


@dataclass(frozen=True)
class Nested:
    """The values of the one column that is the data, with the fields of `Rows` that go with them."""

    values: np.ndarray
    levels: int | None
    support: Support | None
    layout: Layout = "auto"
    notes: tuple[str, ...] = ()


def unnested(
    table: "pd.DataFrame",
    *,
    levels: int | None = None,
    support: Support | None = None,
    source: Path | None = None,
    new: bool = False,
) -> tuple["pd.DataFrame", Nested | None]:
    """The table with a column for each element of its lists, or the values of its one column of arrays.

    A single column of lists is a row of elements, one of lists of lists pictures or series, and one of
    structs {bytes, path} pictures, as the `datasets` library of Hugging Face writes them.

    Args:
        table: The columns of data.
        levels: The levels of integers, where they were given.
        support: What the values are, where it was given.
        source: The file, beside which the paths of pictures lie.
        new: Whether the rows are new data, of which columns beside pictures are left out.

    Raises:
        ValueError: If lists differ in length, structs hold no pictures, or other columns stand beside
            pictures.
    """
    kinds = {name: _kind(table[name]) for name in table.columns}
    nested = {name: kind for name, kind in kinds.items() if kind is not None}
    if not nested:
        return table, None
    arrays = {
        name: _pictures(table[name], source) if kind == "struct" else _array(table[name])
        for name, kind in nested.items()
    }
    whole = [name for name, array in arrays.items() if array.ndim > 2]
    if not whole and len(kinds) > 1:
        return _expanded(table, arrays), None
    name = whole[0] if whole else next(iter(nested))
    others = [other for other in table.columns if other != name]
    if others and not new:
        raise ValueError(
            f"column {name!r} holds pictures or other arrays, so {others[0]!r} beside it cannot be "
            f"data: name it as labels (--data.label {others[0]}) or leave it out (--data.drop "
            f"{','.join(others)})."
        )
    notes = tuple(f"column {other!r} left out: the data are {name!r}." for other in others)
    if nested[name] != "struct":
        return table, Nested(arrays[name], levels, support, notes=notes)
    values, levels, support, more = picture_values(arrays[name], levels, support)
    return table, Nested(values, levels, support, "image", (*notes, *more))


def _kind(column: Any) -> str | None:
    """Whether a column holds lists or structs."""
    if column.dtype != object:
        return None
    known = column[column.notna().to_numpy()]
    first = known.iloc[0] if len(known) else None
    if isinstance(first, dict):
        return "struct"
    return "list" if isinstance(first, _LISTS) else None


def _array(column: Any) -> np.ndarray:
    """The lists of a column as one array."""
    _check_complete(column)
    what = f"column {str(column.name)!r} is a list column"
    if other := {type(row).__name__ for row in column if not isinstance(row, _LISTS)}:
        raise ValueError(f"{what} that also holds values of type {other.pop()}: {_READ}.")
    lengths = {len(row) for row in column}
    if len(lengths) > 1:
        raise ValueError(
            f"{what} whose lists have from {min(lengths)} to {max(lengths)} elements: {_READ}; cut or pad "
            f"them to one length, or leave it out (--data.drop {column.name})."
        )
    try:
        array = np.array([_stacked(row) for row in column])
    except ValueError as error:
        raise ValueError(
            f"{what} whose lists of lists differ in length: {_READ}; cut or pad them to one length."
        ) from error
    if array.dtype.kind not in "buif":
        other = next(value for value in array.flat if not isinstance(value, int | float))
        raise ValueError(
            f"{what} of {type(other).__name__}, not of numbers: {_READ}; leave it out "
            f"(--data.drop {column.name})."
        )
    return array


def _stacked(row: Any) -> np.ndarray:
    """A list as an array, and lists of lists as one with more axes."""
    row = np.asarray(row) if isinstance(row, np.ndarray) else np.array(list(row))
    nested = row.dtype == object and len(row) and all(isinstance(part, _LISTS) for part in row)
    return np.stack([_stacked(part) for part in row]) if nested else row


def _pictures(column: Any, source: Path | None) -> np.ndarray:
    """The pictures of a column of structs {bytes, path}, `(n, channels, height, width)`."""
    _check_complete(column)
    fields = list(column.iloc[0])
    if not set(fields) <= {"bytes", "path"}:
        raise ValueError(
            f"column {str(column.name)!r} is a struct column with the fields {', '.join(fields)}: "
            f"{_READ}; make each field a column (pandas.json_normalize), or leave it out (--data.drop "
            f"{column.name})."
        )
    folder = Path() if source is None else source.parent
    images: list[np.ndarray] = []
    names: list[Path] = []
    for row, picture in enumerate(column):
        name = Path(f"{column.name}, row {row + 1}")
        content = picture.get("bytes")
        file = name if content is not None else folder / str(picture.get("path"))
        try:
            image = read_picture(file, content=content)
        except DamagedPictureError as error:
            raise ValueError(f"{file} is damaged or no picture ({error}).") from error
        if images:
            check_alike(names[0], images[0], file, image)
        images.append(image)
        names.append(file)
    return np.stack(images)


def _check_complete(column: Any) -> None:
    missing = column.isna().to_numpy(dtype=bool)
    if missing.any():
        raise ValueError(
            f"column {str(column.name)!r} has no value in row {missing.argmax() + 1} ({missing.sum()} of "
            f"{len(column)} are missing): drop these rows first."
        )


def _expanded(table: "pd.DataFrame", arrays: dict[str, np.ndarray]) -> "pd.DataFrame":
    """The table with each list column as columns `name[0]`, `name[1]`, ..."""
    import pandas as pd

    parts = []
    for name in table.columns:
        if name in arrays:
            array = arrays[name]
            names = [f"{name}[{place}]" for place in range(array.shape[1])]
            parts.append(pd.DataFrame(array, columns=pd.Index(names), index=table.index))
        else:
            parts.append(table[[name]])
    return pd.concat(parts, axis=1)
