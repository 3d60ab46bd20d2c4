"""The arguments of a model and guide, and some of the data in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# Draws x data x elements of a datum held at once, where no size of a block is given.
MAX_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Arguments:
    """What a model and its guide are called with.

    Args:
        args: By position.
        kwargs: By name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def size(self) -> int | None:
        """The length of the first argument that is a tensor or an array; None if none is."""
        first = self._first()
        return None if first is None else len(first)

    def rows(self, rows: slice) -> "Arguments":
        """Some rows of every tensor and array that is as long as the first; the rest as it is."""
        size = self.size

        def some(value: Any) -> Any:
            return value[rows] if _is_array(value) and len(value) == size else value

        return Arguments(
            tuple(map(some, self.args)), {name: some(v) for name, v in self.kwargs.items()}
        )

    def block_size(self, num_draws: int) -> int:
        """How many data with their draws are held at once."""
        first = self._first()
        elements = 1 if first is None else int(np.prod(first.shape[1:]))
        return max(1, MAX_ELEMENTS // max(1, num_draws * elements))

    def _first(self) -> Any:
        return next(filter(_is_array, (*self.args, *self.kwargs.values())), None)


def blocks(size: int, first: int, block_size: int) -> Iterator[slice]:
    """The rows to be stored, so that their draws do not depend on the size of a block; the rest."""
    yield slice(0, min(first, size))
    for start in range(first, size, block_size):
        yield slice(start, min(start + block_size, size))


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0
