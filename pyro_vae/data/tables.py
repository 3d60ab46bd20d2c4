"""Tables: CSV and Parquet files, and DataFrames, perhaps with columns of lists or images."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.array_files import file_loader
from pyro_vae.data.image_folders import NESTED, check_complete, image_values, stack_image_structs
from pyro_vae.data.missing import REMEDY, missing_allowed
from pyro_vae.data.nouns import quote_names
from pyro_vae.data.rows import Rows, prefix_errors
from pyro_vae.data.splits import read_row_words
from pyro_vae.data.validation import Support

if TYPE_CHECKING:
    import pandas as pd

# Columns that are taken for data only if the user says so.
_LABEL_COLUMNS = ("label", "labels", "class", "target")

# At least this many sorted numbers are names of columns, such as wavelengths, not a row of data.
_MIN_AXIS = 8

_LISTS = (list, tuple, np.ndarray)


def table_rows(
    path: str | Path,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
    drop: list[str] | str | None = None,
    group: str | None = None,
    split: str | None = None,
    *,
    new: bool = True,
) -> Rows:
    """Read a table, `.csv` or `.parquet`, one row an example.

    A CSV file has commas between columns and their names in its first line. Columns of whole
    numbers alone are counts, or integers with `levels`; with a fraction anywhere, all are real.
    `event_names` are the columns.

    Args:
        path: The file.
        label: The column that holds the labels: words or whole numbers are classes, numbers with
            fractions a numeric target. Some may be missing. By default no row has a label.
        levels: Number of levels of integers 0, ..., levels - 1.
        support: The support, if the values do not determine it: binary, integers, counts, unit or
            real.
        drop: Columns that are not data, such as row numbers or names, separated by commas.
        group: The column of groups, such as patients or sites: all rows of a group go into one
            split.
        split: The column that says train, validation or test for each row, or a .npy, .csv or .txt
            file with one such word a row. Without validation rows, a tenth of the training rows is
            used.
        new: Read new data for a trained model: the columns of labels, groups and splits may be
            missing, and columns that cannot be data are left out with a note.

    Raises:
        ValueError: If the file cannot be read, names or values are missing, or a column of data is
            not numeric.
        ImportError: If pandas, or for Parquet pyarrow, cannot be imported.
    """
    path = Path(path)
    table = _read(path)
    with prefix_errors(path):
        return frame_rows(
            table,
            label=label,
            levels=levels,
            support=support,
            drop=drop,
            group=group,
            split=split,
            name=path.stem,
            source=path,
            new=new,
        )


table_file = file_loader("table_file", table_rows)


def frame_rows(
    table: Any,
    *,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
    drop: Sequence[str] | str | None = None,
    group: str | None = None,
    split: str | None = None,
    name: str = "table",
    source: Path | None = None,
    new: bool = False,
) -> Rows:
    """The rows of a pandas DataFrame, or of an object with `to_pandas`, such as a polars one.

    Its index is not used.

    Args:
        table: The table.
        label: As for `table_rows`.
        levels: As for `table_rows`.
        support: As for `table_rows`.
        drop: As for `table_rows`.
        group: As for `table_rows`.
        split: As for `table_rows`.
        name: The name of the data.
        source: The file of the table.
        new: As for `table_rows`.

    Raises:
        ValueError: As `table_rows`.
    """
    table = table if hasattr(table, "iloc") else table.to_pandas()
    # Column names may be numbers; options are words.
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    label, group, split = (None if each is None else str(each) for each in (label, group, split))
    dropped = [drop] if isinstance(drop, str) and drop in table.columns else drop or []
    dropped = dropped.split(",") if isinstance(dropped, str) else [str(each) for each in dropped]
    split_file = split if split not in table.columns and os.path.isfile(split or "") else None
    special = {
        "label": label,
        "group": group,
        "split": None if split_file else split,
        **{f"drop {index}": column.strip() for index, column in enumerate(dropped)},
    }
    first_line = source is not None and source.suffix.lower() == ".csv"
    _check_names(table, special, first_line=first_line, new=new)
    notes = []
    names = list(table.columns)
    if first_line and all(map(_is_number, names)) and not _is_range(names):
        notes.append(
            f"the numbers of the first line ({_list_names(names)}) are the columns' names: if "
            "they are a row of data, add a line of names before it."
        )
    found = {
        option: table[column] for option, column in special.items() if column in table.columns
    }
    table = table.drop(columns=list({str(column.name) for column in found.values()}))
    if table.columns.empty:
        raise ValueError("there are no columns of data.")
    known: dict[str, Any] = {"labels": found.get("label")}
    if not new:
        splits = read_row_words(split_file, len(table)) if split_file else found.get("split")
        given = {"groups": found.get("group"), "splits": splits}
        known |= {key: np.asarray(each) for key, each in given.items() if each is not None}
    table, nested = _unnest(table, source=source, new=new)
    if nested is None:
        values, omitted = _stack_columns(table, new)
        known["event_names"] = tuple(name for name in table.columns if name not in omitted)
        notes += omitted.values()
    else:
        values, is_image, more = nested
        notes += more
        if is_image:
            values, levels, support, more = image_values(values, levels, support)
            known["layout"] = "image"
            notes += more
    return Rows(
        values,
        name=name,
        levels=levels,
        support=support,
        source=source,
        notes=tuple(notes),
        **known,
    )


def _read(path: Path) -> "pd.DataFrame":
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} must be a .csv or .parquet file.")
    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a {suffix} file, but there is no such file.")
    try:
        import pandas as pd

        if suffix == ".parquet":
            import pyarrow as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"tables are read by pandas and pyarrow, one of which cannot be imported ({error}): "
            "pip install pandas pyarrow"
        ) from error
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
        with warnings.catch_warnings():
            # Raised for rows longer than the first line, which would be truncated.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Without index_col=False an unnamed first column silently becomes an index.
            return pd.read_csv(path, index_col=False, low_memory=False)
    # pandas and pyarrow raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} is damaged, or not a table of {suffix[1:]} ({' '.join(str(error).split())})."
        ) from error


def _check_names(
    table: "pd.DataFrame", special: dict[str, str | None], *, first_line: bool, new: bool
) -> None:
    """Check the columns' names, which may be a file's first line."""
    names = list(table.columns)
    if not table.columns.is_unique:
        repeated = table.columns[table.columns.duplicated()].tolist()
        raise ValueError(
            f"columns must have different names, got several {quote_names(repeated)}."
        )
    if first_line and names and all(map(_is_number, names)) and not _is_axis(names):
        raise ValueError(
            f"the first line must hold the columns' names, got the numbers {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}: add a line of names before it."
        )
    if new:
        return
    used = [column for column in special.values() if column is not None]
    if unnamed := [name for name in names if name.startswith("Unnamed: ") and name not in used]:
        raise ValueError(
            f"column {names.index(unnamed[0]) + 1} has no name in the first line; pandas writes "
            "row numbers there unless it is told index=False: write the table so, or leave the "
            f"column out with drop (--data.drop '{unnamed[0]}')."
        )
    for option, column in special.items():
        if column is not None and column not in names:
            where = ", and no such file" if option == "split" else ""
            raise ValueError(
                f"there is no column {column!r}{where}; there are {_list_names(names)}."
            )
    likely = [name for name in names if name.lower() in _LABEL_COLUMNS and name not in used]
    if special["label"] is None and likely:
        raise ValueError(
            f"the column {likely[0]!r} seems to hold labels: say so with label (--data.label "
            f"{likely[0]}), leave it out with drop (--data.drop {likely[0]}), or rename it if it "
            "is data."
        )


def _stack_columns(table: "pd.DataFrame", new: bool) -> tuple[np.ndarray, dict[str, str]]:
    """The columns as one array, of integers if all of them are; and notes on omitted ones."""
    columns, refused = {}, {}
    for name in table.columns:
        try:
            columns[name] = _to_numbers(table[name])
        except ValueError as error:
            refused[name] = error.args
    if refused and (not new or not columns):
        (reason, remedy), *_ = refused.values()
        others = list(refused)[1:]
        also = f"; {quote_names(others)} cannot be data either" if others else ""
        ways = f"{remedy}, or leave it out (--data.drop {next(iter(refused))})"
        raise ValueError(f"{reason}: {ways.removeprefix(', or ')}{also}.")
    notes = {name: f"left out: {reason}." for name, (reason, _) in refused.items()}
    kinds = {column.dtype.kind for column in columns.values()}
    dtype = bool if kinds == {"b"} else np.float64 if "f" in kinds else np.int64
    return np.stack([column.astype(dtype) for column in columns.values()], 1), notes


def _to_numbers(column: Any) -> np.ndarray:
    """A pandas column as booleans, integers or floats.

    Raises:
        ValueError: If values are missing or not numbers; its second argument is the remedy.
    """
    import pandas as pd

    what = f"column {str(column.name)!r}"
    if hasattr(column, "cat"):
        raise ValueError(
            f"{what} holds categories ({quote_names(list(column.cat.categories))}), not numbers",
            "name it as label or group (--data.label, --data.group), or code it by a column of 0 "
            "and 1 for each category (pandas.get_dummies)",
        )
    if column.dtype.kind in "mM":
        raise ValueError(
            f"{what} holds dates or times ({column.dtype}), not numbers",
            "convert them to numbers, such as days since the first",
        )
    missing = column.isna().to_numpy(dtype=bool)
    numbers: Any = column
    if column.dtype.kind not in "buif":
        numbers = pd.to_numeric(column.astype(object), errors="coerce")
        wrong = numbers.isna().to_numpy(dtype=bool) & ~missing
        if wrong.any() and not isinstance(column[wrong].iloc[0], str):
            kind = type(column[wrong].iloc[0]).__name__
            raise ValueError(
                f"{what} must hold one number a row, got values of type {kind}, first in row "
                f"{wrong.argmax() + 1}",
                "",
            )
        if wrong.any():
            shown = quote_names([word[:40] for word in dict.fromkeys(column[wrong].astype(str))])
            raise ValueError(
                f"{what} must be numeric, but {wrong.sum()} of {len(column)} values are not, "
                f"first in row {wrong.argmax() + 1} ({shown}; columns are separated by commas, "
                "decimals by a point)",
                "correct them, name the column as label, group or split (--data.label, "
                "--data.group, --data.split)",
            )
    if missing.any() and not missing_allowed():
        raise ValueError(
            f"{what} has no value in row {missing.argmax() + 1} ({missing.sum()} of "
            f"{len(column)} are missing)",
            f"fill them in, drop these rows, {REMEDY}",
        )
    kind = numbers.dtype.kind
    if missing.any():
        return numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind not in "buif":
        raise ValueError(f"{what} must be numeric, got the type {column.dtype}", "")
    # Unsigned integers of 64 bits may be too large for int64.
    large = kind == "u" and len(numbers) > 0 and int(numbers.max()) > np.iinfo(np.int64).max
    dtype = bool if kind == "b" else np.float64 if kind == "f" or large else np.int64
    return numbers.to_numpy(dtype=dtype)


def _is_axis(names: list[str]) -> bool:
    """Whether numbers are names: 0, 1, 2, ..., or many sorted ones."""
    steps = np.diff(np.array(names, dtype=float))
    return _is_range(names) or (
        len(names) > _MIN_AXIS and bool((steps > 0).all() or (steps < 0).all())
    )


def _is_range(names: list[str]) -> bool:
    return names == [str(number) for number in range(len(names))]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _list_names(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


# ---- columns of lists and images --------------------------------------------------------------


def _unnest(
    table: "pd.DataFrame", *, source: Path | None, new: bool
) -> tuple["pd.DataFrame", tuple[np.ndarray, bool, list[str]] | None]:
    """The table with a column for each element of its lists, or one column of arrays.

    A single column of lists is a row of elements, one of lists of lists images or series, and one
    of structs {bytes, path} images, as written by Hugging Face's `datasets`.

    Returns:
        The table, and the values of the column of arrays, whether they are images, and notes.
    """
    kinds = {name: kind for name in table.columns if (kind := _nested_kind(table[name]))}
    if not kinds:
        return table, None
    arrays = {
        name: stack_image_structs(table[name], source)
        if kind == "struct"
        else _stack_lists(table[name])
        for name, kind in kinds.items()
    }
    whole = [name for name, array in arrays.items() if array.ndim > 2]
    if not whole and len(table.columns) > 1:
        return _expand_lists(table, arrays), None
    name = whole[0] if whole else next(iter(kinds))
    others = [other for other in table.columns if other != name]
    if others and not new:
        raise ValueError(
            f"column {name!r} holds images or other arrays, so {others[0]!r} beside it cannot be "
            f"data: name it as labels (--data.label {others[0]}) or leave it out (--data.drop "
            f"{','.join(others)})."
        )
    notes = [f"column {other!r} left out: the data are {name!r}." for other in others]
    return table, (arrays[name], kinds[name] == "struct", notes)


def _nested_kind(column: Any) -> str | None:
    """Whether a column holds lists or structs."""
    if column.dtype != object:
        return None
    known = column[column.notna().to_numpy()]
    first = known.iloc[0] if len(known) else None
    if isinstance(first, dict):
        return "struct"
    return "list" if isinstance(first, _LISTS) else None


def _stack_lists(column: Any) -> np.ndarray:
    """The lists of a column as one array."""
    check_complete(column)
    what, drop = f"column {str(column.name)!r} is a list column", f"(--data.drop {column.name})"
    if other := {type(row).__name__ for row in column if not isinstance(row, _LISTS)}:
        raise ValueError(f"{what} that also holds values of type {other.pop()}: {NESTED}.")
    lengths = {len(row) for row in column}
    if len(lengths) > 1:
        raise ValueError(
            f"{what} whose lists have from {min(lengths)} to {max(lengths)} elements: {NESTED}; "
            f"cut or pad them to one length, or leave it out {drop}."
        )
    try:
        array = np.array([_to_array(row) for row in column])
    except ValueError as error:
        raise ValueError(
            f"{what} whose lists of lists differ in length: {NESTED}; cut or pad them to one "
            "length."
        ) from error
    if array.dtype.kind not in "buif":
        other = next(value for value in array.flat if not isinstance(value, int | float))
        raise ValueError(
            f"{what} of {type(other).__name__}, not of numbers: {NESTED}; leave it out {drop}."
        )
    return array


def _to_array(row: Any) -> np.ndarray:
    """A list as an array; lists of lists have more axes."""
    row = np.asarray(row) if isinstance(row, np.ndarray) else np.array(list(row))
    nested = row.dtype == object and len(row) and all(isinstance(part, _LISTS) for part in row)
    return np.stack([_to_array(part) for part in row]) if nested else row


def _expand_lists(table: "pd.DataFrame", arrays: dict[str, np.ndarray]) -> "pd.DataFrame":
    """The table with each list column as columns `name[0]`, `name[1]`, ..."""
    import pandas as pd

    parts = []
    for name in table.columns:
        if name in arrays:
            array = arrays[name]
            names = [f"{name}[{index}]" for index in range(array.shape[1])]
            parts.append(pd.DataFrame(array, columns=pd.Index(names), index=table.index))
        else:
            parts.append(table[[name]])
    return pd.concat(parts, axis=1)
