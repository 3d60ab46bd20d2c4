"""Ground-truth factors of data as class numbers, and groups of data that share a value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analysis.result import UndefinedCheckError


@dataclass(frozen=True)
class Factors:
    """The factors that vary in the data, with values renumbered from 0 without gaps.

    Args:
        values: The value of each factor, one row per data point.
        sizes: The number of distinct values of each factor, at least 2.
        names: The factors' names.
        left_out: The names of factors with a single value in the data, which no code can follow.
    """

    values: Int[np.ndarray, "n factors"]
    sizes: tuple[int, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Int[np.ndarray, " rows"]) -> "Factors":
        """Select rows, keeping the numbering."""
        return Factors(self.values[rows], self.sizes, self.names, self.left_out)


def encode_factors(factors: Int[np.ndarray, "n factors"], names: Sequence[str] = ()) -> Factors:
    """Encode the factors with at least two values; each distinct integer is a class.

    Raises:
        ValueError: If there are names, but not one for each factor.
        UndefinedCheckError: If no factor varies.
    """
    count = factors.shape[1]
    if names and len(names) != count:
        raise ValueError(f"expected one name for each of {count} factors, got {len(names)} names.")
    names = tuple(names) or tuple(f"factor {index}" for index in range(count))
    encoded = [np.unique(column, return_inverse=True) for column in factors.T]
    varies = [len(values) > 1 for values, _ in encoded]
    if not any(varies):
        raise UndefinedCheckError("no factor has two values in the data.")
    return Factors(
        np.stack([codes for (_, codes), keep in zip(encoded, varies, strict=True) if keep], 1),
        tuple(len(values) for values, _ in encoded if len(values) > 1),
        tuple(name for name, keep in zip(names, varies, strict=True) if keep),
        tuple(name for name, keep in zip(names, varies, strict=True) if not keep),
    )


def check_codes(codes: Float[np.ndarray, "n dim"], factors: Factors, least: int = 1) -> None:
    """Check that codes are finite, match the factors and have at least `least` coordinates.

    Raises:
        ValueError: If the numbers of rows differ or a code is not finite.
        UndefinedCheckError: If there are fewer coordinates.
    """
    if len(codes) != len(factors):
        raise ValueError(
            f"expected as many codes as rows of factors, got {len(codes)} codes and "
            f"{len(factors)} rows of factors."
        )
    if not np.isfinite(codes).all():
        rows = (~np.isfinite(codes).all(1)).sum()
        raise ValueError(f"codes must be finite, got {rows} rows that are not.")
    if codes.shape[1] < least:
        raise UndefinedCheckError(
            f"expected codes of at least {least} coordinates, got {codes.shape[1]}."
        )


def split_halves(n: int, seed: int) -> tuple[Int[np.ndarray, " half"], Int[np.ndarray, " rest"]]:
    """Split n rows at random into a half to fit on and a half to evaluate on."""
    order = np.random.default_rng(seed).permutation(n)
    return order[: n // 2], order[n // 2 :]


def best_gaps(matrix: Float[np.ndarray, "dim factors"]) -> Float[np.ndarray, " factors"]:
    """The difference between the best and the second-best coordinate, for each factor.

    Raises:
        UndefinedCheckError: If there is only one coordinate.
    """
    if len(matrix) < 2:
        raise UndefinedCheckError("a gap needs codes of at least 2 coordinates, got 1.")
    second, first = np.sort(matrix, axis=0)[-2:]
    return first - second


class SharedValueSampler:
    """Draw rows that share the value of one factor.

    Args:
        values: The value of each row.
        rows: The rows to draw from.
        least: Values with fewer of these rows are never drawn.
    """

    def __init__(
        self, values: Int[np.ndarray, " n"], rows: Int[np.ndarray, " rows"], least: int
    ) -> None:
        counts = np.bincount(values[rows])
        rows = rows[counts[values[rows]] >= least]
        self.rows = rows[np.argsort(values[rows], kind="stable")]
        ordered = values[self.rows]
        # For each row: the first row of the same value, and the number of rows of that value.
        self.start = np.searchsorted(ordered, ordered, side="left")
        self.count = np.searchsorted(ordered, ordered, side="right") - self.start

    def __len__(self) -> int:
        return len(self.rows)

    def group(self, size: int, rng: np.random.Generator) -> Int[np.ndarray, " size"]:
        """Draw distinct rows that share the value of a random row."""
        first = rng.integers(len(self.rows))
        return self.rows[self.start[first] + rng.choice(self.count[first], size, replace=False)]

    def pairs(self, size: int, rng: np.random.Generator) -> Int[np.ndarray, "2 size"]:
        """Draw random rows, each with a different row of the same value."""
        first = rng.integers(len(self.rows), size=size)
        start, count = self.start[first], self.count[first]
        # A step of 1 to count - 1 around the rows of that value is never the row itself.
        second = start + (first - start + rng.integers(1, count)) % count
        return np.stack([self.rows[first], self.rows[second]])
