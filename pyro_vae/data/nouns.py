"""Words for messages and figures: what an example is called, and lists of names."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Int
from torch import Tensor

_NOUN: ContextVar[str] = ContextVar("noun", default="datum")

# Number of names listed in a message.
_LISTED = 5


def noun() -> str:
    """What one example is called; "datum" outside of `use_noun`."""
    return _NOUN.get()


def a_noun() -> str:
    """The noun with its article: "an image", "a row"."""
    return f"{'an' if noun()[0] in 'aeiou' else 'a'} {noun()}"


def nouns() -> str:
    """The plural of `noun`."""
    return "data" if noun() == "datum" else f"{noun()}s"


def set_noun(name: str) -> None:
    """Set the noun until the end of the enclosing `use_noun` block."""
    _NOUN.set(name)


@contextmanager
def use_noun(name: str) -> Iterator[None]:
    """Use a noun, such as `Dataset.noun`, in all text produced within the block.

    >>> with use_noun("cell"):
    ...     f"nats per {noun()}, of 3 {nouns()}"
    'nats per cell, of 3 cells'
    """
    token = _NOUN.set(name)
    try:
        yield
    finally:
        _NOUN.reset(token)


def column_name(index: int, event_shape: Sequence[int], event_names: Sequence[str] = ()) -> str:
    """Name an element of a row, or a channel if rows have several axes."""
    if event_names:
        return repr(event_names[index])
    return f"{'element' if len(event_shape) == 1 else 'channel'} {index}"


def join_words(words: Iterable[str]) -> str:
    """Join up to five words into a list, followed by the number of the others.

    >>> join_words(["a", "b"]), join_words("abcdefgh")
    ('a and b', 'a, b, c, d, e and 3 more')
    """
    words = list(words)
    if len(words) > _LISTED:
        words = [*words[:_LISTED], f"{len(words) - _LISTED} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def quote_names(names: Sequence[object]) -> str:
    """Quote the first five names, followed by the number of the others.

    >>> quote_names(["a", "b"])
    "'a', 'b'"
    """
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(str(name)) for name in names[:_LISTED]) + more


def counts_by_column(counts: Int[Tensor, " elements"], event_names: Sequence[str]) -> str:
    """List the first five columns with a positive count.

    >>> import torch
    >>> counts_by_column(torch.tensor([2, 0, 1]), ["u", "v", "w"])
    "'u' in 2, 'w' in 1"
    """
    found = counts.nonzero().flatten().tolist()
    more = f" and {len(found) - _LISTED} more columns" if len(found) > _LISTED else ""
    return ", ".join(f"{event_names[c]!r} in {int(counts[c]):,}" for c in found[:_LISTED]) + more


def describe_positions(
    counts: Int[Tensor, " columns"],
    rows: Sequence[int],
    event_shape: Sequence[int],
    event_names: Sequence[str] = (),
) -> str:
    """Describe where some values are: how many in which columns, and in which rows.

    Args:
        counts: Number of values in each column, or in each channel of rows of several axes.
        rows: Indices of their rows from 0, ascending.
        event_shape: The shape of a row.
        event_names: The names of the elements of a row.

    >>> import torch
    >>> describe_positions(torch.tensor([0, 2]), [3, 7], (2,), ("a", "b"))
    "2 in 'b', in rows 4 and 8"
    >>> describe_positions(torch.tensor([0, 1]), [7], (2,))
    '1 in element 1, in row 8 (rows counted from 1, elements from 0)'
    """
    listed = join_words(
        f"{int(counts[column])} in {column_name(column, event_shape, event_names)}"
        for column in counts.nonzero().flatten().tolist()
    )
    numbers = join_words(f"{row + 1}" for row in rows)
    kind = "elements" if len(event_shape) == 1 else "channels"
    counted = "" if event_names else f" (rows counted from 1, {kind} from 0)"
    return f"{listed}, in row{'s' if len(rows) > 1 else ''} {numbers}{counted}"
