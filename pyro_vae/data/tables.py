"""The user's own table: a CSV or Parquet file, or a DataFrame."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.data.columns import quoted
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.nested_columns import unnested
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.splits import row_words
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Support

if TYPE_CHECKING:
    import pandas as pd

# Columns that are not taken for data without a word.
_LABEL_COLUMNS = ("label", "labels", "class", "target")

# So many numbers in order are the names of columns, not a row of data.
_LEAST_AXIS = 8


def table_file(
    path: str | Path,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
    scale: ScaleKind = "standard",
    drop: list[str] | str | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Dataset:
    """Data from a table, `.csv` or `.parquet`, one row a datum, split as in `Dataset.from_array`.

    A CSV file has commas between columns and their names in its first line. Columns of whole numbers
    alone are counts, or integers with `levels`; with a fraction anywhere, all are real. `event_names`
    are the columns.

    Args:
        path: The file.
        label: The column that holds the labels: words or whole numbers are classes, numbers with
            fractions a numeric target. Rows may have none. Without this option, no row has a label.
        levels: The number of levels of integers 0, ..., levels - 1.
        support: What the values are, where they do not say it themselves: binary, integers, counts,
            unit or real.
        scale: How columns of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the columns' own units.
        drop: Columns that are not data, such as row numbers or names, with commas between them.
        group: The column of groups, such as patients or sites: all rows of a group go into one split.
        split: The column that says train, validation or test for each row, or a .npy, .csv or .txt
            file with one such word a row. Without validation rows, a tenth of the training rows is
            taken for it.

    Raises:
        ValueError: If the file cannot be read, names or values are missing, or a column of data is
            not numeric.
        ImportError: If pandas, or for Parquet pyarrow, cannot be imported.
    """
    path = Path(path)
    table = _read(path)
    with named(path):
        rows = frame_rows(
            table,
            label=label,
            levels=levels,
            support=support,
            drop=drop,
            group=group,
            split=split,
            name=path.stem,
            source=path,
        )
        return Dataset.from_rows(rows, scale=scale)


def table_rows(
    path: str | Path,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
    drop: list[str] | str | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Rows:
    """The rows of a table of new data, with the arguments of `table_file`.

    The columns of labels, groups and splits may be missing. A column that cannot be data is left out
    with a note: which columns are needed, the model says.
    """
    path = Path(path)
    table = _read(path)
    with named(path):
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
            new=True,
        )


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
    """The rows of a DataFrame of pandas, or of what has `to_pandas`, such as one of polars.

    Its index is not used.

    Args:
        table: The table.
        label: As for `table_file`.
        levels: As for `table_file`.
        support: As for `table_file`.
        drop: As for `table_file`.
        group: As for `table_file`.
        split: As for `table_file`.
        name: What the data are called.
        source: The file that the table was read from.
        new: Whether the rows are new data for a trained model, as in `table_rows`.

    Raises:
        ValueError: As `table_file`.
    """
    table = table if hasattr(table, "iloc") else table.to_pandas()
    # The names of a table may be numbers, the options' are words.
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    label, group, split = (None if each is None else str(each) for each in (label, group, split))
    dropped = [drop] if isinstance(drop, str) and drop in table.columns else drop or []
    dropped = dropped.split(",") if isinstance(dropped, str) else [str(each) for each in dropped]
    from_file = split is not None and split not in table.columns and os.path.isfile(split)
    special = {
        "label": label,
        "group": group,
        "split": None if from_file else split,
        **{f"drop {place}": column.strip() for place, column in enumerate(dropped)},
    }
    first_line = source is not None and source.suffix.lower() == ".csv"
    _check_names(table, special, first_line=first_line, new=new)
    heading = []
    names = list(table.columns)
    if first_line and all(map(_is_number, names)) and not _is_range(names):
        heading.append(
            f"the numbers of the first line ({_some(names)}) are the columns' names: if they are "
            "a row of data, add a line of names before it."
        )
    found = {
        option: table[column] for option, column in special.items() if column in table.columns
    }
    table = table.drop(columns=list({str(column.name) for column in found.values()}))
    if table.columns.empty:
        raise ValueError("there are no columns of data.")
    table, nested = unnested(table, levels=levels, support=support, source=source, new=new)
    values, notes = _values(table, new) if nested is None else (nested.values, {})
    if nested is not None:
        levels, support = nested.levels, nested.support
    groups, splits = found.get("group"), found.get("split")
    if from_file and not new:
        assert split is not None
        splits = row_words(split, len(table))
    return Rows(
        values,
        name=name,
        labels=found.get("label"),
        event_names=()
        if nested is not None
        else tuple(column for column in table.columns if column not in notes),
        levels=levels,
        support=support,
        splits=None if splits is None or new else np.asarray(splits),
        groups=None if groups is None or new else np.asarray(groups),
        source=source,
        layout="auto" if nested is None else nested.layout,
        notes=(*heading, *(notes.values() if nested is None else nested.notes)),
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
            # Of rows longer than the first line, which would lose their end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Without index_col=False a first column without a name becomes an index, silently.
            return pd.read_csv(path, index_col=False, low_memory=False)
    # pandas and pyarrow raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} is damaged, or not a table of {suffix[1:]} ({' '.join(str(error).split())})."
        ) from error


def _check_names(
    table: "pd.DataFrame", special: dict[str, str | None], *, first_line: bool, new: bool
) -> None:
    """Raise unless the columns' names, in a file's first line perhaps, can be meant."""
    names = list(table.columns)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()].tolist()
        raise ValueError(
            f"each column must have a name of its own, but there are several {quoted(twice)}."
        )
    if first_line and names and all(map(_is_number, names)) and not _is_axis(names):
        raise ValueError(
            f"the first line must hold the columns' names, got the numbers {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}: add a line of names before it."
        )
    if new:
        return
    taken = [column for column in special.values() if column is not None]
    if unnamed := [name for name in names if name.startswith("Unnamed: ") and name not in taken]:
        raise ValueError(
            f"column {names.index(unnamed[0]) + 1} has no name in the first line; a table written by "
            "pandas has its row numbers there unless it is told index=False: write it so, or leave the "
            f"column out with drop (--data.drop '{unnamed[0]}')."
        )
    for option, column in special.items():
        if column is not None and column not in names:
            where = ", and no such file" if option == "split" else ""
            raise ValueError(f"there is no column {column!r}{where}; there are {_some(names)}.")
    likely = [name for name in names if name.lower() in _LABEL_COLUMNS and name not in taken]
    if special["label"] is None and likely:
        raise ValueError(
            f"the column {likely[0]!r} seems to hold labels: say so with label (--data.label "
            f"{likely[0]}), leave it out with drop (--data.drop {likely[0]}), or give it another name "
            "if it is data."
        )


def _values(table: "pd.DataFrame", new: bool) -> tuple[np.ndarray, dict[str, str]]:
    """The columns side by side, as integers if all of them are; and why some were left out."""
    columns, refused = {}, {}
    for name in table.columns:
        try:
            columns[name] = _numbers(table[name])
        except ValueError as error:
            refused[name] = error.args
    if refused and (not new or not columns):
        (reason, remedy), *_ = refused.values()
        also = f"; {quoted(list(refused)[1:])} cannot be data either" if len(refused) > 1 else ""
        way_out = f"{remedy}, or leave it out (--data.drop {next(iter(refused))})"
        raise ValueError(f"{reason}: {way_out.removeprefix(', or ')}{also}.")
    notes = {name: f"left out: {reason}." for name, (reason, _) in refused.items()}
    kinds = {column.dtype.kind for column in columns.values()}
    dtype = bool if kinds == {"b"} else np.float64 if "f" in kinds else np.int64
    return np.stack([column.astype(dtype) for column in columns.values()], 1), notes


def _numbers(column: Any) -> np.ndarray:
    """A column of pandas as booleans, integers or floats.

    Raises:
        ValueError: If values are missing, or no numbers, with what to do as its second argument.
    """
    import pandas as pd

    what = f"column {str(column.name)!r}"
    if hasattr(column, "cat"):
        raise ValueError(
            f"{what} holds categories ({quoted(list(column.cat.categories))}), not numbers",
            "name it as label or group (--data.label, --data.group), code it by a column of 0 and 1 for "
            "each category (pandas.get_dummies)",
        )
    if column.dtype.kind in "mM":
        raise ValueError(
            f"{what} holds dates or times ({column.dtype}), not numbers",
            "make them numbers, such as days since the first",
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
            shown = quoted([word[:40] for word in dict.fromkeys(column[wrong].astype(str))])
            raise ValueError(
                f"{what} must be numeric, but {wrong.sum()} of {len(column)} values are not, first in row "
                f"{wrong.argmax() + 1} ({shown}; columns are separated by commas, decimals by a point)",
                "mend them, name the column as label, group or split (--data.label, --data.group, "
                "--data.split)",
            )
    if missing.any():
        raise ValueError(
            f"{what} has no value in row {missing.argmax() + 1} ({missing.sum()} of {len(column)} are "
            "missing)",
            "fill them in, drop these rows",
        )
    kind = numbers.dtype.kind
    if kind not in "buif":
        raise ValueError(f"{what} must be numeric, got the type {column.dtype}", "")
    # Unsigned integers of 64 bits may be too large for int64.
    large = kind == "u" and len(numbers) > 0 and int(numbers.max()) > np.iinfo(np.int64).max
    dtype = bool if kind == "b" else np.float64 if kind == "f" or large else np.int64
    return numbers.to_numpy(dtype=dtype)


def _is_axis(names: list[str]) -> bool:
    """Whether numbers are names: 0, 1, 2, ... as pandas gives, or many in order, such as wavelengths."""
    steps = np.diff(np.array(names, dtype=float))
    return _is_range(names) or (
        len(names) > _LEAST_AXIS and bool((steps > 0).all() or (steps < 0).all())
    )


def _is_range(names: list[str]) -> bool:
    return names == [str(number) for number in range(len(names))]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
