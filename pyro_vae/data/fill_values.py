"""Detection of numbers that mark missing values: -9999, 1e20, 9.96921e36."""

import numpy as np
from jaxtyping import Bool, Float64

_NINES = [99, 99.9, 99.99, 999, 999.9, 999.99, 9999, 9999.9, 99999, 999999, 9999999, 99999999]
# NetCDF's default, and the ends of types, to which casts of NaN and of larger numbers lead.
_ENDS = [9.969209968386869e36, float(np.finfo(np.float32).max)]
_LOWEST = [-(2.0**63), -(2.0**31), -(2.0**31) + 1, -(2.0**15), -(2.0**15) + 1]
_HIGHEST = [2.0**63, 2.0**32 - 1, 2.0**31 - 1, 2.0**16 - 1, 2.0**15 - 1]
_MARKS = np.sort(
    [
        *(-mark for mark in [*_NINES, 777, 888, 7777, 8888, *_ENDS]),
        *(mark for mark in [*_NINES, *_ENDS] if mark >= 999),
        *(sign * 10.0**power for sign in (-1, 1) for power in range(10, 39)),
        *_LOWEST,
        *_HIGHEST,
    ]
)
# float32 moves a mark by less.
_ROUNDING = 1e-6
# No unit makes values of nature reach this by chance.
_LARGE = 1e9
# A repeated value so many spreads away from all others is a mark, too.
_ABSURD = 1e6
_FEWEST = 10


def may_be_fill_value(values: Float64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each value is a customary mark of missing values."""
    place = np.searchsorted(_MARKS, values)
    near = [_MARKS[np.clip(place + k, 0, len(_MARKS) - 1)] for k in (-1, 0)]
    return np.any([np.abs(values - mark) <= _ROUNDING * np.abs(mark) for mark in near], axis=0)


def fill_values(
    values: Float64[np.ndarray, " n"], *, whole: bool = False
) -> tuple[list[tuple[float, int]], Float64[np.ndarray, " m"]]:
    """The marks of missing values in a column: extreme values, far from all others.

    Args:
        values: The column.
        whole: Whether it holds counts or levels, whose highest may be far from the others by chance.

    Returns:
        Each mark and how often it is there, and the other values.
    """
    found = []
    rest = values
    while True:
        for extreme in (rest.max(), rest.min()):
            others = rest[rest != extreme]
            count = len(rest) - len(others)
            if len(others) >= _FEWEST and _is_mark(extreme, count, others, whole):
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
        # Nothing else is negative.
        return bool(abs(value) >= 999 or (count > 1 and gap > 5 * spread))
    # A single positive one may be the tail's.
    far = gap > span * (1 if count > 1 or value < 0 else 2) and gap > 10 * spread
    if value > 0 and span == 0:
        return False
    return bool(far and (value < 0 or not whole or count > 1))
