"""Checks of the arguments of `build` and `VAE`: parts and sizes."""

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Integral
from typing import Any

from torch import nn

from pyro_vae.suggestions import or_meant

# A part of a VAE: its name, its class, or a `partial` of the class with options.
Part = str | Callable[..., Any]


def named_part(family: str, part: Part, choices: Mapping[str, Any]) -> Callable[..., Any]:
    """Resolve a part to a class or a `partial` of one.

    Args:
        family: The family, for messages: prior, likelihood, ...
        part: A name, a class, or a `partial` of the class with options.
        choices: The classes by name.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of these.
    """
    if isinstance(part, str):
        if part in choices:
            return choices[part]
        raise ValueError(
            f"{family} must be one of {', '.join(choices)}, got {part!r}{or_meant(part, choices)}"
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
    """The class of a part or of a `partial` of it."""
    return part.func if isinstance(part, partial) else part


def support_of(part: Any, family: str, supports: Iterable[str] = ()) -> str:
    """The support that a part or its class declares.

    Args:
        part: The part.
        family: The family, for messages.
        supports: The allowed supports; empty for any.

    Raises:
        ValueError: If it declares none, or one that is not allowed.
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


def check_parts(**parts: Any) -> None:
    """Make sure that the parts of a VAE are modules that declare a support.

    Raises:
        TypeError: If one is not a module.
        ValueError: If one declares no support.
    """
    for family, part in parts.items():
        if not isinstance(part, nn.Module):
            raise TypeError(
                f"{family} must be a module, got {part!r}: `build` takes names and classes."
            )
        support_of(part, family)


def checked_sizes(event_shape: Any, latent_dim: Any) -> tuple[tuple[int, ...], int]:
    """Check an event shape and a latent dimension, and convert them to integers.

    Raises:
        ValueError: If they are not positive integers.
    """
    try:
        shape = tuple(map(operator.index, event_shape))
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        data = getattr(event_shape, "shape", None)
        got = (
            repr(event_shape) if data is None else f"data of shape {tuple(data)}: give x.shape[1:]"
        )
        raise ValueError(
            "event_shape must be the shape of one example, such as (30,) for a table of 30 columns or "
            f"(1, 28, 28) for grey images, got {got}."
        )
    if not isinstance(latent_dim, Integral):
        raise ValueError(f"latent_dim must be a whole number, got {latent_dim!r}.")  # noqa: TRY004
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    return shape, int(latent_dim)
