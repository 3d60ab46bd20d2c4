"""What is found in the values of a data set before a model is trained on them."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pyro_vae.data.columns import column_name, some
from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.fill_values import fill_values, may_be_fill_value
from pyro_vae.data.twins import Likeness, exact_twins

Judgement = Literal["refuse", "warn", "none"]

# Statistics are taken from so many values, of rows spread evenly over the splits.
_SAMPLED_VALUES = 1_000_000
_SAMPLED_ROWS = 10_000
# Rows that are not in memory are read in blocks, from so many places.
_PLACES = 8
# Columns of a wider table are not compared with one another.
_COMPARED_COLUMNS = 500
# A column with one value in more rows than this is nearly constant, or has an atom.
_NEARLY_ALL, _MANY = 0.99, 0.15
# A column with at most so many values is coarse, and a channel that has so many in many more pixels.
_FEW, _FEW_LEVELS = 10, 256
# The rounding of values to multiples of a unit is coarse where its standard deviation is more than
# this share of the column's, and where the unit is less than that, it explains no repeated value.
_COARSE, _FINE = 0.1, 0.05
# Spreads of columns may differ by this factor before networks need scaled data.
_DIFFERENT = 100.0
# Values so many interquartile ranges from a column's others are outliers of any distribution.
_ABSURD = 1e6
# Test rows whose nearest training row is beside them in the file: more in videos, less in tables that
# are sorted by a class.
_BESIDE = 0.35
_LISTED = 5
_SUFFIXES_OF_TABLES = (".csv", ".tsv", ".txt", ".parquet")
_ROW_NAMES = ("id", "index", "idx", "row", "rowid", "row_id", "row_number", "rownames")


@dataclass(frozen=True)
class Finding:
    """One thing that was found in the values.

    Args:
        kind: What it is, in a word or two: "fill value", "identifier", "constant", ...
        text: A sentence that says where it is and what to do.
        refused: Whether a model of such data would be wrong.
    """

    kind: str
    text: str
    refused: bool = False

    def __str__(self) -> str:
        return self.text


def inspect(
    dataset: Dataset,
    likelihood_support: str | None = None,
    *,
    groups: Sequence | np.ndarray | None = None,
) -> tuple[Finding, ...]:
    """What there is to know of the values of all three splits, a sentence each.

    Values are looked at by column, or by channel where rows have several axes. Lowest and highest are
    those of all values; other statistics are taken from rows spread evenly over the splits where
    there are more than a million values.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood that is to be trained, if it is known.
        groups: A group for each row, where rows were split by groups.
    """
    if likelihood_support is None:
        likelihood_support = dataset.support
    columns = _Columns(dataset, likelihood_support)
    found = [finding for look in _LOOKS for finding in look(columns)]
    return tuple(found) + _groups(groups)


def check(
    dataset: Dataset,
    likelihood_support: str | None = None,
    *,
    groups: Sequence | np.ndarray | None = None,
    judgement: Judgement = "refuse",
) -> tuple[Finding, ...]:
    """What `inspect` finds.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood that is to be trained, if it is known.
        groups: A group for each row, where rows were split by groups.
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
    findings = inspect(dataset, likelihood_support, groups=groups)
    if judgement == "refuse" and (refused := [each.text for each in findings if each.refused]):
        raise ValueError(f"{dataset.name}: {' '.join(refused)}")
    return findings


