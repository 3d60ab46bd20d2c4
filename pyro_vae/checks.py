"""Checks of options, parts and sizes, whose messages name what is allowed and what was given."""

import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from numbers import Integral
from typing import Any, get_args

from torch import nn

# Names that other libraries use.
_SYNONYMS = {"gaussian": "normal", "cnn": "conv", "learning_rate": "lr"}

# A part of a VAE: its name, its class, or a `partial` of the class with options.
Part = str | Callable[..., Any]

# Ranges of options within which float32 represents draws and their log densities.

# Below, all float32 draws of a Dirichlet are corners. Above, rounding a draw changes its log
# density by more than 0.1 nats.
CONCENTRATIONS = (1e-6, 1e6)
# Squares of a scale, and draws from heavy tails, must neither underflow nor overflow.
SCALES = (1e-8, 1e8)
RATES = (1e-20, 1e20)
# The largest draw of a Student's t, about 2^(24 / df) scales, must not overflow. Above, the
# log-gamma functions of its density cancel, and it is a normal anyway.
DEGREES_OF_FREEDOM = (0.25, 1e8)
# Below, the gradient is 0 for all but one draw in thousands.
TEMPERATURES = (1e-3, 1e3)
# Bounds on the log scale of a flow's map. The exponential of a larger one, or the reciprocal of a
# smaller one, overflows.
BOUNDS = (1e-6, 80.0)
# Scales of log z. Below, few float32 numbers are left around e^loc; the largest is e^88.
LOG_SCALES = (1e-2, 14.0)
LARGEST_LOG = 84.0
# 24-bit uniform numbers cannot produce events of probability 6e-8 or less.
PROBABILITIES = (1e-6, 1 - 1e-6)


class NoDensityError(ValueError):
    """Raised where log q(z | x) is needed and the guide is a point mass."""


def check_at_least(least: int, **options: int) -> None:
    """Check that options are at least `least`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_count(least: int, /, **options: Any) -> None:
    """Check that options are whole numbers of at least `least`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def check_nonnegative(**options: float) -> None:
    """Check that options are at least 0 and finite.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}.")


def check_positive(limits: tuple[float, float] | None = None, /, **options: float) -> None:
    """Check that options are above 0, finite and, if there are limits, within them.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}.")
    if limits is not None:
        check_range(limits, **options)


def check_range(limits: tuple[float, float], /, **options: float) -> None:
    """Check that options are within limits beyond which float32 fails.

    Raises:
        ValueError: If one is not.
    """
    low, high = limits
    for name, value in options.items():
        if not low <= value <= high:
            raise ValueError(
                f"{name} must be from {low:g} to {high:.9g}, got {value}: float32 cannot "
                "represent the draws of a value outside this range."
            )


def check_share(**options: float) -> None:
    """Check that options are from 0 to 1.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}.")


def check_choice(choices: Any, /, **options: Any) -> None:
    """Check that options are among the words of a `Literal` or a collection.

    Raises:
        ValueError: If one is not.
    """
    allowed = get_args(choices) or tuple(choices)
    for name, value in options.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


# ---- misspelled names ---------------------------------------------------------------------------


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """`did you mean NAME? ` with the names most similar to a word; empty if none is.

    >>> did_you_mean("vmap", ["standard_normal", "vamp"])
    'did you mean vamp? '
    >>> did_you_mean("gaussian", ["bernoulli", "normal", "low_rank_normal"])
    'did you mean normal? '
    >>> did_you_mean("normal", ["log_normal", "full_normal", "point"])
    'did you mean log_normal or full_normal? '
    >>> did_you_mean("xyz", ["log_normal"])
    ''
    """
    plain = {_plain(choice): choice for choice in choices}
    wanted = _plain(word)
    for name, other in _SYNONYMS.items():
        wanted = wanted.replace(name, other)
    if wanted in plain:
        return f"did you mean {plain[wanted]}? "
    close = difflib.get_close_matches(wanted, plain, n=1)
    parts = [name for name in plain if len(wanted) > 2 and wanted in name.split("_")]
    found = [plain[name] for name in parts[:3] or close]
    listed = " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
    return f"did you mean {listed}? " if found else ""


def or_meant(word: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown word: `; did you mean NAME?`, or a period.

    >>> or_meant("StandardNormal", ["vamp", "standard_normal"])
    '; did you mean standard_normal?'
    """
    meant = did_you_mean(word, [*choices])
    return f"; {meant.strip()}" if meant else "."


def _plain(name: str) -> str:
    return name.strip("-").replace("-", "_").lower()


# ---- arguments of `build` and `VAE` -------------------------------------------------------------


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
            f"{family} must be a name, a class or a partial of one, got an instance of {name}: "
            f"give the class, {name}, or partial({name}, ...) for its options."
        )
    if not callable(part):
        raise TypeError(f"{family} must be one of {', '.join(choices)}, or a class, got {part!r}.")
    return part


def class_of(part: Callable[..., Any]) -> Any:
    """The class of a part or of a `partial` of it."""
    return part.func if isinstance(part, partial) else part


def support_of(part: Any, family: str, supports: Iterable[str] = ()) -> str:
    """The support that a part or its class declares, one of `supports` if there are any.

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
            "event_shape must be the shape of one example, such as (30,) for a table of 30 "
            f"columns or (1, 28, 28) for grey images, got {got}."
        )
    if not isinstance(latent_dim, Integral):
        raise ValueError(f"latent_dim must be a whole number, got {latent_dim!r}.")  # noqa: TRY004
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    return shape, int(latent_dim)
