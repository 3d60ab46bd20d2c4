"""Labels in their usual forms: classes, factors of variation, or a numeric target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from pyro_vae.data.nouns import quote_names

# The label of a row without one.
UNLABELLED = -1

# Whole numbers other than 0, 1, 2, ... or 1, 2, ... are classes up to this many distinct values,
# or this share of the rows if that is more; beyond, they are a numeric target.
_MAX_CLASSES, _CLASS_SHARE = 20, 0.1

# Words for a missing label, besides None, NaN, pandas' NA and -1.
_MISSING_WORDS = {"", "nan", "NaN", "<NA>", "NaT"}

# A 0/1 matrix with at most a single 1 in each row is one-hot, with unlabelled rows, if at least
# this share of the rows has a 1.
_ONE_HOT_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels as numbers, with the names of the classes.

    Args:
        values: Classes `(n,)` as int64, -1 for unlabelled rows; factors `(n, k)`, likewise; or a
            numeric target `(n,)` in float64, NaN where it is missing.
        names: The name of class 0, 1, ...; of factors, the name of each factor.
        notes: Remarks made while reading them, one line each.
    """

    values: Shaped[Tensor, " n"] | Shaped[Tensor, "n factors"] = field(repr=False)
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def are_classes(self) -> bool:
        """Whether they are classes, usable for stratification and classification."""
        return are_classes(self.values)


def are_classes(values: Tensor | None) -> bool:
    """Whether labels of a data set are classes, not factors or a numeric target."""
    return values is not None and values.dim() == 1 and not values.is_floating_point()


def read_labels(
    labels: Any,
    what: str = "the labels",
    *,
    names: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    target: bool = False,
    n: int | None = None,
) -> Labels:
    """Read labels from an array, tensor, list, or pandas or polars column or table.

    Words are classes in alphabetical order, or in numerical order if they are whole numbers;
    pandas categories keep their own order. Booleans and whole numbers, integers or floats, are
    classes named by their value; whole numbers with gaps and many distinct values, and numbers
    with fractions, are a numeric target. One-hot columns are one class, other columns are factors.
    None, NaN, pandas' NA, empty text and -1 are missing labels; -1 is a class where the only other
    label is 1, or lower ones occur.

    Args:
        labels: `(n,)`, `(n, 1)`, one-hot `(n, classes)` or `(n, factors)`. `Labels` are returned
            unchanged.
        what: Their name in messages.
        names: The names of classes 0, 1, ..., if the labels are such numbers; or of factors.
        classes: The names of the classes that a model was trained with. Labels are then numbered
            by name, and other classes count as unlabelled, with a note.
        target: Whether numbers `(n,)` are a numeric target in any case.
        n: The required number of labels.

    Raises:
        ValueError: If they have another shape or length, are dates or other objects, are infinite,
            or do not fit `names`.
    """
    if isinstance(labels, Labels):
        return labels
    columns, order, array = _to_array(labels, what, n)
    names = names or columns
    if target and array.ndim == 1:
        values, _ = _parse_entries(array, what)
        if values.dtype != object:
            return Labels(torch.from_numpy(values.astype(np.float64)))
    return _read(array, what, order, tuple(names), None if classes is None else tuple(classes))


def read_split_labels(
    labels: Mapping[str, Any],
    what: str = "the labels",
    *,
    names: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
) -> tuple[dict[str, Tensor], Labels]:
    """Read labels of several splits together, so that a class has one number in all of them.

    Args:
        labels: The labels of each split that has any, as for `read_labels`.
        what: Their name in messages.
        names: As for `read_labels`.
        sizes: Number of rows of each split.

    Returns:
        The labels of each split, and those of all splits concatenated.

    Raises:
        ValueError: As `read_labels`, and if the splits' labels differ in shape.
    """
    if not labels:
        return {}, Labels(torch.empty(0, dtype=torch.int64))
    read = {
        split: _to_array(each, f"{what} ({split})", (sizes or {}).get(split))
        for split, each in labels.items()
    }
    arrays = [array for _, _, array in read.values()]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = ", ".join(f"{split} {array.shape}" for split, (_, _, array) in read.items())
        raise ValueError(f"{what} must have one form in all splits, got {shapes}.")
    if len({array.dtype.kind for array in arrays}) > 1:
        arrays = [array.astype(object) for array in arrays]
    columns = next((columns for columns, _, _ in read.values() if columns), ())
    order = tuple(dict.fromkeys(name for _, order, _ in read.values() for name in order))
    found = _read(np.concatenate(arrays), what, order, tuple(names) or columns, None)
    parts = found.values.split([len(array) for array in arrays])
    return dict(zip(labels, parts, strict=True)), found