@dataclass
class _Columns:
    """The values by column, or by channel.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood.
    """

    dataset: Dataset
    likelihood_support: str
    splits: list = field(init=False)

    def __post_init__(self) -> None:
        self.splits = [getattr(self.dataset, split) for split in SPLITS]

    @property
    def table(self) -> bool:
        """Whether rows have one axis, whose elements are columns."""
        return len(self.dataset.event_shape) == 1

    @property
    def continuous(self) -> bool:
        """Whether a density is trained on values as they are, which are not levels."""
        continuous = ("unit", "real")
        return self.likelihood_support in continuous and self.dataset.support in continuous

    @property
    def in_memory(self) -> bool:
        return all(isinstance(values, Tensor) for values in self.splits)

    @property
    def n(self) -> int:
        """The number of rows."""
        return sum(len(values) for values in self.splits)

    @cached_property
    def sample(self) -> Float64[np.ndarray, "columns m"]:
        """Values of rows spread evenly over the splits, in ascending order in each column."""
        width = self.dataset.train[:1].numel()
        m = min(self.n, _SAMPLED_ROWS, max(200, _SAMPLED_VALUES // width))
        parts = [_spread(values, -(-len(values) * m // self.n)) for values in self.splits]
        x = by_column(torch.cat(parts).to(torch.float64)).numpy()
        return np.sort(x, axis=1)

    @cached_property
    def extremes(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        """The lowest and the highest value of each column; those of the sample for data on the disk."""
        if not self.in_memory:
            return self.sample[:, 0], self.sample[:, -1]
        axes = (0, *range(2, 1 + len(self.dataset.event_shape)))
        lows = torch.stack([values.amin(axes) for values in self.splits]).amin(0)
        highs = torch.stack([values.amax(axes) for values in self.splits]).amax(0)
        return lows.to(torch.float64).numpy(), highs.to(torch.float64).numpy()

    @cached_property
    def spread(self) -> Float64[np.ndarray, " columns"]:
        """The interquartile range over 1.349; the standard deviation where it is 0."""
        low, high = self.quartiles
        spread = (high - low) / 1.349
        return np.where(spread > 0, spread, self.sample.std(1))

    @cached_property
    def quartiles(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        m = self.sample.shape[1]
        return self.sample[:, m // 4], self.sample[:, m - 1 - m // 4]

    @cached_property
    def distinct(self) -> Int[np.ndarray, " columns"]:
        """The number of distinct values of each column in the sample."""
        return 1 + (np.diff(self.sample, axis=1) > 0).sum(1)

    @cached_property
    def constant(self) -> Bool[np.ndarray, " columns"]:
        """Which columns never vary; none is known to of data on the disk."""
        low, high = self.extremes
        return (low == high) & self.in_memory

    def all_of(self, column: int) -> Float64[np.ndarray, " _"]:
        """All values of a column, split after split; those of the sample for data on the disk."""
        if not self.in_memory:
            return self.sample[column]
        parts = [values[:, column].flatten() for values in self.splits]
        return torch.cat(parts).to(torch.float64).numpy()

    @cached_property
    def order(self) -> np.ndarray | None:
        """What puts the rows of all splits in the order in which they were read, if it is known."""
        if not self.in_memory or set(self.dataset.rows) != set(SPLITS):
            return None
        return torch.cat([self.dataset.rows[split] for split in SPLITS]).argsort().numpy()

    def name(self, column: int) -> str:
        return column_name(column, self.dataset.event_shape, self.dataset.event_names)

    def names(self, columns: Sequence[int] | np.ndarray) -> str:
        return some([self.name(int(column)) for column in columns])

    def drop(self, columns: Sequence[int] | np.ndarray) -> str:
        """How to leave columns out, in words."""
        it = "it" if len(columns) == 1 else "them"
        names, source = self.dataset.event_names, self.dataset.source
        if not names or source is None or source.suffix.lower() not in _SUFFIXES_OF_TABLES:
            return f"leave {it} out"
        if len(columns) > _LISTED:
            return f"leave {it} out with --data.drop"
        chosen = [names[int(column)] for column in columns]
        word = chosen[0] if len(chosen) == 1 else json.dumps(chosen, ensure_ascii=False)
        return f"leave {it} out with --data.drop {shlex.quote(word)}"


def by_column(values: Tensor) -> Tensor:
    """`(columns, n)`, or `(channels, n * others)` of values with several axes."""
    return values.transpose(0, 1).flatten(1)


def _spread(values: Any, m: int) -> Tensor:
    """At least one of the rows and about m, spread evenly."""
    m = max(1, m)
    if isinstance(values, Tensor):
        return values[torch.linspace(0, len(values) - 1, m).long()]
    size = -(-m // _PLACES)
    starts = np.linspace(0, max(0, len(values) - size), _PLACES).astype(int)
    return torch.cat([values[start : start + size] for start in np.unique(starts).tolist()])


# ---- what is refused --------------------------------------------------------------------------


def _fill_values(columns: _Columns) -> Iterator[Finding]:
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
            f"{some(found)} {'lies' if len(found) == 1 else 'lie'} far from all other values there, as "
            "marks of missing values do: replace them, or leave out their rows or columns; --data.check "
            "warn takes them for values.",
            refused=True,
        )
    if outliers:
        yield Finding(
            "outlier",
            f"{columns.names(outliers)} {_have(outliers)} values more than a million times the spread away "
            "from the median: check them, or take logarithms.",
        )


def _unseen_fill_values(columns: _Columns) -> list[str]:
    """Marks at the ends of data on the disk that the sample misses."""
    if columns.in_memory:
        return []
    pool = columns.sample.flatten()
    extent = columns.dataset.train.extent  # pyright: ignore[reportAttributeAccessIssue]
    unseen = [value for value in (extent.low, extent.high) if not (pool == value).any()]
    marks, _ = fill_values(np.append(pool, unseen))
    return [f"{number(value)} (in the training data)" for value, _ in marks if value in unseen]


# ---- what carries nothing, or something else --------------------------------------------------


def _constants(columns: _Columns) -> Iterator[Finding]:
    # A pixel of pictures may well be constant, and is, where they come as rows without names.
    pixels = columns.table and columns.dataset.support in ("binary", "integers")
    if pixels and not columns.dataset.event_names:
        return
    constant = columns.constant.nonzero()[0]
    if len(constant):
        yield Finding(
            "constant",
            f"{columns.names(constant)} never var{'ies' if len(constant) == 1 else 'y'} and "
            f"{_verb('carr', constant, 'ies', 'y')} nothing: {columns.drop(constant)}.",
        )


def _identifiers(columns: _Columns) -> Iterator[Finding]:
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


def _copies(columns: _Columns) -> Iterator[Finding]:
    """Columns that are linear functions of another one."""
    if not columns.table or columns.dataset.support not in ("real", "unit"):
        return
    width = columns.dataset.event_shape[0]
    if not columns.in_memory or not 1 < width <= _COMPARED_COLUMNS:
        return
    m = min(len(columns.dataset.train), 500)
    x = _spread(columns.dataset.train, m).to(torch.float64).numpy()
    varies = np.flatnonzero(x.std(0) > 0)
    x = x[:, varies] - x[:, varies].mean(0)
    x /= np.linalg.norm(x, axis=0)
    alike = np.triu(np.abs(x.T @ x) > 1 - 1e-9, 1)
    copies = {}
    for first, second in varies[np.argwhere(alike)].tolist():
        if second not in copies and first not in copies and _linear(columns, first, second):
            copies[second] = first
    if copies:
        pairs = some(f"{columns.name(b)} of {columns.name(a)}" for b, a in copies.items())
        yield Finding(
            "copy",
            f"columns are linear functions of others ({pairs}) and count twice: "
            f"{columns.drop(list(copies))}.",
        )


def _linear(columns: _Columns, first: int, second: int) -> bool:
    """Whether one column is a linear function of another but for rounding, in every row."""
    x, y = columns.all_of(first), columns.all_of(second)
    rounding = torch.finfo(columns.dataset.train.dtype).eps
    x0, y0 = x - x.mean(), y - y.mean()
    slope = (x0 @ y0) / (x0 @ x0)
    tolerance = 4 * rounding * (np.abs(y).max() + abs(slope) * np.abs(x).max())
    return bool((np.abs(y0 - slope * x0) <= tolerance).all())


# ---- densities on values that repeat ----------------------------------------------------------


def _repeated_values(columns: _Columns) -> Iterator[Finding]:
    """Values on which a density can grow without bound."""
    dataset = columns.dataset
    if dataset.support == "integers" and columns.likelihood_support == "real":
        yield Finding(
            "levels",
            f"a likelihood of real data takes {dataset.levels} levels for numbers v / "
            f"{(dataset.levels or 2) - 1} as they are, on which a density grows until its scale is at "
            "the floor: choose a likelihood of integers (--likelihood discretized_logistic), or one of "
            "unit data (--likelihood logit_normal), for which they are dequantised.",
        )
    if not columns.continuous:
        return
    pool = np.unique(columns.sample)
    whole = dataset.support == "real" and pool[0] >= 0 and (pool == np.rint(pool)).all()
    if whole and not columns.constant.all():
        yield Finding(
            "whole numbers",
            f"the values are whole numbers alone, from {number(pool[0])} to {number(pool[-1])}, on which a "
            "density can grow without bound: take them for counts (--data.support counts) or for levels "
            f"(--data.levels {number(pool[-1] + 1)}), with a likelihood of such data.",
        )
        return
    if dataset.support == "unit" and (levels := _levels(pool, columns.sample.size)):
        yield Finding(
            "levels",
            f"the values are multiples of 1/{levels - 1}, on which a density can grow without bound: "
            f"give them as levels, round({levels - 1} * x) as integers with --data.levels {levels}, "
            "which are dequantised.",
        )
        return
    yield from _atoms(columns)


def _atoms(columns: _Columns) -> Iterator[Finding]:
    """Columns with one value in many rows, and with few or coarse values."""
    x, floors = columns.sample, _floors(columns)
    m = x.shape[1]
    few = _FEW if columns.table else _FEW_LEVELS
    coarse = ~columns.constant & (m >= 5 * columns.distinct) & (columns.distinct <= few)
    step = max(1, int(_MANY * m))
    atom = ~columns.constant & (x[:, step:] == x[:, :-step]).any(1)
    nearly, many, values = [], [], []
    for column in (atom | coarse).nonzero()[0].tolist():
        common, counts = np.unique(x[column], return_counts=True)
        mode = common[counts.argmax()]
        second, share = (np.append(0, np.sort(counts)) / m)[-2:]
        words = f"{number(mode)} in {100 * share:.0f} % of {columns.name(column)}"
        if columns.table and share > _NEARLY_ALL:
            nearly.append((column, words.replace("100 %", "almost all")))
        elif coarse[column]:
            values.append((column, f"{columns.distinct[column]} in {columns.name(column)}"))
        elif share > 3 * second or np.diff(common).min() < _FINE * columns.sample[column].std():
            many.append((column, words))
    rounded = ~columns.constant & (floors > _COARSE * columns.spread)
    rounded[[column for column, _ in (*nearly, *many, *values)]] = False
    if nearly:
        yield Finding(
            "nearly constant",
            f"one value is nearly the only one: {some(words for _, words in nearly)}: "
            f"{columns.drop([column for column, _ in nearly])}.",
        )
    for kind, what, where in (
        ("repeated value", "one value is repeated exactly", many),
        ("few values", "a column has few distinct values", values),
        (
            "rounded",
            "values are rounded coarsely",
            [(column, columns.name(column)) for column in rounded.nonzero()[0].tolist()],
        ),
    ):
        if not where:
            continue
        numbers = [column for column, _ in where]
        lowest = floors[numbers].min()
        bound = f" (at least {lowest:.3g} there)" if lowest > 0 else ""
        logit = "--likelihood logit_normal " if columns.dataset.support == "unit" else ""
        yield Finding(
            kind,
            f"{what} ({some(words for _, words in where)}), on which a density grows until its scale is "
            f"at the floor{bound}: {columns.drop(numbers)}, or keep the scale with "
            f"{logit}--likelihood.scale fixed.",
        )


def _floors(columns: _Columns) -> Float64[np.ndarray, " columns"]:
    """The floor that the data's resolution puts under the scale of each column, in its own units."""
    if columns.dataset.support != "real":
        return np.zeros(len(columns.sample))
    units = columns.dataset.units
    return (units.floor * units.spread).flatten().numpy()


def _levels(distinct: Float64[np.ndarray, " _"], n: int) -> int | None:
    """The number of levels whose multiples all values are, if there is one."""
    if not 3 <= len(distinct) < min(n / 5, 2**16):
        return None
    top = round(1 / np.diff(distinct).min())
    multiples = distinct * top
    # float32 moves each by less than this.
    whole = np.abs(multiples - np.rint(multiples)) < 1e-6 * top + 1e-9
    return top + 1 if 2 <= top < 2**16 and whole.all() else None


# ---- units ------------------------------------------------------------------------------------


def _scales(columns: _Columns) -> Iterator[Finding]:
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
        yield Finding(
            "float64",
            f"{columns.names(fine.nonzero()[0])} would lose differences in float32: the data are kept in "
            "float64.",
        )


def _masks(columns: _Columns) -> Iterator[Finding]:
    dataset = columns.dataset
    if dataset.support != "integers" or dataset.levels == 2:
        return
    if (columns.distinct > 2).any() or not columns.in_memory:
        return
    low, high = float(columns.extremes[0].min()), float(columns.extremes[1].max())
    if not all(((x == low) | (x == high)).all() for x in columns.splits):
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


# ---- rows that are alike ----------------------------------------------------------------------


def _twins(columns: _Columns) -> Iterator[Finding]:
    dataset = columns.dataset
    way = "split rows by group with --data.group, or leave out repeated ones"
    counts = {} if _likely_twins(columns) else exact_twins(dataset)
    if found := [split for split, count in counts.items() if count]:
        listed = " and ".join(
            f"{counts[split]} of {len(getattr(dataset, split))} {split} rows" for split in found
        )
        yield Finding("twins", f"{listed} are also in the training data: {way}.")
    alike = Likeness.of(dataset)
    if alike.near:
        yield Finding(
            "near twins",
            f"{alike.near} of {alike.n} test rows are almost equal to a row of the training data: "
            f"{way}.",
        )
    if alike.beside > _BESIDE * alike.n:
        yield Finding(
            "neighbours",
            f"the training row most like a test row is next to it in the data for {alike.beside} of "
            f"{alike.n} test rows, as in a video or a series: test scores are too good unless whole "
            "stretches of rows are kept together with --data.group.",
        )


def _likely_twins(columns: _Columns) -> bool:
    """Whether rows are alike by chance, as there are few rows that are possible."""
    # The elements of a channel vary on their own.
    elements = columns.dataset.train[:1].numel() // len(columns.distinct)
    return bool(elements * np.log(columns.distinct).sum() < np.log(10 * columns.n))


def _groups(groups: Sequence | np.ndarray | None) -> tuple[Finding, ...]:
    if groups is None or len(np.unique(np.asarray(groups))) < len(groups):
        return ()
    return (
        Finding(
            "groups",
            f"each of the {len(groups)} rows is a group of its own, so that groups change nothing: choose "
            "a column that rows share for --data.group.",
        ),
    )


def number(value: float) -> str:
    """A number in words that lose nothing of whole ones below 1e15."""
    whole = abs(value) < 1e15 and value == round(value)
    return f"{value:.0f}" if whole else f"{value:.6g}"


def _have(columns: Sequence) -> str:
    return "has" if len(columns) == 1 else "have"


def _verb(stem: str, columns: Sequence | np.ndarray, one: str, several: str) -> str:
    return stem + (one if len(columns) == 1 else several)


def _names_rows(names: Sequence[str], column: int) -> bool:
    if not names:
        return False
    name = names[column].strip().lower()
    return name in _ROW_NAMES or name.startswith("unnamed") or name.endswith("_id")


_LOOKS: tuple[Callable[[_Columns], Iterator[Finding]], ...] = (
    _fill_values,
    _identifiers,
    _constants,
    _copies,
    _repeated_values,
    _scales,
    _masks,
    _twins,
)
