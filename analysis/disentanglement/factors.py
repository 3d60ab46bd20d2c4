"""Factors of data as class numbers, and the data that share a value of one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analysis.check import UndefinedCheckError


@dataclass(frozen=True)
class Factors:
    """The factors that vary in the data, their values numbered anew from 0 without gaps.

    Args:
        values: A row of numbers for each datum.
        sizes: The number of values of each factor that occur, at least 2.
        names: What each is called.
        left_out: The names of those with a single value in the data, which no code can follow.
    """

    values: Int[np.ndarray, "n factors"]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Factors":
        """Those of some data, numbered as before."""
        return Factors(self.values[rows], self.sizes, self.names, self.left_out)


def varying(factors: Int[np.ndarray, "n factors"], names: Sequence[str] = ()) -> Factors:
    """The factors with two values or more in the data.

    Args:
        factors: Class numbers, or any integers: each value is a class of its own.
        names: What the factors are called; by default factor 0, 1, ...

    Raises:
        ValueError: If there are names, but not one for each factor.
        UndefinedCheckError: If no factor varies.
    """
    count = factors.shape[1]
    if names and len(names) != count:
        raise ValueError(f"each of {count} factors needs a name, got {len(names)} names.")
    called = tuple(names) or tuple(f"factor {index}" for index in range(count))
    columns, sizes, kept, left_out = [], [], [], []
    for name, column in zip(called, factors.T, strict=True):
        found, numbers = np.unique(column, return_inverse=True)
        if len(found) < 2:
            left_out.append(name)
            continue
        columns.append(numbers)
        sizes.append(len(found))
        kept.append(name)
    if not kept:
        raise UndefinedCheckError("no factor has two values in the data.")
    return Factors(
        np.stack(columns, 1).astype(np.int64), tuple(sizes), tuple(kept), tuple(left_out)
    )


def check(codes: Float[np.ndarray, "n dim"], factors: Factors, least: int = 1) -> None:
    """Refuse codes that are not finite, too few, or not of the same data.

    Args:
        codes: A row for each datum.
        factors: Of the same data.
        least: The fewest coordinates that the score is defined for.

    Raises:
        ValueError: If the numbers of data differ or a code is not finite.
        UndefinedCheckError: If there are fewer coordinates.
    """
    if len(codes) != len(factors):
        raise ValueError(
            f"each datum needs a code and factors, got {len(codes)} codes and {len(factors)} rows "
            "of factors."
        )
    if not np.isfinite(codes).all():
        rows = (~np.isfinite(codes).all(1)).sum()
        raise ValueError(f"codes must be finite, got {rows} rows that are not.")
    if codes.shape[1] < least:
        raise UndefinedCheckError(
            f"this takes codes of at least {least} coordinates, got {codes.shape[1]}."
        )


def halves(n: int, seed: int) -> tuple[Int[np.ndarray, " half"], Int[np.ndarray, " rest"]]:
    """Rows to fit on and rows to be judged by, at random."""
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]


def gaps(matrix: Float[np.ndarray, "dim factors"]) -> Float[np.ndarray, " factors"]:
    """By how much the best coordinate for each factor is better than the second best.

    Raises:
        UndefinedCheckError: If there is one coordinate only.
    """
    if len(matrix) < 2:
        raise UndefinedCheckError("a gap takes codes of at least 2 coordinates, got 1.")
    second, first = np.sort(matrix, axis=0)[-2:]
    return first - second


class SharedValues:
    """Rows by their value of one factor, for draws of data that share it.

    Args:
        values: The number of each row's value.
        rows: The rows to draw from.
        least: Values that fewer of these rows have are not drawn.
    """

    def __init__(
        self, values: Int[np.ndarray, " n"], rows: Int[np.ndarray, " rows"], least: int
    ) -> None:
        counts = np.bincount(values[rows])
        rows = rows[counts[values[rows]] >= least]
        self.rows = rows[np.argsort(values[rows], kind="stable")]
        mine = values[self.rows]
        # Where the rows of the same value begin, and how many there are, for each row.
        self.start = np.searchsorted(mine, mine, side="left")
        self.count = np.searchsorted(mine, mine, side="right") - self.start

    def __len__(self) -> int:
        return len(self.rows)

    def group(self, size: int, rng: np.random.Generator) -> Int[np.ndarray, " size"]:
        """Different rows with the value of one that is drawn at random."""
        first = rng.integers(len(self.rows))
        chosen = rng.choice(self.count[first], size, replace=False)
        return self.rows[self.start[first] + chosen]

    def pairs(self, size: int, rng: np.random.Generator) -> Int[np.ndarray, "2 size"]:
        """Rows drawn at random, each with another one of its value."""
        first = rng.integers(len(self.rows), size=size)
        start, count = self.start[first], self.count[first]
        # Never the row itself: a step of 1 to count - 1 around the rows of that value.
        second = start + (first - start + rng.integers(1, count)) % count
        return np.stack([self.rows[first], self.rows[second]])
