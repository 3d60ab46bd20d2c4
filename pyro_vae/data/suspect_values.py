"""Suspect values in columns: marks of missing values, and repeated values."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.nouns import column_name, join_words
from pyro_vae.data.validation import ValueRange

# Size of the sample for statistics, from evenly spaced rows of all splits.
_SAMPLE_VALUES, _MAX_SAMPLE_ROWS, _MIN_SAMPLE_ROWS = 1_000_000, 10_000, 200
# Number of blocks in which rows that are not in memory are read.
_SAMPLE_BLOCKS = 8
# Number of columns named in a command.
_NAMED = 5
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")

# Customary marks of missing values. NetCDF's default and the limits of types, to which casts of
# NaN and of larger numbers lead, are among them.
_NINES = [99, 99.9, 99.99, 999, 999.9, 999.99, 9999, 9999.9, 99999, 999999, 9999999, 99999999]
_FLOAT_LIMITS = [9.969209968386869e36, float(np.finfo(np.float32).max)]
_LOWEST = [-(2.0**63), -(2.0**31), -(2.0**31) + 1, -(2.0**15), -(2.0**15) + 1]
_HIGHEST = [2.0**63, 2.0**32 - 1, 2.0**31 - 1, 2.0**16 - 1, 2.0**15 - 1]
_MARKS = np.sort(
    [
        *(-mark for mark in [*_NINES, 777, 888, 7777, 8888, *_FLOAT_LIMITS]),
        *(mark for mark in [*_NINES, *_FLOAT_LIMITS] if mark >= 999),
        *(sign * 10.0**power for sign in (-1, 1) for power in range(10, 39)),
        *_LOWEST,
        *_HIGHEST,
    ]
)
# float32 moves a mark by less.
_ROUNDING = 1e-6
# Measurements in common units do not reach this.
_LARGE = 1e9
# Values this many interquartile ranges from a column's others are outliers of any distribution; if
# they are repeated, they are marks.
_ABSURD = 1e6
_MIN_OTHERS = 10

# A column with one value in more rows than the first share is nearly constant; in more than the
# second, it has an atom.
_NEARLY_ALL, _MANY, _MIN_REPEATS = 0.99, 0.15, 5
# A larger share of unit data at 0 and 1 is not due to rounding.
_ENDS = 0.01
# Maximum number of distinct values of a coarse column, and of a coarse channel.
_FEW, _FEW_LEVELS = 10, 256
# Rounding is coarse if its standard deviation exceeds this share of the column's spread. A unit
# below the second share does not explain a repeated value.
_COARSE, _FINE = 0.1, 0.05


@dataclass(frozen=True)
class Finding:
    """A property of the values that the user should know.

    Args:
        kind: A word or two: "fill value", "identifier", "constant", ...
        text: A sentence that says where it is and what to do.
        refused: Whether a model of such data would be wrong.
    """

    kind: str
    text: str
    refused: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass
class ColumnStatistics:
    """Statistics of the values by column, or by channel.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood.
    """

    dataset: Dataset
    likelihood_support: str
    splits: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # Data that are not split are the same in each split.
        names = SPLITS if self.dataset.is_split else SPLITS[:1]
        self.splits = {name: getattr(self.dataset, name) for name in names}

    @property
    def is_table(self) -> bool:
        """Whether rows have one axis, whose elements are columns."""
        return len(self.dataset.event_shape) == 1

    @property
    def continuous(self) -> bool:
        """Whether a density is trained on continuous values."""
        continuous = ("unit", "real")
        return self.likelihood_support in continuous and self.dataset.support in continuous

    @property
    def in_memory(self) -> bool:
        """Whether all splits are dense and in memory."""
        return all(isinstance(values, Tensor) for values in self.splits.values())

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(len(values) for values in self.splits.values())

    @cached_property
    def sample(self) -> Float64[np.ndarray, "columns m"]:
        """Values of evenly spaced rows of all splits, ascending in each column."""
        width = self.dataset.train[:1].numel()
        m = min(self.n, _MAX_SAMPLE_ROWS, max(_MIN_SAMPLE_ROWS, _SAMPLE_VALUES // width))
        parts = [
            evenly_spaced_rows(values, -(-len(values) * m // self.n))
            for values in self.splits.values()
        ]
        x = torch.cat(parts).to(torch.float64).transpose(0, 1).flatten(1)
        x = np.sort(x.numpy(), axis=1)
        if self.dataset.missing:
            # NaN comes last: repeat each column's observed values evenly to its length.
            known = (~np.isnan(x)).sum(1, keepdims=True)
            index = np.arange(x.shape[1]) * known // x.shape[1]
            x = np.nan_to_num(np.take_along_axis(x, index, 1))
        return x

    @cached_property
    def extremes(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        """The minimum and maximum of each column; of the sample if not in memory."""
        if not self.in_memory:
            return self.sample[:, 0], self.sample[:, -1]
        axes = (0, *range(2, 1 + len(self.dataset.event_shape)))

        def without_gaps(values: Tensor, fill: float) -> Tensor:
            return values.nan_to_num(fill) if self.dataset.missing else values

        splits = self.splits.values()
        lows = torch.stack([without_gaps(x, torch.inf).amin(axes) for x in splits]).amin(0)
        highs = torch.stack([without_gaps(x, -torch.inf).amax(axes) for x in splits]).amax(0)
        return lows.to(torch.float64).numpy(), highs.to(torch.float64).numpy()

    @cached_property
    def quartiles(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        """The first and third quartile of each column in the sample."""
        m = self.sample.shape[1]
        return self.sample[:, m // 4], self.sample[:, m - 1 - m // 4]

    @cached_property
    def spread(self) -> Float64[np.ndarray, " columns"]:
        """The interquartile range / 1.349; the standard deviation where it is 0."""
        low, high = self.quartiles
        spread = (high - low) / 1.349
        return np.where(spread > 0, spread, self.sample.std(1))

    @cached_property
    def distinct(self) -> Int[np.ndarray, " columns"]:
        """Number of distinct values of each column in the sample."""
        return 1 + (np.diff(self.sample, axis=1) > 0).sum(1)

    @cached_property
    def constant(self) -> Bool[np.ndarray, " columns"]:
        """Which columns never vary; none if not in memory."""
        low, high = self.extremes
        return (low == high) & self.in_memory

    @cached_property
    def order(self) -> np.ndarray | None:
        """The permutation that restores the order in which rows were read, if it is known."""
        if not self.in_memory or not self.splits.keys() <= self.dataset.rows.keys():
            return None
        return torch.cat([self.dataset.rows[split] for split in self.splits]).argsort().numpy()

    def values_of(self, column: int) -> Float64[np.ndarray, " _"]:
        """The observed values of a column, split after split; of the sample if not in memory."""
        if not self.in_memory:
            return self.sample[column]
        parts = [values[:, column].flatten() for values in self.splits.values()]
        x = torch.cat(parts).to(torch.float64).numpy()
        return x[~np.isnan(x)]

    def name(self, column: int) -> str:
        """The name of a column."""
        return column_name(column, self.dataset.event_shape, self.dataset.event_names)

    def names(self, columns: Sequence[int] | np.ndarray) -> str:
        """The names of columns as a list."""
        return join_words([self.name(int(column)) for column in columns])

    def drop_advice(self, columns: Sequence[int] | np.ndarray) -> str:
        """How to leave columns out, as part of a sentence."""
        it = "it" if len(columns) == 1 else "them"
        names, source = self.dataset.event_names, self.dataset.source
        if not names or source is None or source.suffix.lower() not in _TABLE_SUFFIXES:
            return f"leave {it} out"
        if len(columns) > _NAMED:
            return f"leave {it} out with --data.drop"
        chosen = [names[int(column)] for column in columns]
        # A name may contain a comma.
        listed = len(chosen) > 1 and any("," in name for name in chosen)
        word = json.dumps(chosen, ensure_ascii=False) if listed else ",".join(chosen)
        return f"leave {it} out with --data.drop {shlex.quote(word)}"


def evenly_spaced_rows(values: Any, m: int) -> Tensor:
    """About m evenly spaced rows, and at least one."""
    m = max(1, m)
    if isinstance(values, Tensor):
        return values[torch.linspace(0, len(values) - 1, m, dtype=torch.float64).long()]
    size = -(-m // _SAMPLE_BLOCKS)
    starts = np.linspace(0, max(0, len(values) - size), _SAMPLE_BLOCKS).astype(int)
    return torch.cat([values[start : start + size] for start in np.unique(starts).tolist()])


def format_number(value: float) -> str:
    """A number as text, exact for whole ones below 1e15."""
    whole = abs(value) < 1e15 and value == round(value)
    return f"{value:.0f}" if whole else f"{value:.6g}"


# ---- marks of missing values ------------------------------------------------------------------


def fill_value_findings(columns: ColumnStatistics) -> Iterator[Finding]:
    """Find marks of missing values, which are refused, and outliers."""
    low, high = columns.extremes
    first, third = columns.quartiles
    far = (columns.spread > 0) & (np.maximum(first - low, high - third) > _ABSURD * columns.spread)
    suspects = (may_be_fill_value(low) | may_be_fill_value(high) | far).nonzero()[0]
    found: list[str] = []
    outliers = []
    what = "row" if columns.is_table else "value"
    whole = columns.dataset.support in ("counts", "integers")
    for column in suspects.tolist():
        marks, rest = find_fill_values(columns.values_of(column), whole=whole)
        found += [
            f"{format_number(value)} ({count} {what}{'s' if count > 1 else ''} of "
            f"{columns.name(column)})"
            for value, count in marks
        ]
        if far[column] and np.abs(rest - np.median(rest)).max() > _ABSURD * columns.spread[column]:
            outliers.append(column)
    if not columns.in_memory:
        # Marks at the ends of data on disk that the sample misses.
        pool = columns.sample.flatten()
        ends = ValueRange.from_values(columns.dataset.train)
        unseen = [value for value in (ends.low, ends.high) if not (pool == value).any()]
        marks, _ = find_fill_values(np.append(pool, unseen))
        found += [
            f"{format_number(value)} (in the training data)"
            for value, _ in marks
            if value in unseen
        ]
    if found:
        yield Finding(
            "fill value",
            f"{join_words(found)} {'lies' if len(found) == 1 else 'lie'} far from all other "
            "values there, like marks of missing values: replace them, or leave out their rows "
            "or columns; --data.check warn accepts them as values.",
            refused=True,
        )
    if outliers:
        yield Finding(
            "outlier",
            f"{columns.names(outliers)} {'has' if len(outliers) == 1 else 'have'} values more "
            "than a million times the spread away from the median: check them, or take "
            "logarithms.",
        )


def may_be_fill_value(values: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each value is a customary mark of missing values."""
    place = np.searchsorted(_MARKS, values)
    near = [_MARKS[np.clip(place + k, 0, len(_MARKS) - 1)] for k in (-1, 0)]
    return np.any([np.abs(values - mark) <= _ROUNDING * np.abs(mark) for mark in near], axis=0)


