"""Ranges of options within which float32 represents draws and their log densities."""

# Below, all float32 draws of a Dirichlet are corners. Above, rounding a draw changes its log density by
# more than 0.1 nats.
CONCENTRATIONS = (1e-6, 1e6)
# Squares of a scale, and draws from heavy tails, must neither underflow nor overflow.
SCALES = (1e-8, 1e8)
RATES = (1e-20, 1e20)
# The largest draw of a Student's t, about 2^(24 / df) scales, must not overflow. Above, the log-gamma
# functions of its density cancel, and it is a normal anyway.
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
