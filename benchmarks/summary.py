"""Medians, spreads and ratios of times measured in rounds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median and what lies around it.

    Args:
        median: The median.
        lowest: The lowest value.
        highest: The highest.
    """

    median: float
    lowest: float
    highest: float


def spread(values: Sequence[float]) -> Spread | None:
    """The median and the range of some values; None of none.

    >>> spread([3.0, 1.0, 2.0, 10.0])
    Spread(median=2.5, lowest=1.0, highest=10.0)
    """
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[float], others: Sequence[float]) -> Spread | None:
    """values / others within each round, then their median and range; None without a round of both.

    A slow round slows both, so this is steadier than a ratio of medians.

    >>> ratio([1.0, 4.0, 3.0], [2.0, 4.0, 4.0]).median
    0.75
    """
    return spread([value / other for value, other in zip(values, others, strict=False)])