def find_fill_values(
    values: Float64[np.ndarray, " n"], *, whole: bool = False
) -> tuple[list[tuple[float, int]], Float64[np.ndarray, " m"]]:
    """Find marks of missing values in a column: extreme values, far from all others.

    Args:
        values: The column.
        whole: Whether it holds counts or levels, whose maximum may be far from the others by
            chance.

    Returns:
        Each mark with its number of occurrences, and the other values.
    """
    found = []
    rest = values
    while True:
        for extreme in (rest.max(), rest.min()):
            others = rest[rest != extreme]
            count = len(rest) - len(others)
            if len(others) >= _MIN_OTHERS and _is_mark(extreme, count, others, whole):
                found.append((float(extreme), count))
                rest = others
                break
        else:
            return found, rest


def _is_mark(value: float, count: int, others: Float64[np.ndarray, " n"], whole: bool) -> bool:
    low, quarter, three_quarters, high = np.quantile(others, [0, 0.25, 0.75, 1])
    gap, span = max(value - high, low - value), high - low
    spread = (three_quarters - quarter) / 1.349 or others.std()
    if not may_be_fill_value(np.array([value]))[0]:
        return bool(count > 1 and spread > 0 and gap > _ABSURD * max(spread, span / 100))
    if abs(value) >= _LARGE:
        return bool(gap > span)
    if value < 0 <= low:
        # No other value is negative.
        return bool(abs(value) >= 999 or (count > 1 and gap > 5 * spread))
    if value > 0 and span == 0:
        return False
    # A single positive one may belong to the tail.
    far = gap > span * (1 if count > 1 or value < 0 else 2) and gap > 10 * spread
    return bool(far and (value < 0 or not whole or count > 1))


