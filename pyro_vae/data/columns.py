"""Names of columns and lists of them, for messages."""

from collections.abc import Iterable, Sequence

from jaxtyping import Bool, Int
from torch import Tensor

# How many of a list a sentence names.
_NAMED = 5


def column_name(number: int, event_shape: Sequence[int], event_names: Sequence[str] = ()) -> str:
    """What an element of a row is called, or a channel of rows of several axes."""
    if event_names:
        return repr(event_names[number])
    return f"{'element' if len(event_shape) == 1 else 'channel'} {number}"


def in_words(words: Iterable[str]) -> str:
    """A list of at most five words, and how many more there are.

    >>> in_words(["a", "b"]), in_words("abcdefgh")
    ('a and b', 'a, b, c, d, e and 3 more')
    """
    words = list(words)
    if len(words) > _NAMED:
        words = [*words[:_NAMED], f"{len(words) - _NAMED} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def quoted(names: Sequence[object]) -> str:
    """The first five names in quotes, and how many more there are.

    >>> quoted(["a", "b"])
    "'a', 'b'"
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(str(name)) for name in names[:_NAMED]) + more


def counts_by_column(counts: Int[Tensor, " elements"], event_names: Sequence[str]) -> str:
    """The first five columns with a count above 0, with their counts.

    >>> import torch
    >>> counts_by_column(torch.tensor([2, 0, 1]), ["u", "v", "w"])
    "'u' in 2, 'w' in 1"
    """
    found = counts.nonzero().flatten().tolist()
    more = f" and {len(found) - _NAMED} more columns" if len(found) > _NAMED else ""
    return ", ".join(f"{event_names[c]!r} in {int(counts[c]):,}" for c in found[:_NAMED]) + more


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
    listed = in_words(
        f"{int(counts[column])} in {column_name(column, event_shape, event_names)}"
        for column in columns
    )
    first = rows[int(wrong.reshape(len(wrong), -1).any(1).int().argmax())]
    return f"{listed}, the first in row {int(first) + 1}"
