"""Inspection of the values of a data set before training."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch

from pyro_vae.data.dataset import FIXED_SPLIT, Dataset
from pyro_vae.data.digests import duplicates_of_training, near_duplicates
from pyro_vae.data.nouns import join_words
from pyro_vae.data.suspect_values import (
    ColumnStatistics,
    Finding,
    evenly_spaced_rows,
    fill_value_findings,
    format_number,
    repeated_value_findings,
)

Judgement = Literal["refuse", "warn", "none"]

# Columns of wider or shorter tables are not compared with one another.
_MAX_COMPARED_COLUMNS, _MIN_COMPARED_ROWS = 500, 50
# Ratio of spreads from which networks need scaled data.
_SPREAD_RATIO = 100.0
# Share of test rows next to their nearest training row in the file: videos have more, tables
# sorted by class have less.
_NEIGHBOUR_SHARE = 0.35
# Names of columns that number the rows.
_INDEX_NAMES = ("id", "index", "idx", "row", "rowid", "row_id", "row_number", "rownames")


def inspect(dataset: Dataset, likelihood_support: str | None = None) -> tuple[Finding, ...]:
    """Inspect the values of all three splits, by column, or by channel if rows have several axes.

    The minimum and maximum are exact; other statistics are taken from evenly spaced rows if there
    are more than a million values.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood to be trained, if it is known.
    """
    statistics = ColumnStatistics(dataset, likelihood_support or dataset.support)
    checks: tuple[Callable[[ColumnStatistics], Iterator[Finding]], ...] = (
        fill_value_findings,
        grey_levels,
        _identifiers,
        _constants,
        _linear_copies,
        repeated_value_findings,
        _scales,
        _masks,
        _duplicates,
    )
    return tuple(finding for check in checks for finding in check(statistics))


def check_values(
    dataset: Dataset,
    likelihood_support: str | None = None,
    *,
    judgement: Judgement = "refuse",
) -> tuple[Finding, ...]:
    """Inspect the values and refuse those of which a model would be wrong.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood to be trained, if it is known.
        judgement: "refuse" raises where a model would be wrong, "warn" leaves that to the caller,
            and "none" does not inspect.

    Raises:
        ValueError: If `judgement` is unknown, or values are refused.
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


# ---- columns without information --------------------------------------------------------------


def _constants(columns: ColumnStatistics) -> Iterator[Finding]:
    # Pixels of images may be constant, also in rows without names.
    pixels = columns.is_table and columns.dataset.support in ("binary", "integers")
    if pixels and not columns.dataset.event_names:
        return
    constant = columns.constant.nonzero()[0]
    if len(constant):
        verb = "varies and carries" if len(constant) == 1 else "vary and carry"
        yield Finding(
            "constant",
            f"{columns.names(constant)} never {verb} no information: "
            f"{columns.drop_advice(constant)}.",
        )


def _identifiers(columns: ColumnStatistics) -> Iterator[Finding]:
    if not columns.is_table or columns.dataset.support not in ("real", "counts"):
        return
    # A column with gaps numbers nothing, and has no rows to compare with another's.
    if not columns.in_memory or columns.n < 10 or columns.dataset.missing:
        return
    low, high = columns.extremes
    step = (high - low) / (columns.n - 1)
    counting, times = [], []
    for column in (columns.distinct == columns.sample.shape[1]).nonzero()[0].tolist():
        x = columns.values_of(column)
        ordered = x if columns.order is None else x[columns.order]
        rising = columns.order is not None and bool((np.diff(ordered) > 0).all())
        whole = low[column] == np.rint(low[column]) and (x == np.rint(x)).all()
        even = (rising or (whole and step[column] == np.rint(step[column]))) and bool(
            (np.abs(np.diff(np.sort(x)) - step[column]) < 1e-3 * step[column]).all()
        )
        named = _is_index_name(columns.dataset.event_names, column)
        if whole and (even or rising or (named and len(np.unique(x)) == len(x))):
            counting.append(column)
        elif even:
            times.append(column)
    if counting:
        yield Finding(
            "identifier",
            f"{columns.names(counting)} number{'s' if len(counting) == 1 else ''} the rows like "
            f"an identifier: {columns.drop_advice(counting)}.",
        )
    if times:
        yield Finding(
            "time",
            f"{columns.names(times)} rise{'s' if len(times) == 1 else ''} from row to row by "
            "equal steps, like a time: if it is not to be modelled, "
            f"{columns.drop_advice(times)}.",
        )


def _is_index_name(names: Sequence[str], column: int) -> bool:
    name = names[column].strip().lower() if names else ""
    return name in _INDEX_NAMES or name.startswith("unnamed") or name.endswith("_id")


def _linear_copies(columns: ColumnStatistics) -> Iterator[Finding]:
    if not columns.is_table or columns.dataset.support not in ("real", "unit"):
        return
    width = columns.dataset.event_shape[0]
    enough = 1 < width <= _MAX_COMPARED_COLUMNS and columns.n >= _MIN_COMPARED_ROWS
    if not columns.in_memory or not enough or columns.dataset.missing:
        return
    m = min(len(columns.dataset.train), 500)
    x = evenly_spaced_rows(columns.dataset.train, m).to(torch.float64).numpy()
    varies = np.flatnonzero(x.std(0) > 0)
    x = x[:, varies] - x[:, varies].mean(0)
    x /= np.linalg.norm(x, axis=0)
    correlated = np.triu(np.abs(x.T @ x) > 1 - 1e-9, 1)
    copies = {}
    for first, second in varies[np.argwhere(correlated)].tolist():
        if second not in copies and first not in copies and _is_linear(columns, first, second):
            copies[second] = first
    if copies:
        pairs = join_words(f"{columns.name(b)} of {columns.name(a)}" for b, a in copies.items())
        yield Finding(
            "copy",
            f"columns are linear functions of others ({pairs}) and count twice: "
            f"{columns.drop_advice(list(copies))}.",
        )


