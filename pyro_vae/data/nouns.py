"""What one datum is called in printed text and figures: an image, a row, a cell, a document."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NOUN: ContextVar[str] = ContextVar("noun", default="datum")


def noun() -> str:
    """What one datum is called; "datum" outside of `named`."""
    return _NOUN.get()


def a_noun() -> str:
    """The noun with its article: "an image", "a row"."""
    return f"{'an' if noun()[0] in 'aeiou' else 'a'} {noun()}"


def nouns() -> str:
    """The plural of `noun`."""
    return "data" if noun() == "datum" else f"{noun()}s"


def set_noun(name: str) -> None:
    """Name the data from here on, until the end of the block of `named` that this is in."""
    _NOUN.set(name)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Name the data in all text made within, after `Dataset.noun`.

    >>> with named("cell"):
    ...     f"nats per {noun()}, of 3 {nouns()}"
    'nats per cell, of 3 cells'
    """
    token = _NOUN.set(name)
    try:
        yield
    finally:
        _NOUN.reset(token)
