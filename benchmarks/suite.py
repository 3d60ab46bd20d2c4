"""What suites share: what a person chose, and what a suite gives."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Plain values, as they are stored: `tables`, `targets`, and the numbers behind them.
Result = dict[str, Any]


class Skipped(RuntimeError):
    """A suite cannot run on this machine, and says so in a line."""


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Options:
    """What a person chose.

    Args:
        rounds: The number of times that everything is measured.
        ways: The ways of a suite that compares ways; its own if None.
        images: The number of images of a suite that extrapolates from a few.
        data: The set of images.
        data_root: The folder of data sets; the default one if None.
        threads: The number of cores to use.
        say: Called with a line on how far it is.
    """

    rounds: int = 5
    ways: tuple[str, ...] | None = None
    images: int = 300
    data: str = "mnist"
    data_root: str | None = None
    threads: int = field(default_factory=available_cores)
    say: Callable[[str], None] = lambda line: None