# ---- repeated values --------------------------------------------------------------------------


def repeated_value_findings(columns: ColumnStatistics) -> Iterator[Finding]:
    """Find values on which a density can grow without bound."""
    dataset = columns.dataset
    if dataset.support == "integers" and columns.likelihood_support == "real":
        yield Finding(
            "levels",
            f"a likelihood of real data treats {dataset.levels} levels as numbers v / "
            f"{(dataset.levels or 2) - 1}, on which a density grows until its scale is at the "
            "floor: choose a likelihood of integers (--likelihood discretized_logistic), or one "
            "of unit data (--likelihood logit_normal), for which they are dequantised.",
        )
    if not columns.continuous:
        return
    pool = np.unique(columns.sample)
    whole = dataset.support == "real" and 0 <= pool[0] < pool[-1] < 2**31
    if whole and (pool == np.rint(pool)).all():
        levels = f" or levels (--data.levels {format_number(pool[-1] + 1)})"
        yield Finding(
            "whole numbers",
            f"all values are whole numbers, from {format_number(pool[0])} to "
            f"{format_number(pool[-1])}, on which a density can grow without bound: declare them "
            f"as counts (--data.support counts){levels if pool[-1] < 2**16 else ''}, with a "
            "likelihood of such data.",
        )
        return
    if dataset.support == "unit" and (levels := _find_levels(pool, columns.sample.size)):
        yield Finding(
            "levels",
            f"the values are multiples of 1/{levels - 1}, on which a density can grow without "
            f"bound: give them as levels, round({levels - 1} * x) as integers with --data.levels "
            f"{levels}, which are dequantised.",
        )
        return
    found = [*_atoms(columns)]
    yield from found
    ends = float(np.isin(columns.sample, (0, 1)).mean())
    if not found and dataset.support == "unit" and ends > _ENDS:
        yield Finding(
            "ends",
            f"{100 * ends:.0f} % of the values are exactly 0 or 1, where the densities of a beta "
            "and a logit_normal are 0 or infinite: choose --likelihood continuous_bernoulli, "
            "whose density is bounded.",
        )


