"""Names of models in titles, beside axes and in sentences."""

import textwrap
from collections.abc import Sequence

# So many names are listed in a sentence; the others are counted.
_MOST_NAMES = 4


def shortened(name: str, most: int = 28) -> str:
    """A name that fits beside an axis: its middle is left out if it is long."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def wrapped(title: str) -> str:
    """A title in lines that fit on a sheet of 10 inches."""
    return textwrap.fill(title, 95)


def listed(words: Sequence[str]) -> str:
    """Names as a sentence lists them: the first few, and how many others there are."""
    if len(words) > _MOST_NAMES + 1:
        words = [*words[:_MOST_NAMES], f"{len(words) - _MOST_NAMES} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
