"""Inspection of the values of a data set before training."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch

from pyro_vae.data.columns import in_words
from pyro_vae.data.dataset import FIXED_SPLIT, Dataset
from pyro_vae.data.duplicate_rows import NearDuplicates, duplicates_of_training
from pyro_vae.data.fill_values import fill_values, may_be_fill_value
from pyro_vae.data.findings import Columns, Finding, number, spread_rows
from pyro_vae.data.repeated_values import repeated_values

Judgement = Literal["refuse", "warn", "none"]

# Columns of a wider or shorter table are not compared with one another.
_COMPARED_COLUMNS, _FEWEST_ROWS = 500, 50
# Spreads of columns may differ by this factor before networks need scaled data.
_DIFFERENT = 100.0
# Values so many interquartile ranges from a column's others are outliers of any distribution.
_ABSURD = 1e6
# Test rows whose nearest training row is beside them in the file: more in videos, less in tables that
# are sorted by a class.
_BESIDE = 0.35
# What the columns of tables that number the rows are called.
_ROW_NAMES = ("id", "index", "idx", "row", "rowid", "row_id", "row_number", "rownames")


def inspect(
    dataset: Dataset,
    likelihood_support: str | None = None,
) -> tuple[Finding, ...]:
    """What there is to know of the values of all three splits, a sentence each.

    Values are looked at by column, or by channel where rows have several axes. Lowest and highest are
    those of all values; other statistics are taken from rows spread evenly over the splits where
    there are more than a million values.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood that is to be trained, if it is known.
    """
    if likelihood_support is None:
        likelihood_support = dataset.support
    columns = Columns(dataset, likelihood_support)
    return tuple(finding for look in _LOOKS for finding in look(columns))


def check(
    dataset: Dataset,
    likelihood_support: str | None = None,
    *,
    judgement: Judgement = "refuse",
) -> tuple[Finding, ...]:
    """What `inspect` finds.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood that is to be trained, if it is known.
        judgement: "refuse" raises where a model would be wrong, "warn" leaves that to the caller, and
            "none" does not look.

    Raises:
        ValueError: If `judgement` is unknown, or says to refuse what was found.
    """
    if judgement not in get_args(Judgement):
        raise ValueError(
            f"judgement must be one of {', '.join(get_args(Judgement))}, got {judgement!r}."
        )
    if judgement == "none":
        return ()
    findings = inspect(dataset, likelihood_support)
    if judgement == "refuse" and (refused := [each.text for each in findings if each.refused]):
        raise ValueError(f"{dataset.name}: {' '.join(refused)}")
    return findings


# ---- what is refused --------------------------------------------------------------------------


def _fill_values(columns: Columns) -> Iterator[Finding]:
    low, high = columns.extremes
    first, third = columns.quartiles
    far = (columns.spread > 0) & (np.maximum(first - low, high - third) > _ABSURD * columns.spread)
    suspects = (may_be_fill_value(low) | may_be_fill_value(high) | far).nonzero()[0]
    found: list[str] = []
    outliers = []
    what = "row" if columns.table else "value"
    for column in suspects.tolist():
        marks, rest = fill_values(
            columns.all_of(column), whole=columns.dataset.support in ("counts", "integers")
        )
        found += [
            f"{number(value)} ({count} {what}{'s' if count > 1 else ''} of {columns.name(column)})"
            for value, count in marks
        ]
        if far[column] and np.abs(rest - np.median(rest)).max() > _ABSURD * columns.spread[column]:
            outliers.append(column)
    found += _unseen_fill_values(columns)
    if found:
        yield Finding(
            "fill value",
            f"{in_words(found)} {'lies' if len(found) == 1 else 'lie'} far from all other values there, as "
            "marks of missing values do: replace them, or leave out their rows or columns; --data.check "
            "warn takes them for values.",
            refused=True,
        )
    if outliers:
        yield Finding(
            "outlier",
            f"{columns.names(outliers)} {'has' if len(outliers) == 1 else 'have'} values more than a million times the spread away "
            "from the median: check them, or take logarithms.",
        )


def _unseen_fill_values(columns: Columns) -> list[str]:
    """Marks at the ends of data on the disk that the sample misses."""
    if columns.in_memory:
        return []
    pool = columns.sample.flatten()
    extent = columns.dataset.train.extent  # pyright: ignore[reportAttributeAccessIssue]
    unseen = [value for value in (extent.low, extent.high) if not (pool == value).any()]
    marks, _ = fill_values(np.append(pool, unseen))
    return [f"{number(value)} (in the training data)" for value, _ in marks if value in unseen]


# ---- what carries nothing, or something else --------------------------------------------------


def _constants(columns: Columns) -> Iterator[Finding]:
    # A pixel of pictures may well be constant, and is, where they come as rows without names.
    pixels = columns.table and columns.dataset.support in ("binary", "integers")
    if pixels and not columns.dataset.event_names:
        return
    constant = columns.constant.nonzero()[0]
    if len(constant):
        yield Finding(
            "constant",
            f"{columns.names(constant)} never {'varies and carries' if len(constant) == 1 else 'vary and carry'} "
            f"nothing: {columns.drop(constant)}.",
        )


def _identifiers(columns: Columns) -> Iterator[Finding]:
    if not columns.table or columns.dataset.support not in ("real", "counts"):
        return
    if not columns.in_memory or columns.n < 10:
        return
    low, high = columns.extremes
    step = (high - low) / (columns.n - 1)
    counting, timelike = [], []
    for column in (columns.distinct == columns.sample.shape[1]).nonzero()[0].tolist():
        x = columns.all_of(column)
        ordered = x if columns.order is None else x[columns.order]
        rising = columns.order is not None and bool((np.diff(ordered) > 0).all())
        whole = low[column] == np.rint(low[column]) and (x == np.rint(x)).all()
        named = _names_rows(columns.dataset.event_names, column)
        even = (rising or (whole and step[column] == np.rint(step[column]))) and bool(
            (np.abs(np.diff(np.sort(x)) - step[column]) < 1e-3 * step[column]).all()
        )
        if whole and (even or rising or (named and len(np.unique(x)) == len(x))):
            counting.append(column)
        elif even:
            timelike.append(column)
    if counting:
        yield Finding(
            "identifier",
            f"{columns.names(counting)} number{'s' if len(counting) == 1 else ''} the rows, as an "
            f"identifier does, rather than measuring anything: {columns.drop(counting)}.",
        )
    if timelike:
        yield Finding(
            "time",
            f"{columns.names(timelike)} rise{'s' if len(timelike) == 1 else ''} from row to row by "
            f"equal steps, as a time does: if it is not to be modelled, {columns.drop(timelike)}.",
        )


def _copies(columns: Columns) -> Iterator[Finding]:
    """Columns that are linear functions of another one."""
    if not columns.table or columns.dataset.support not in ("real", "unit"):
        return
    width = columns.dataset.event_shape[0]
    if not columns.in_memory or not 1 < width <= _COMPARED_COLUMNS or columns.n < _FEWEST_ROWS:
        return
    m = min(len(columns.dataset.train), 500)
    x = spread_rows(columns.dataset.train, m).to(torch.float64).numpy()
    varies = np.flatnonzero(x.std(0) > 0)
    x = x[:, varies] - x[:, varies].mean(0)
    x /= np.linalg.norm(x, axis=0)
    alike = np.triu(np.abs(x.T @ x) > 1 - 1e-9, 1)
    copies = {}
    for first, second in varies[np.argwhere(alike)].tolist():
        if second not in copies and first not in copies and _linear(columns, first, second):
            copies[second] = first
    if copies:
        pairs = in_words(f"{columns.name(b)} of {columns.name(a)}" for b, a in copies.items())
        yield Finding(
            "copy",
            f"columns are linear functions of others ({pairs}) and count twice: "
            f"{columns.drop(list(copies))}.",
        )


def _linear(columns: Columns, first: int, second: int) -> bool:
    """Whether one column is a linear function of another but for rounding, in every row."""
    x, y = columns.all_of(first), columns.all_of(second)
    rounding = torch.finfo(columns.dataset.train.dtype).eps
    x0, y0 = x - x.mean(), y - y.mean()
    slope = (x0 @ y0) / (x0 @ x0)
    tolerance = 4 * rounding * (np.abs(y).max() + abs(slope) * np.abs(x).max())
    return bool((np.abs(y0 - slope * x0) <= tolerance).all())


# ---- units ------------------------------------------------------------------------------------


def _scales(columns: Columns) -> Iterator[Finding]:
    dataset = columns.dataset
    if dataset.support != "real":
        return
    spread = np.where(columns.constant, 0, columns.spread)
    varying = spread[spread > 0]
    if dataset.scale == "none" and len(varying) > 1:
        low, high = varying.min(), varying.max()
        if high > _DIFFERENT * low:
            names = [columns.name(int((spread == s).argmax())) for s in (high, low)]
            yield Finding(
                "scales",
                f"columns have very different spreads, from {low:.3g} ({names[1]}) to {high:.3g} "
                f"({names[0]}), and are not scaled: choose --data.scale standard.",
            )
    if dataset.units.double:
        low, high = columns.extremes
        largest = np.maximum(np.abs(low), np.abs(high))
        fine = (torch.finfo(torch.float32).eps * largest > 1e-3 * columns.sample.std(1)) & (
            ~columns.constant
        )
        if fine.any():
            yield Finding(
                "float64",
                f"{columns.names(fine.nonzero()[0])} would lose differences in float32: the data are kept "
                "in float64.",
            )


def _masks(columns: Columns) -> Iterator[Finding]:
    dataset = columns.dataset
    if dataset.support != "integers" or dataset.levels == 2:
        return
    if (columns.distinct > 2).any() or not columns.in_memory:
        return
    low, high = float(columns.extremes[0].min()), float(columns.extremes[1].max())
    if low == high or not all(((x == low) | (x == high)).all() for x in columns.splits.values()):
        return
    full = low == 0 and high == (dataset.levels or 2) - 1
    if full and columns.likelihood_support == "binary":
        return
    way = "choose a likelihood of binary data (--likelihood bernoulli), or " if full else ""
    yield Finding(
        "mask",
        f"the values are {number(low)} and {number(high)} alone, two of {dataset.levels} levels: they are "
        f"binary, and --data.levels 2 does not fit them; {way}save x == {number(high)} as booleans.",
    )


def grey_levels(columns: Columns) -> Iterator[Finding]:
    """Pictures of 0 to 255 with fractions."""
    dataset = columns.dataset
    if dataset.support != "real" or not _may_be_pictures(dataset):
        return
    low, high = float(columns.extremes[0].min()), float(columns.extremes[1].max())
    if 0 <= low < 64 and 128 < high <= 255 and (columns.sample != np.rint(columns.sample)).any():
        yield Finding(
            "grey levels",
            f"the values are fractions from {number(low)} to {number(high)}, like grey levels of 0 to 255 "
            "that were scaled or interpolated: save x / 255, which is unit data (--likelihood logit_normal), or "
            'numpy.rint(x).astype("uint8"), which is 256 levels (--likelihood discretized_logistic).',
        )


def _may_be_pictures(dataset: Dataset) -> bool:
    """Whether rows are pictures, or rows without names as long as square ones."""
    shape = dataset.event_shape
    if len(shape) == 3:
        return shape[0] in (1, 3, 4)
    pixels = (shape[0], shape[0] / 3) if len(shape) == 1 and not dataset.event_names else ()
    return any(64 <= n == int(n) and math.isqrt(int(n)) ** 2 == n for n in pixels)


# ---- rows that are alike ----------------------------------------------------------------------


def _twins(columns: Columns) -> Iterator[Finding]:
    dataset = columns.dataset
    if not dataset.is_split:
        return
    way = (
        "the scores of these are too good"
        if dataset.split_rule == FIXED_SPLIT
        else "split rows by group with --data.group, or leave out repeated ones"
    )
    counts = duplicates_of_training(dataset)
    chance = 10 * len(dataset.train) * _chance_of_twins(columns)
    if found := [
        split for split, count in counts.items() if count > chance * len(getattr(dataset, split))
    ]:
        listed = " and ".join(
            f"{counts[split]:,} of {len(getattr(dataset, split)):,} {split} {dataset.noun}s"
            for split in found
        )
        yield Finding("twins", f"{listed} are also in the training data: {way}.")
    alike = NearDuplicates.of(dataset)
    if alike.near:
        yield Finding(
            "near twins",
            f"{alike.near} of {alike.n} test {dataset.noun}s are almost equal to one of the training data: "
            f"{way}.",
        )
    if alike.beside > _BESIDE * alike.n:
        yield Finding(
            "neighbours",
            f"the training {dataset.noun} most like a test {dataset.noun} is next to it in the data for "
            f"{alike.beside} of {alike.n} test {dataset.noun}s, as in a video or a series: test scores are "
            "too good unless whole stretches are kept together with --data.group.",
        )


def _chance_of_twins(columns: Columns) -> float:
    """The probability that two rows are equal, if their elements were independent."""
    x = columns.sample
    starts = np.flatnonzero(np.diff(x, axis=1, prepend=np.nan) != 0)
    lengths = np.diff(starts, append=x.size).astype(np.float64)
    squares = np.bincount(starts // x.shape[1], lengths**2)
    # The elements of a channel vary on their own.
    elements = columns.dataset.train[:1].numel() // len(x)
    return float(np.exp(elements * np.log(squares / x.shape[1] ** 2).sum()))


def _names_rows(names: Sequence[str], column: int) -> bool:
    if not names:
        return False
    name = names[column].strip().lower()
    return name in _ROW_NAMES or name.startswith("unnamed") or name.endswith("_id")


_LOOKS: tuple[Callable[[Columns], Iterator[Finding]], ...] = (
    _fill_values,
    grey_levels,
    _identifiers,
    _constants,
    _copies,
    repeated_values,
    _scales,
    _masks,
    _twins,
)
