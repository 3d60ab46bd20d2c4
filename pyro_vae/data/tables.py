"""The user's own table: a CSV or Parquet file."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.rows import Rows, named
from pyro_vae.data.units import ScaleKind
from pyro_vae.data.values import Support

if TYPE_CHECKING:
    import pandas as pd

# Columns that are not taken for data without a word.
_LABEL_COLUMNS = ("label", "labels", "class", "target")


def table_file(
    path: str | Path,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
    scale: ScaleKind = "standard",
) -> Dataset:
    """Data from a table, `.csv` or `.parquet`, one row a datum, split as in `Dataset.from_array`.

    A CSV file has commas between columns and their names in its first line. Columns of whole numbers
    alone are counts, or integers with `levels`; with a fraction anywhere, all are real. `event_names`
    are the columns.

    Args:
        path: The file.
        label: The column that holds the labels: numbers, or words that are numbered in the order of
            the alphabet. Without, there are none.
        levels: The number of levels of integers 0, ..., levels - 1.
        support: What the values are, where they do not say it themselves: binary, integers, counts,
            unit or real.
        scale: How columns of real data are scaled for the networks: "standard" by mean and standard
            deviation, "robust" by median and interquartile range, "unit" by minimum and range, or
            "none". Densities, samples and means stay in the columns' own units.

    Raises:
        ValueError: If the file cannot be read, names or values are missing, or a column other than
            the labels' is not numeric.
        ImportError: If pandas, or for Parquet pyarrow, cannot be imported.
    """
    path = Path(path)
    rows = table_rows(path, label=label, levels=levels, support=support)
    with named(path):
        return Dataset.from_rows(rows, scale=scale)


def table_rows(
    path: str | Path,
    label: str | None = None,
    levels: int | None = None,
    support: Support | None = None,
) -> Rows:
    """The rows of a table, with the arguments of `table_file`."""
    path = Path(path)
    table = _read(path)
    with named(path):
        _check_names(table, label)
        _check_complete(table)
        targets, classes = None, ()
        if label is not None:
            targets, classes = _labels(table.pop(label))
        return Rows(
            _values(table),
            name=path.stem,
            labels=targets,
            label_names=classes,
            event_names=tuple(str(name) for name in table.columns),
            levels=levels,
            support=support,
            source=path,
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


def _check_names(table: "pd.DataFrame", label: str | None) -> None:
    names = [str(name) for name in table.columns]
    if unnamed := [name for name in names if name.startswith("Unnamed: ")]:
        raise ValueError(
            f"column {names.index(unnamed[0]) + 1} has no name in the first line; a table written by "
            "pandas has its row numbers there unless it is told index=False."
        )
    # 0, 1, 2, ... are the names that pandas itself gives.
    numbered = names == [str(number) for number in range(len(names))]
    if names and not numbered and all(map(_is_number, names)):
        raise ValueError(
            f"the first line must hold the columns' names, got the numbers {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}."
        )
    if label is not None and label not in table.columns:
        raise ValueError(f"there is no column {label!r}; there are {_some(names)}.")
    likely = [name for name in names if name.lower() in _LABEL_COLUMNS]
    if label is None and likely:
        raise ValueError(
            f"the column {likely[0]!r} seems to hold labels: say so with label (--data.label "
            f"{likely[0]}), or give it another name if it is data."
        )
    if len(names) == (label is not None):
        raise ValueError("there are no columns of data.")


def _check_complete(table: "pd.DataFrame") -> None:
    for name in table.columns:
        missing = table[name].isna().to_numpy()
        if missing.any():
            raise ValueError(
                f"column {str(name)!r} has no value in row {missing.argmax() + 1} ({missing.sum()} of "
                f"{len(table)} are missing): fill or drop them first."
            )


def _labels(column: "pd.Series") -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels as numbers, and what they are called if they were words."""
    if column.dtype.kind in "buif":
        return column.to_numpy(), ()
    names, labels = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)
    return labels, tuple(names.tolist())


def _values(table: "pd.DataFrame") -> np.ndarray:
    """The columns side by side, as integers if all of them are."""
    if words := [name for name in table.columns if table[name].dtype.kind not in "buif"]:
        first = table[words[0]].iloc[0] if len(table) else ""
        raise ValueError(
            f"columns must be numeric, but {_some([repr(str(name)) for name in words])} "
            f"{'is' if len(words) == 1 else 'are'} not (the first value is {str(first)[:40]!r}; columns "
            "are separated by commas): code them as numbers, drop them, or name the labels with label "
            "(--data.label)."
        )
    kinds = {table[name].dtype.kind for name in table.columns}
    if kinds == {"b"}:
        return table.to_numpy(dtype=bool)
    return table.to_numpy(dtype=np.float64 if "f" in kinds else np.int64)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
