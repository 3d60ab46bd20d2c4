"""Parts by name, and what to say of a name that there is not."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`: did you mean vamp?`, or nothing if no allowed word is close.

    >>> did_you_mean("StandardNormal", ["vamp", "standard_normal"])
    ': did you mean standard_normal?'
    """
    close = difflib.get_close_matches(word.lower(), [*allowed], n=1)
    return f": did you mean {close[0]}?" if close else "."


def named_part(
    family: str, part: str | Callable[..., Any], choices: Mapping[str, Any]
) -> Callable[..., Any]:
    """A part as a class or a `partial` of one.

    Args:
        family: What the part is, for messages: prior, likelihood, ...
        part: Its name, its class, or a `partial` of the class with options.
        choices: The classes by name.

    Raises:
        ValueError: If there is no part of that name.
        TypeError: If it is none of these.
    """
    if isinstance(part, str):
        if part in choices:
            return choices[part]
        raise ValueError(
            f"{family} must be one of {', '.join(choices)}, or a class, got {part!r}"
            f"{did_you_mean(part, choices)}"
        )
    if isinstance(part, nn.Module):
        name = type(part).__name__
        raise TypeError(
            f"{family} must be a name, a class or a partial of one, got an instance of {name}: give the class, "
            f"{name}, or partial({name}, ...) for its options."
        )
    if not callable(part):
        raise TypeError(f"{family} must be one of {', '.join(choices)}, or a class, got {part!r}.")
    return part


def class_of(part: Callable[..., Any]) -> Any:
    """The class that a part or a `partial` of it builds."""
    return part.func if isinstance(part, partial) else part


def support_of(part: Any, family: str, supports: Iterable[str] = ()) -> str:
    """The support that a part, or its class, declares.

    Args:
        part: The part.
        family: What it is, for messages.
        supports: The allowed words; empty for any.

    Raises:
        ValueError: If it declares none, or another one.
    """
    support = getattr(part, "support", None)
    if support is None or (supports and support not in supports):
        name = getattr(part, "__name__", type(part).__name__)
        got = "and has none" if support is None else f"got {support!r}"
        allowed = (
            f"one of {', '.join(supports)}" if supports else "such as real, positive or simplex"
        )
        raise ValueError(
            f"the {family} {name} must declare its support, {allowed}, {got}: write "
            '`support = "real"` in the class.'
        )
    return support
