"""Names of columns and lists of them, for messages."""

from collections.abc import Iterable, Sequence

from jaxtyping import Int
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
    counts: Int[Tensor, " columns"],
    rows: Sequence[int],
    event_shape: Sequence[int],
    event_names: Sequence[str] = (),
) -> str:
    """Where some values are, in words: how many in which columns, and in which rows.

    Args:
        counts: How many there are in each column, or channel of rows of several axes.
        rows: The numbers of their rows, counted from 0, in ascending order.
        event_shape: The shape of a row.
        event_names: What element 0, 1, ... of a row is called.

    >>> import torch
    >>> places(torch.tensor([0, 2]), [3, 7], (2,), ("a", "b"))
    "2 in 'b', in rows 4 and 8"
    >>> places(torch.tensor([0, 1]), [7], (2,))
    '1 in element 1, in row 8 (rows counted from 1, elements from 0)'
    """
    listed = in_words(
        f"{int(counts[column])} in {column_name(column, event_shape, event_names)}"
        for column in counts.nonzero().flatten().tolist()
    )
    numbers = in_words(f"{row + 1}" for row in rows)
    kind = "elements" if len(event_shape) == 1 else "channels"
    counted = "" if event_names else f" (rows counted from 1, {kind} from 0)"
    return f"{listed}, in row{'s' if len(rows) > 1 else ''} {numbers}{counted}"
