"""The ranges of options for which draws and their log densities are float32 numbers."""

import math

# Below, all of a Dirichlet's draws are the same few corners in float32; above, rounding of a draw
# moves its log density by more than 0.1 nats.
CONCENTRATIONS = (1e-6, 1e6)
# The square of a scale, and of a draw with tails, must neither underflow nor overflow.
SCALES = (1e-8, 1e8)
RATES = (1e-20, 1e20)
# The largest draw of a t, about 2^(24 / df) scales, must not overflow; above, log-gamma functions
# cancel, and it is a normal.
DEGREES_OF_FREEDOM = (0.25, 1e8)
# A lower temperature has a gradient of 0 but for one draw in thousands.
TEMPERATURES = (1e-3, 1e3)
# Of the log scales of a flow's map: exp of a larger one, or the reciprocal of a smaller one, may be infinite.
BOUNDS = (1e-6, 80.0)
# Of log z: a narrower one leaves float32 few numbers about e^loc, and its numbers end at e^88.
LOG_SCALES = (1e-2, 14.0)
LARGEST_LOG = 84.0
# A probability that is nearer to 0 or 1 is seldom or never drawn right from uniforms of 24 bits.
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
            f"{name} must be from {low:g} to {high:.9g}, as draws beyond are no float32 numbers, "
            f"got {value}."
        )
