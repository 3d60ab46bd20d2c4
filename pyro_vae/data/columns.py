"""The elements of a datum in words: what messages call a column, and how they list several."""

from collections.abc import Iterable, Sequence

from jaxtyping import Bool
from torch import Tensor

# How many of a list a sentence names.
_NAMED = 5


def column_name(number: int, event_shape: Sequence[int], event_names: Sequence[str] = ()) -> str:
    """What an element of a row is called, or a channel of rows of several axes."""
    if event_names:
        return repr(event_names[number])
    return f"{'element' if len(event_shape) == 1 else 'channel'} {number}"


def some(words: Iterable[str]) -> str:
    """A list of at most five words, and how many more there are.

    >>> some(["a", "b"]), some("abcdefgh")
    ('a and b', 'a, b, c, d, e and 3 more')
    """
    words = list(words)
    if len(words) > _NAMED:
        words = [*words[:_NAMED], f"{len(words) - _NAMED} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def places(
    wrong: Bool[Tensor, " n *event"], rows: Sequence[int] | Tensor, event_names: Sequence[str] = ()
) -> str:
    """Where some values are, in words: how many in which columns, and the row of the first.

    Args:
        wrong: Which values; there must be one.
        rows: The number of each row in the data that were read.
        event_names: What element 0, 1, ... of a row is called.
    """
    event_shape = wrong.shape[1:]
    counts = wrong.reshape(len(wrong), *(event_shape[:1] or (1,)), -1).sum((0, 2))
    columns = counts.nonzero().flatten().tolist()
    listed = some(
        f"{int(counts[column])} in {column_name(column, event_shape, event_names)}"
        for column in columns
    )
    first = rows[int(wrong.reshape(len(wrong), -1).any(1).int().argmax())]
    return f"{listed}, the first in row {int(first) + 1}"
