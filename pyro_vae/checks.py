"""Checks of options: their messages name the option, what is allowed and what was given."""

import math
from typing import Any, get_args

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


def check_at_least(least: int, **options: int) -> None:
    """Check that options are at least `least`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


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