def _atoms(columns: ColumnStatistics) -> Iterator[Finding]:
    """Find columns with one value in many rows, and with few or coarse values."""
    x, dataset = columns.sample, columns.dataset
    floors = np.zeros(len(x))
    # Units of sequences are those of a frame, and columns are times.
    if dataset.support == "real" and dataset.noun != "sequence":
        floors = (dataset.units.floor * dataset.units.spread).flatten().numpy()
    m = x.shape[1]
    repeating = ~columns.constant & (m >= 5 * columns.distinct)
    coarse = repeating & (columns.distinct <= (_FEW if columns.is_table else _FEW_LEVELS))
    step = max(_MIN_REPEATS, int(_MANY * m))
    atom = ~columns.constant & (x[:, step:] == x[:, :-step]).any(1)
    nearly, many, few = [], [], []
    for column in (atom | coarse).nonzero()[0].tolist():
        common, counts = np.unique(x[column], return_counts=True)
        mode = common[counts.argmax()]
        second, share = (np.append(0, np.sort(counts)) / m)[-2:]
        words = f"{format_number(mode)} in {100 * share:.0f} % of {columns.name(column)}"
        if columns.is_table and share > _NEARLY_ALL:
            nearly.append((column, words.replace("100 %", "almost all")))
        elif coarse[column]:
            few.append((column, f"{columns.distinct[column]} in {columns.name(column)}"))
        elif share > 3 * second or np.diff(common).min() < _FINE * x[column].std():
            many.append((column, words))
    rounded = repeating & (floors > _COARSE * columns.spread)
    rounded[[column for column, _ in (*nearly, *many, *few)]] = False
    if nearly:
        yield Finding(
            "nearly constant",
            f"one value is almost the only one: {join_words(words for _, words in nearly)}: "
            f"{columns.drop_advice([column for column, _ in nearly])}.",
        )
    coarsely = [(column, columns.name(column)) for column in rounded.nonzero()[0].tolist()]
    for kind, what, where in (
        ("repeated value", "one value is repeated exactly", many),
        ("few values", "a column has few distinct values", few),
        ("rounded", "values are rounded coarsely", coarsely),
    ):
        if not where:
            continue
        numbers = [column for column, _ in where]
        lowest = floors[numbers].min()
        bound = f" (at least {lowest:.3g} there)" if lowest > 0 else ""
        logit = "--likelihood logit_normal " if dataset.support == "unit" else ""
        yield Finding(
            kind,
            f"{what} ({join_words(words for _, words in where)}), on which a density grows until "
            f"its scale is at the floor{bound}: {columns.drop_advice(numbers)}, or keep the "
            f"scale with {logit}--likelihood.scale fixed.",
        )


def _find_levels(distinct: Float64[np.ndarray, " _"], n: int) -> int | None:
    """The number of levels L such that all values are multiples of 1 / (L - 1), if any."""
    if not 3 <= len(distinct) < min(n / 5, 2**16):
        return None
    top = round(1 / np.diff(distinct).min())
    multiples = distinct * top
    # float32 moves each by less than this.
    whole = np.abs(multiples - np.rint(multiples)) < 1e-6 * top + 1e-9
    return top + 1 if 2 <= top < 2**16 and whole.all() else None