def _is_linear(columns: ColumnStatistics, first: int, second: int) -> bool:
    """Whether a column is a linear function of another in every row, up to rounding."""
    x, y = columns.values_of(first), columns.values_of(second)
    rounding = torch.finfo(columns.dataset.train.dtype).eps
    x0, y0 = x - x.mean(), y - y.mean()
    slope = (x0 @ y0) / (x0 @ x0)
    tolerance = 4 * rounding * (np.abs(y).max() + abs(slope) * np.abs(x).max())
    return bool((np.abs(y0 - slope * x0) <= tolerance).all())


# ---- units ------------------------------------------------------------------------------------


def _scales(columns: ColumnStatistics) -> Iterator[Finding]:
    dataset = columns.dataset
    if dataset.support != "real":
        return
    spread = np.where(columns.constant, 0, columns.spread)
    varying = spread[spread > 0]
    if dataset.scale == "none" and len(varying) > 1:
        low, high = varying.min(), varying.max()
        if high > _SPREAD_RATIO * low:
            names = [columns.name(int((spread == s).argmax())) for s in (high, low)]
            yield Finding(
                "scales",
                f"columns have very different spreads, from {low:.3g} ({names[1]}) to {high:.3g} "
                f"({names[0]}), and are not scaled: choose --data.scale standard.",
            )
    if dataset.units.double:
        low, high = columns.extremes
        rounding = torch.finfo(torch.float32).eps * np.maximum(np.abs(low), np.abs(high))
        fine = (rounding > 1e-3 * columns.sample.std(1)) & ~columns.constant
        if fine.any():
            yield Finding(
                "float64",
                f"{columns.names(fine.nonzero()[0])} would lose differences in float32: the data "
                "are kept in float64.",
            )


def _masks(columns: ColumnStatistics) -> Iterator[Finding]:
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
    remedy = "choose a likelihood of binary data (--likelihood bernoulli), or " if full else ""
    yield Finding(
        "mask",
        f"the only values are {format_number(low)} and {format_number(high)}, two of "
        f"{dataset.levels} levels: they are binary, and --data.levels 2 does not fit them; "
        f"{remedy}save x == {format_number(high)} as booleans.",
    )


def grey_levels(columns: ColumnStatistics) -> Iterator[Finding]:
    """Find images of 0 to 255 with fractions."""
    dataset = columns.dataset
    if dataset.support != "real" or not _may_be_images(dataset):
        return
    low, high = float(columns.extremes[0].min()), float(columns.extremes[1].max())
    if 0 <= low < 64 and 128 < high <= 255 and (columns.sample != np.rint(columns.sample)).any():
        yield Finding(
            "grey levels",
            f"the values are fractions from {format_number(low)} to {format_number(high)}, like "
            "scaled or interpolated grey levels of 0 to 255: save x / 255, which is unit data "
            "(--likelihood "
            'logit_normal), or numpy.rint(x).astype("uint8"), which is 256 levels (--likelihood '
            "discretized_logistic).",
        )


def _may_be_images(dataset: Dataset) -> bool:
    """Whether rows are images, or unnamed rows as long as square ones."""
    shape = dataset.event_shape
    if len(shape) == 3:
        return shape[0] in (1, 3, 4)
    pixels = (shape[0], shape[0] / 3) if len(shape) == 1 and not dataset.event_names else ()
    return any(64 <= n == int(n) and math.isqrt(int(n)) ** 2 == n for n in pixels)


# ---- similar rows -----------------------------------------------------------------------------


def _duplicates(columns: ColumnStatistics) -> Iterator[Finding]:
    dataset = columns.dataset
    if not dataset.is_split:
        return
    remedy = (
        "the scores of these are too good"
        if dataset.split_rule == FIXED_SPLIT
        else "split rows by group with --data.group, or leave out repeated ones"
    )
    chance = 10 * len(dataset.train) * _chance_of_equal_rows(columns)
    counts = duplicates_of_training(dataset)
    sizes = {split: len(getattr(dataset, split)) for split in counts}
    if found := [split for split, count in counts.items() if count > chance * sizes[split]]:
        listed = " and ".join(
            f"{counts[split]:,} of {sizes[split]:,} {split} {dataset.noun}s" for split in found
        )
        yield Finding("twins", f"{listed} are also in the training data: {remedy}.")
    similar = near_duplicates(dataset)
    if similar.near:
        yield Finding(
            "near twins",
            f"{similar.near} of {similar.n} test {dataset.noun}s almost equal one of the "
            f"training data: {remedy}.",
        )
    if similar.neighbours > _NEIGHBOUR_SHARE * similar.n:
        yield Finding(
            "neighbours",
            f"the training {dataset.noun} most similar to a test {dataset.noun} is next to it in "
            f"the data for {similar.neighbours} of {similar.n} test {dataset.noun}s, as in a "
            "video or a series: test scores are too good unless contiguous parts stay together "
            "with --data.group.",
        )


def _chance_of_equal_rows(columns: ColumnStatistics) -> float:
    """The probability that two rows are equal if their elements are independent."""
    x = columns.sample
    starts = np.flatnonzero(np.diff(x, axis=1, prepend=np.nan) != 0)
    lengths = np.diff(starts, append=x.size).astype(np.float64)
    squares = np.bincount(starts // x.shape[1], lengths**2)
    # The elements of a channel vary independently.
    elements = columns.dataset.train[:1].numel() // len(x)
    return float(np.exp(elements * np.log(squares / x.shape[1] ** 2).sum()))