def untrained_class_notes(labels: Mapping[str, Tensor], names: Sequence[str]) -> tuple[str, ...]:
    """A note on classes that occur in validation or test data only."""
    train = labels.get("train")
    others = [each for split, each in labels.items() if split != "train"]
    if train is None or not others or not are_classes(train):
        return ()
    held_out = torch.cat(others)
    missing = sorted(set(held_out.tolist()) - set(train.tolist()) - {UNLABELLED})
    if not missing:
        return ()
    rows = int(torch.isin(held_out, torch.tensor(missing)).sum())
    words = [names[label] if label < len(names) else str(label) for label in missing]
    note = (
        f"the training data lack the {'class' if len(words) == 1 else 'classes'} "
        f"{quote_names(words)}, which {rows} held-out {'row has' if rows == 1 else 'rows have'}."
    )
    return (note,)


def _to_array(
    labels: Any, what: str, n: int | None
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """The names of columns, the ordered categories, and an array `(n,)` or `(n, k)`."""
    columns, order = (), ()
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()
    elif hasattr(labels, "to_pandas"):
        labels = labels.to_pandas()
    elif hasattr(labels, "toarray"):
        labels = labels.toarray()
    if hasattr(labels, "columns"):
        columns = tuple(map(str, labels.columns))
    categories = getattr(getattr(labels, "dtype", None), "categories", None)
    if categories is not None:
        order = tuple(word for word in map(_class_name, categories) if word not in _MISSING_WORDS)
        labels = labels.astype(object)
    if isinstance(labels, np.ma.MaskedArray):
        mask, labels = np.ma.getmaskarray(labels), labels.data.astype(object)
        labels[mask] = None
    try:
        # A list of words and NaN would become words alone.
        plain = isinstance(labels, list | tuple)
        array = np.asarray(labels, dtype=object if plain else None)
    except ValueError as error:
        raise ValueError(f"{what} must have one entry a row, or rows of one length.") from error
    if array.ndim == 0:
        raise ValueError(f"{what} must be an array with one entry a row, got a single value.")
    if array.ndim == 2 and array.shape[0] == 1 and n == array.shape[1] > 1:
        # A row vector, as MATLAB writes them.
        array = array[0]
    if array.ndim == 2 and array.shape[1] == 1:
        columns, array = (), array[:, 0]
    if array.ndim > 2:
        raise ValueError(
            f"{what} must have the shape (n,), (n, 1), or (n, factors), got {array.shape}."
        )
    if n is not None and len(array) != n:
        raise ValueError(f"there are {n} rows but {len(array)} labels in {what}.")
    return columns, order, array


def _read(
    array: np.ndarray,
    what: str,
    order: tuple[str, ...],
    names: tuple[str, ...],
    classes: tuple[str, ...] | None,
) -> Labels:
    if array.ndim == 2:
        read = _read_columns(array, what, names, classes)
    else:
        values, missing = _parse_entries(array, what)
        if values.dtype.kind in "iuf" and not order:
            read = _read_numbers(values, missing, what, names, classes)
        else:
            read = _read_words(values, missing, order, classes)
    notes = read.notes
    if classes is not None and read.are_classes:
        read, unknown = _renumber(read, what, classes)
        notes = (*notes, *unknown)
    if read.are_classes:
        known = read.values[read.values >= 0]
        if unlabelled := len(array) - len(known):
            notes = (*notes, f"{unlabelled} of {len(array)} rows have no label.")
        if classes is None and _MAX_CLASSES < len(known) == len(known.unique()):
            notes = (*notes, f"{what} are all different, so nothing can be learned from them.")
    return Labels(read.values, read.names, notes)


def _parse_entries(array: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Booleans, integers, floats or words (as objects), and a mask of missing entries."""
    kind = array.dtype.kind
    if kind in "bui":
        return array, np.zeros(array.shape, bool)
    if kind == "f":
        return array, np.isnan(array)
    if kind not in "OUST":
        raise ValueError(f"{what} must be numbers or words, got an array of dtype {array.dtype}.")
    import pandas as pd

    values = array.astype(object)
    gaps = np.asarray(pd.isna(values))
    entries = [None if gap else _plain_value(v) for v, gap in zip(values, gaps, strict=True)]
    missing = np.array([entry is None for entry in entries], dtype=bool)
    present = [entry for entry in entries if entry is not None]
    types = {type(entry) for entry in present}
    if foreign := types - {bool, int, float, str}:
        raise ValueError(f"{what} must be numbers or words, got a {foreign.pop().__name__}.")
    if not types or str in types or types == {bool}:
        words = np.empty(len(entries), object)
        words[:] = [None if entry is None else _class_name(entry) for entry in entries]
        return words, missing
    large = any(abs(entry) >= 2**63 for entry in present)
    dtype = np.float64 if float in types or missing.any() or large else np.int64
    return np.array([np.nan if v is None else v for v in entries], dtype), missing


def _plain_value(value: Any) -> Any:
    """A label as a Python value; None for text that stands for a missing one."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return None if value.strip() in _MISSING_WORDS else value.strip()
    # A NumPy scalar, or a tensor of one element.
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if type(value) in (bool, int, float):
        return value
    try:
        # Decimals and fractions; a list or a date fails.
        return float(value)
    except (TypeError, ValueError):
        return value


def _class_name(value: Any) -> str:
    """The name of a class: whole numbers have no decimal point."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _is_integer_word(word: str) -> bool:
    """Whether a word is an integer as Python writes it: not "01"."""
    return len(word) < 19 and word.removeprefix("-").isdecimal() and word == str(int(word))


def _read_words(
    values: np.ndarray,
    missing: np.ndarray,
    order: tuple[str, ...],
    classes: tuple[str, ...] | None = None,
) -> Labels:
    if values.dtype == bool:
        return Labels(torch.from_numpy(values.astype(np.int64)), ("False", "True"))
    if values.dtype != object:
        # Categories that are numbers.
        words = [None if m else _class_name(v) for v, m in zip(values, missing, strict=True)]
        values = np.array(words)
    present = {word for word in values if word is not None} - _MISSING_WORDS
    key = int if all(map(_is_integer_word, present)) else None
    distinct = np.unique([int(word) for word in present]) if key else np.arange(0)
    names = order or tuple(sorted(present, key=key))
    if not _minus_one_is_class(distinct, classes):
        names = tuple(name for name in names if name != str(UNLABELLED))
    if names and set(names) <= {"False", "True"} and not order:
        names = ("False", "True")
    index = {name: place for place, name in enumerate(names)}
    numbers = [index.get(word, UNLABELLED) for word in values]
    return Labels(torch.tensor(numbers, dtype=torch.int64), names)


def _read_numbers(
    values: np.ndarray,
    missing: np.ndarray,
    what: str,
    names: tuple[str, ...],
    classes: tuple[str, ...] | None,
) -> Labels:
    present = values[~missing]
    _check_finite(present, what)
    if classes is None and (present != np.rint(present)).any():
        return _numeric_target(values, f"{what} are floats with fractions")
    distinct = np.unique(present)
    if not _minus_one_is_class(distinct, classes):
        missing = missing | (values == UNLABELLED)
        present, distinct = values[~missing], distinct[distinct != UNLABELLED]
    k = len(distinct)
    consecutive = k > 0 and distinct[0] in (0, 1) and distinct[-1] == distinct[0] + k - 1
    few = k <= max(_MAX_CLASSES, _CLASS_SHARE * len(present))
    floats = values.dtype.kind == "f"
    if not names and classes is None and not few and (floats or not consecutive):
        kind = "floats" if floats else "whole numbers"
        return _numeric_target(
            values, f"{what} are {kind} with {k} different values in {len(values)} rows"
        )
    numbers = np.full(values.shape, UNLABELLED, np.int64)
    if names and k and distinct[0] >= 0 and distinct[-1] < len(names):
        numbers[~missing] = present
    elif names and k and k != len(names):
        raise ValueError(
            f"{what} must be from 0 to {len(names) - 1}, one for each of {len(names)} names, or "
            f"have as many different values; got {k} of them, from {distinct[0]:g} to "
            f"{distinct[-1]:g}."
        )
    else:
        numbers[~missing] = np.searchsorted(distinct, present)
    return Labels(torch.from_numpy(numbers), names or tuple(map(_class_name, distinct)))


def _check_finite(present: np.ndarray, what: str) -> None:
    if not np.isfinite(present).all():
        raise ValueError(f"{what} hold infinite values: give them numbers, words or NaN.")


def _minus_one_is_class(distinct: np.ndarray, classes: tuple[str, ...] | None) -> bool:
    """Whether -1 is a class: paired with 1, above lower labels, or a class in training."""
    if classes is not None:
        return str(UNLABELLED) in classes
    return bool((distinct < UNLABELLED).any()) or distinct.tolist() == [UNLABELLED, 1]


def _numeric_target(values: np.ndarray, reason: str) -> Labels:
    note = (
        f"{reason}: they are taken as a numeric target, not as classes, and classifiers leave "
        "them out; as words or pandas categories they would be classes."
    )
    return Labels(torch.from_numpy(values.astype(np.float64)), (), (note,))


def _read_columns(
    array: np.ndarray, what: str, names: tuple[str, ...], classes: tuple[str, ...] | None
) -> Labels:
    read = [_parse_entries(column, what) for column in array.T]
    k = len(read)
    if len(names) != k:
        names = ()
    if any(values.dtype == object for values, _ in read):
        parts = [
            _read_words(values, missing, ()).values
            if values.dtype == object
            else _factors(values[:, None], missing[:, None], what, ()).values[:, 0]
            for values, missing in read
        ]
        dtype = np.result_type(*(part.numpy() for part in parts))
        return Labels(torch.from_numpy(np.stack(parts, 1).astype(dtype)), names)
    values = np.stack([values for values, _ in read], 1)
    missing = np.stack([missing for _, missing in read], 1)
    hot = values == 1
    row_missing = (missing | (values == UNLABELLED)).all(1)
    if np.isin(values[~row_missing], (0, 1)).all() and (ones := hot.sum(1)).max(initial=0) <= 1:
        unlabelled = int((ones == 0).sum())
        if unlabelled == row_missing.sum() or (k > 2 and ones.mean() >= _ONE_HOT_SHARE):
            numbers = np.where(ones == 1, hot.argmax(1), UNLABELLED)
            trained = classes if classes is not None and len(classes) == k else ()
            called = names or trained or tuple(map(str, range(k)))
            note = f"the {k} columns of {what} are one-hot: they are taken as {k} classes."
            return Labels(torch.from_numpy(numbers.astype(np.int64)), tuple(called), (note,))
    return _factors(values, missing, what, names)


def _factors(values: np.ndarray, missing: np.ndarray, what: str, names: tuple[str, ...]) -> Labels:
    present = values[~missing]
    _check_finite(present, what)
    if (present != np.rint(present)).any():
        note = (
            f"{what} are floats with fractions: scores of factors and classifiers leave them out."
        )
        return Labels(torch.from_numpy(values.astype(np.float64)), names, (note,))
    factors = np.where(missing, UNLABELLED, values).astype(np.int64)
    for column, gaps in zip(factors.T, missing.T, strict=True):
        distinct = np.unique(column[~gaps])
        # Values below 0 are reserved for missing ones.
        if _minus_one_is_class(distinct, None):
            column[~gaps] = np.searchsorted(distinct, column[~gaps])
    return Labels(torch.from_numpy(factors), names)


def _renumber(read: Labels, what: str, classes: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
    """Labels numbered as in training, and a note on unknown classes."""
    index = {name: place for place, name in enumerate(classes)}
    table = [index.get(name, UNLABELLED) for name in read.names]
    # The last entry, at -1, is for unlabelled rows.
    values = torch.tensor([*table, UNLABELLED])[read.values.long()]
    unknown = (values < 0) & (read.values >= 0)
    if not unknown.any():
        return Labels(values, classes), ()
    found = [read.names[label] for label in read.values[unknown].unique().tolist()]
    rows = int(unknown.sum())
    note = (
        f"{what} hold {'a class' if len(found) == 1 else 'classes'} absent from the training "
        f"data, {quote_names(found)} ({rows} {'row' if rows == 1 else 'rows'}, taken as "
        f"unlabelled); known are {quote_names(classes)}."
    )
    return Labels(values, classes), (note,)
