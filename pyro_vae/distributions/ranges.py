"""The ranges of options for which float32 holds draws and their log densities."""

import math

# Below this range all draws of a Dirichlet are corners in float32. Above it, rounding a draw changes
# its log density by more than 0.1 nats.
CONCENTRATIONS = (1e-6, 1e6)
# Squares of a scale, and draws from heavy tails, must neither underflow nor overflow.
SCALES = (1e-8, 1e8)
RATES = (1e-20, 1e20)
# The largest draw of a Student's t, about 2^(24 / df) scales, must not overflow. With more degrees of
# freedom the log-gamma functions of its density cancel; it is then a normal in any case.
DEGREES_OF_FREEDOM = (0.25, 1e8)
# At a lower temperature the gradient is 0 for all but one draw in thousands.
TEMPERATURES = (1e-3, 1e3)
# Bounds on the log scale of a flow's map. exp of a larger one, or the reciprocal of a smaller one,
# overflows.
BOUNDS = (1e-6, 80.0)
# Scales of log z. A narrower one leaves few float32 numbers around e^loc; the largest is e^88.
LOG_SCALES = (1e-2, 14.0)
LARGEST_LOG = 84.0
# Uniform numbers of 24 bits cannot draw events of probability 6e-8 and below.
PROBABILITIES = (1e-6, 1 - 1e-6)


def check_positive(name: str, value: float, limits: tuple[float, float]) -> None:
    """Check that an option is above 0, finite and within limits.

    Raises:
        ValueError: If not; it names the option and what is allowed.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}.")
    check_range(name, value, limits)


def check_range(name: str, value: float, limits: tuple[float, float]) -> None:
    """Check that an option is within limits.

    Raises:
        ValueError: If not; it names the option and what is allowed.
    """
    low, high = limits
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be from {low:g} to {high:.9g}, got {value}: float32 cannot hold the draws "
            "of a value outside this range."
        )
